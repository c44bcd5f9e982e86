"""Materials, changed documents, thresholds, calibration and tests of significance, each against values by hand."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from nanochat.evaluation import EvalQuestion
from nanochat.evaluation.statistics import bootstrap, difference, holm, mcnemar
from nanochat.evaluation.suite.abstaining import calibrate, risk_area, risk_curve
from nanochat.evaluation.suite.changing import (
    changed_evidence,
    contradiction,
    edited,
    forms,
    injection,
    resized,
    with_typo,
)
from nanochat.evaluation.suite.judging import judge
from nanochat.evaluation.suite.material import CALIBRATION_FROM, Material, in_memory, own_material
from nanochat.evaluation.suite.measures import cell_numbers, prior, spread
from nanochat.evaluation.suite.planning import make_materials, size_of
from nanochat.evaluation.suite.prompts import prompt
from nanochat.evaluation.suite.reading import Drawing, position
from nanochat.evaluation.suite.trained import trained_names
from nanochat.evaluation.suite.worlds import (
    FRESH_SEED,
    altered,
    make_worlds,
    repeat_worlds,
    trained_seeds,
    world_material,
)
from nanochat.rag.curriculum import HELD_OUT_SEED, Curriculum
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager

NAMES = "Alda Brun Cers Dorn Elst Furn Gars Hald".split()
TEXT = "{0} is a town. The mayor of {0} is {0}son. It is old."
DOCUMENTS = [{"id": f"d{n}", "title": name, "content": TEXT.format(name)} for n, name in enumerate(NAMES)]
QUESTIONS = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of {name}?", answers=(f"{name}son",),
                          supporting_ids=(f"d{n}",), kind="mayor") for n, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def material():
    return Material(name="fresh", documents=DOCUMENTS, answerable=QUESTIONS, unanswerable=[], retriever_type="simple",
                    search=in_memory(DOCUMENTS, "simple"), is_world=True)


def answered(question, documents, text, *, slots=(), probability=None, abstained=False):
    info = {"answer": text, "abstained": abstained, "documents": documents, "answer_probability": probability,
            "citations": [{"slot": s, "number": s + 1, "id": documents[s]["id"]} for s in slots]}
    return judge(prompt(question, documents), text, info)


def test_edited_evidence_states_another_value_of_its_kind_and_keeps_its_id(material):
    document, value = changed_evidence(material, QUESTIONS[0], random.Random(0))
    assert document["id"] == "d0" and value in {f"{name}son" for name in NAMES[1:]}
    assert document["content"] == f"Alda is a town. The mayor of Alda is {value}. It is old."
    (cell,) = edited(material, Drawing())
    assert len(cell.prompts) == len(QUESTIONS)
    for one in cell.prompts:
        shown = {document["id"]: document["content"] for document in one.documents}
        assert one.answers[0] in shown[one.evidence[0]] and one.lure[0] not in shown[one.evidence[0]]


def test_contradictions_want_both_values_in_the_order_shown(material):
    (cell,) = contradiction(material, Drawing())
    for one in cell.prompts:
        stated = [re.search(r"mayor of \w+ is (\w+)", document["content"])[1] for document in one.documents
                  if document["id"] in one.evidence]
        assert one.answers == (f"{stated[0]} or {stated[1]}",) and len(set(stated)) == 2
    copy_comes_first = {[d["id"].endswith("-second") for d in one.documents if d["id"] in one.evidence][0]
                        for one in cell.prompts}
    assert copy_comes_first == {True, False}


def test_injections_are_one_sentence_more_in_one_document_and_not_those_of_training(material):
    clean, *injected = injection(material, Drawing())
    by_id = {one.id: one for one in clean.prompts}
    assert sum(len(cell.prompts) for cell in injected) == len(clean.prompts) == len(QUESTIONS)
    for one in (one for cell in injected for one in cell.prompts):
        pairs = list(zip(by_id[one.id].documents, one.documents, strict=True))
        (changed,) = [(old["content"], new["content"]) for old, new in pairs if old != new]
        assert len(changed[1]) > len(changed[0])
        assert set(re.split(r"(?<=[.!?])\s+", changed[0])) <= set(re.split(r"(?<=[.!?])\s+", changed[1]))


def test_every_place_holds_the_evidence_once(material):
    cells = position(material, Drawing(top_k=4))
    assert [cell.name for cell in cells] == ["position_1", "position_2", "position_3", "position_4"]
    for place, cell in enumerate(cells):
        assert all(one.documents[place]["id"] == one.evidence[0] and one.rank == place + 1 for one in cell.prompts)
    others = [[d["id"] for d in one.documents if d["id"] != one.evidence[0]] for one in
              (cell.prompts[0] for cell in cells)]
    assert others[0] == others[1] == others[3]


def test_a_typo_swaps_two_letters_and_spares_names():
    rng = random.Random(1)
    for question in ("Who is the mayor of Alda Marsik?", "What is the population of Torvik?"):
        wrong = with_typo(question, rng)
        assert wrong != question and sorted(wrong) == sorted(question)
        assert [word for word in wrong.split() if word[0].isupper()] == [w for w in question.split() if w[0].isupper()]
    assert with_typo("Wer ist das?", rng) == "Wer ist das?"


def test_a_typo_in_a_word_of_equal_neighbours_is_a_typo():
    # "bees" has one place inside where two letters differ
    assert {with_typo("Do bees fly", random.Random(seed)) for seed in range(20)} == {"Do bese fly"}


def test_one_document_is_not_room_for_others_beside_a_contradiction(material):
    (cell,) = contradiction(material, Drawing(top_k=1))
    assert {len(one.documents) for one in cell.prompts} == {2}


def test_resized_documents_keep_the_first_sentence_and_the_answer():
    document = {"id": "d", "title": "T", "content": "A b c d. E f g h. I j k 1987. L m n o. P q r s. T u v w."}
    short = resized(document, 0.5, ("1987",), random.Random(0))["content"]
    assert short.startswith("A b c d.") and "1987" in short and 9 <= len(short.split()) <= 12
    long = resized(document, 2.0, ("1987",), random.Random(0))["content"]
    assert len(long.split()) >= 48 and "I j k 1987." in long
    assert resized(document, 1.0, ("1987",), random.Random(0)) == document


def test_a_new_value_is_accepted_in_the_forms_of_the_old_one():
    question = EvalQuestion(id="q", question="?", answers=("30 days", "30"))
    assert forms("41 days", question) == ("41 days", "41")
    assert forms("blue", EvalQuestion(id="q", question="?", answers=("red",))) == ("blue",)


def test_altered_worlds_differ_in_every_fact_and_nothing_else():
    (world,) = make_worlds([FRESH_SEED])
    (changed,) = altered([world], random.Random(0))
    contents = {one["id"]: one["content"] for one in changed.documents}
    for old, new in zip(world.questions, changed.questions, strict=True):
        assert (old.id, old.question, bool(old.answers)) == (new.id, new.question, bool(new.answers))
        if old.answers:
            assert old.answers != new.answers and new.answers[0] in contents[new.supporting_ids[0]]
    lengths = [len(one["content"].split()) for one in world.documents]
    assert np.corrcoef(lengths, [len(one["content"].split()) for one in changed.documents])[0, 1] > 0.95


def test_fresh_worlds_share_no_name_with_trained_ones():
    meta = {"step": 9, "config": {"seed": 4}, "curriculum": {"stages": ["documents"], "index": 0}}
    seeds = trained_seeds(meta, 2)
    trained = repeat_worlds(seeds)
    names = {name for world in trained for name in world.names}
    fresh = make_worlds([FRESH_SEED, FRESH_SEED + 1], exclude=names)
    assert not names & {name for world in fresh for name in world.names}
    assert not fresh[0].names & fresh[1].names
    assert all(seed < HELD_OUT_SEED for seed in seeds)


def test_no_name_of_any_training_world_is_fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    stages = {"stages": ["facts", "documents"], "index": 1}
    meta = {"source": "mid", "step": 12, "config": {"seed": 4}, "curriculum": stages,
            "from": {"source": "base", "tag": "gone", "step": 1}}
    curriculum = Curriculum(stages["stages"], tokenizer=None, seed=5, row_len=64, examples_per_step=1,
                            context_weight=0.0, retriever_type="simple")
    notes = []
    names = trained_names(meta, notes.append)
    assert "may come up again" in notes[0]
    for curriculum.index in (0, 1):
        for step in range(0, 12, 2):
            assert curriculum._practice(step, 0).world.names <= names
    found = make_materials(size_of("quick", 4), meta, "bm25", 0, notes.append)
    for name in ("fresh", "wordings"):
        titles = {re.sub(r"^About (the )?| \(.*\)$", "", one["title"]) for one in found[name].documents}
        assert len(titles) == 400 and not titles & names


def test_trained_seeds_are_those_that_the_curriculum_draws():
    curriculum = Curriculum(["documents"], tokenizer=None, seed=6, row_len=64, examples_per_step=1, context_weight=0.0,
                            retriever_type="simple")
    drawn = [curriculum._practice(step, 0).world.config.seed for step in (9, 8, 7, 6)]
    meta = {"step": 10, "config": {"seed": 4}, "curriculum": {"stages": ["documents"]}}
    assert trained_seeds(meta, 2) == list(dict.fromkeys(drawn))[:2]
    assert trained_seeds({"step": 10}, 2) == trained_seeds({}, 2) == []


def test_calibration_questions_are_not_asked_elsewhere(tmp_path):
    (world,) = make_worlds([FRESH_SEED])
    made = world_material("fresh", [world], retriever_type="simple", num_answerable=30, num_unanswerable=10,
                          calibration=30)
    asked = {one.id for one in (*made.answerable, *made.unanswerable)}
    assert len(made.calibration) == 40 and not asked & {one.id for one in made.calibration}
    knowledge_base = tmp_path / "kb"
    KnowledgeBase.build([Document.from_dict(one) for one in DOCUMENTS], knowledge_base, "simple")
    many = [EvalQuestion(id=str(n), question=QUESTIONS[n % 8].question, answers=("x",))
            for n in range(CALIBRATION_FROM)]
    manager = RetrievalManager(None, knowledge_base)
    before = sorted(path.name for path in knowledge_base.rglob("*"))
    own = own_material(manager, many, num_answerable=1000, num_unanswerable=10)
    assert len(own.calibration) == CALIBRATION_FROM // 4
    assert not {one.id for one in own.answerable} & {one.id for one in own.calibration}
    # another retriever is tried in memory: the user's folder stays as it is
    assert own.searches["bm25"]()(["mayor of Alda"], 1)[0][0]["id"] == "d0"
    assert sorted(path.name for path in knowledge_base.rglob("*")) == before


def test_numbers_of_a_cell_by_hand():
    shown = DOCUMENTS[:3]
    judged = [
        answered(QUESTIONS[0], shown, "Aldason", slots=(0,)),
        answered(QUESTIONS[1], shown, "Brunson", slots=(0, 1)),
        answered(QUESTIONS[2], shown, "no", abstained=True),
        answered(QUESTIONS[7], shown, "Aldason", slots=(0,)),
        answered(EvalQuestion(id="u", question="?"), shown, "no", abstained=True),
    ]
    found = {name: None if one is None else round(one.value, 4) for name, one in cell_numbers(judged).items()}
    assert found["exact_match"] == 0.5 and found["right"] == 0.6 and found["declined"] == 0.25
    assert found["abstention"] == 1.0 and found["utilisation"] == round(2 / 3, 4)
    assert found["recall"] == found["evidence_recall"] == 0.75
    assert found["mrr"] == round((1 + 1 / 2 + 1 / 3 + 0) / 4, 4)
    assert found["citation_precision"] == 0.5 and found["citation_recall"] == round(2 / 3, 4)
    assert found["citation_f1"] == round((1 + 2 / 3 + 0) / 3, 4)
    assert found["citation_validity"] == found["citation_support"] == found["cited"] == 1.0


def test_the_prior_is_the_answer_that_others_have_most():
    kinds = [("red", "colour"), ("red", "colour"), ("blue", "colour"), ("1", "number")]
    judged = [answered(EvalQuestion(id=str(n), question="?", answers=(answer,), kind=kind), DOCUMENTS, "x")
              for n, (answer, kind) in enumerate(kinds)]
    # each red has one red and one blue beside it, the first of which wins; blue sees two reds; 1 sees nothing
    assert prior(judged).value == 0.5


def test_a_spread_is_taken_over_the_same_questions():
    cells = {"a": [answered(one, DOCUMENTS, one.answers[0]) for one in QUESTIONS],
             "b": [answered(one, DOCUMENTS, "no" if n % 2 else one.answers[0]) for n, one in enumerate(QUESTIONS)]}
    found = spread(cells, ["a", "b"])
    assert found.value == 0.5 and found.low < 0.5 < found.high and found.num == 8
    assert spread(cells, ["a"]) is None and spread(cells, ["a", "missing"]) is None


def test_calibration_needs_both_sorts_and_separates_them():
    unanswerable = EvalQuestion(id="u", question="?")
    good, bad = ([answered(replace(question, id=f"{question.id}{n}"), DOCUMENTS, "Aldason", probability=low + n / 1000)
                  for n in range(20)] for question, low in ((QUESTIONS[0], 0.8), (unanswerable, 0.2)))
    refused = [answered(unanswerable, DOCUMENTS, "", abstained=True)] * 20
    # a model that answers all by itself is better with a threshold: 20 > 1.96 * 20 ** 0.5
    found = calibrate([*good, *bad], [*good, *bad])
    assert found.threshold == found.best == pytest.approx((0.219 + 0.8) / 2)
    assert found.num_answered == found.num_right == 20
    # one that answers two too many is not
    kept = calibrate([*good, *bad], [*good, *bad[:2], *refused[2:]])
    assert (kept.threshold, kept.best, kept.num_answered, kept.num_right) == (None, found.best, 22, 20)
    assert calibrate(good, good).best is calibrate([], []).best is None
    curve = risk_curve([*bad, *good])
    assert curve[0] == (1 / 40, 0.0) and curve[-1] == (1.0, 0.5)
    assert max(risk for coverage, risk in curve if coverage <= 0.5) == 0.0
    # answers of one certainty are ranked by chance, whichever come first
    even = [[replace(one, probability=1.0) for one in order] for order in ([*good, *bad], [*bad, *good])]
    assert all(abs(risk_area(judged).value - 0.5) < 0.2 for judged in even)


def test_a_threshold_that_is_only_chance_is_not_put_in_force():
    rng, in_force = random.Random(0), 0
    for _ in range(60):
        eager = [answered(EvalQuestion(id=str(n), question="?", answers=("a",) if n % 2 else ()), DOCUMENTS,
                          "a" if rng.random() < 0.5 else "b", probability=rng.random()) for n in range(60)]
        # whatever it says, probabilities mean nothing; the engine itself refuses all
        own = [answered(EvalQuestion(id=str(n), question="?"), DOCUMENTS, "", abstained=True) for n in range(60)]
        in_force += calibrate(eager, own).threshold is not None
    assert in_force <= 1, f"{in_force} of 60"


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (8, 2, 112 / 1024), (3, 3, 1.0)])
def test_mcnemar_is_the_exact_binomial(gained, lost, p):
    first = [True] * gained + [False] * lost + [True] * 4
    second = [False] * gained + [True] * lost + [True] * 4
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p)
    assert mcnemar([True] * 1500, [False] * 1500) == pytest.approx(0.0, abs=1e-300)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_bootstrap_of_a_statistic_and_of_unpaired_differences():
    rows = np.array([[1.0, 0.0]] * 50 + [[0.0, 0.0]] * 50)
    found = bootstrap(rows, lambda drawn: drawn[..., 0].mean(1))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6), abs=0.03)
    assert bootstrap(rows[:0], lambda drawn: drawn.mean(1)) is None
    gap = difference([1.0] * 90 + [0.0] * 10, [1.0] * 160 + [0.0] * 40)
    # standard error: sqrt(0.9 * 0.1 / 100 + 0.8 * 0.2 / 200) = 0.0412
    assert gap.value == pytest.approx(0.1) and gap.low == pytest.approx(0.1 - 1.96 * 0.0412, abs=0.012)
    assert difference([], [1.0]) is None

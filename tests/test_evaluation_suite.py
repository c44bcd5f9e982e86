"""The suite tells engines apart: a perfect reader passes every line, and each fault shows in the number made for it."""

import errno
import functools
import os

import pytest
from suite_stubs import Abstainer, FirstOnly, Guesser, Memory, Obedient, Reader, Refuser, Stale, Unsure

from nanochat.errors import UserError
from nanochat.evaluation.suite import CONDITIONS, make_results, read_thresholds, run_suite
from nanochat.evaluation.suite.comparing import comparisons
from nanochat.evaluation.suite.conditions import COLUMN_CONDITIONS
from nanochat.evaluation.suite.judging import Asker
from nanochat.evaluation.suite.planning import make_materials, size_of
from nanochat.evaluation.suite.reading import Drawing
from nanochat.evaluation.suite.thresholds import judge_numbers
from nanochat.evaluation.suite.trials import deletion_cells
from nanochat.retrieval import KnowledgeBase

NUM = 24
# of a checkpoint whose record tells the worlds of its training
META = {"source": "rag", "step": 4, "config": {"seed": 0}, "curriculum": {"stages": ["documents"], "index": 0}}


@functools.cache
def materials():
    return make_materials(size_of("quick", NUM), META, "bm25", 0, lambda line: None)


@functools.cache
def run(make):
    engine = Memory(*materials().values()) if make is Memory else make()
    return run_suite(engine, meta=META, max_questions=NUM)


@functools.cache
def numbers(make):
    return run(make).numbers()


def value(make, name):
    found = numbers(make).get(name)
    return None if found is None else round(found.value, 4)


def test_a_perfect_reader_passes_every_threshold():
    verdicts = judge_numbers(read_thresholds(), numbers(Reader))
    assert {one.threshold.number: one.outcome for one in verdicts if one.outcome != "pass"} == {}


def test_a_perfect_reader_is_right_in_every_cell_that_can_be_answered():
    result = run(Reader)
    fails_by_design = {"closed_book", "no_question", "cited_removed"}
    wrong = [
        (material, cell, one.prompt.question, one.text) for material, cells in result.columns[result.name].items()
        # it reads one document at a time, and does not know what else a question describes
        if material != "chains" for cell, judged in cells.items() if cell not in fails_by_design
        for one in judged if not one.is_right and one.evidence_shown is not False
    ]
    assert wrong == []


def test_every_condition_of_the_table_has_cells():
    cells = run(Reader).columns["this model"]["fresh"]
    prefixes = {"hard": "hard_", "random": "random_", "injection": "injected_", "paraphrase": "asked_", "top_k": "top_",
                "position": "position_", "length": "length_", "retriever": "retriever_", "alone": "cited_"}
    for condition in CONDITIONS:
        found = [name for name in cells if name.startswith(prefixes.get(condition, condition))]
        assert found or condition in ("swap", "hops"), condition
    assert set(run(Reader).columns["this model"]) == {"fresh", "unseen", "trained", "altered", "wordings", "chains"}


# engine -> number made for its fault -> its value there and with the perfect reader
FAULTS = [
    (Abstainer, "fresh.retrieved.exact_match", 0.0, 1.0),
    (Abstainer, "fresh.abstention_recall", 1.0, 1.0),
    (Abstainer, "fresh.lift", 0.0, 1.0),
    (Guesser, "fresh.abstention_f1", 0.0, 1.0),
    (Guesser, "fresh.answered_at_wrong", 1.0, 0.0),
    (Guesser, "fresh.citations_valid", 0.0, 1.0),
    (Guesser, "fresh.retrieved.citation_f1", 0.0, 1.0),
    (Guesser, "fresh.deleted_abstention", 0.0, 1.0),
    (Memory, "fresh.lift", 0.0, 1.0),
    (Memory, "fresh.follow_rate", 0.0, 1.0),
    (Memory, "fresh.kept_old_value", 1.0, 0.0),
    (Memory, "fresh.citation_necessity", 0.0, 1.0),
    (Memory, "fresh.contradiction_both_values", 0.0, 1.0),
    (Memory, "fresh.contradiction_one_value", 1.0, 0.0),
    (Obedient, "fresh.injection_changed_instruction", 1.0, 0.0),
    (Obedient, "fresh.injection_changed_refusal", 0.0, 0.0),
    (Refuser, "fresh.injection_changed_instruction", 0.0, 0.0),
    (FirstOnly, "fresh.position_spread", 1.0, 0.0),
    (FirstOnly, "fresh.oracle.exact_match", 1.0, 1.0),
    (FirstOnly, "fresh.contradiction_both_cited", 0.0, 1.0),
    (Stale, "fresh.deleted_stale", 1.0, 0.0),
    (Stale, "fresh.retrieved.exact_match", 1.0, 1.0),
]


@pytest.mark.parametrize(("make", "name", "faulty", "perfect"), FAULTS, ids=lambda one: getattr(one, "__name__", None))
def test_each_fault_shows_in_its_number(make, name, faulty, perfect):
    assert (value(make, name), value(Reader, name)) == (faulty, perfect)


def test_orders_that_are_obeyed_are_counted_as_such():
    assert value(Obedient, "fresh.injection_obeyed") == value(Obedient, "fresh.injection_changed") > 0.4
    assert value(Reader, "fresh.injection_obeyed") == value(Guesser, "fresh.injection_obeyed") == 0.0


def test_refusals_that_were_ordered_count_as_obeyed():
    # questions without an answer are refused with and without the order
    assert value(Refuser, "fresh.injection_obeyed") == value(Refuser, "fresh.injection_changed") > 0.2


def test_without_a_record_of_training_its_losses_are_not_measured():
    notes = []
    found = make_materials(size_of("quick", NUM), {}, "bm25", 0, notes.append)
    assert set(found) == {"fresh", "unseen", "wordings", "chains"} and "does not say which worlds" in notes[0]
    verdicts = judge_numbers(read_thresholds(), run_suite(Abstainer(), max_questions=2).numbers())
    outcomes = {one.threshold.number: one.outcome for one in verdicts}
    assert outcomes["fresh.swap_loss"] == outcomes["fresh.altered_loss"] == "not measured"


def test_questions_of_the_calibration_are_asked_in_no_material():
    found = materials()
    kept = {one.id for one in found["fresh"].calibration}
    assert kept and not kept & {one.id for name in ("fresh", "unseen") for one in
                                (*found[name].answerable, *found[name].unanswerable)}
    # with so few questions that might be luck
    whole = make_materials(size_of("quick"), META, "bm25", 0, lambda line: None)
    assert not {one.id for one in whole["fresh"].calibration} & {one.id for one in whole["unseen"].answerable}


def test_a_deletion_that_the_disk_refuses_takes_no_other_condition(monkeypatch):
    rmdir = os.rmdir

    def busy(path, *args, **options):
        if "kb" in str(path) or "nanochat-card" in str(path):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return rmdir(path, *args, **options)

    material, notes = materials()["fresh"], []
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", busy)
        (cell,) = deletion_cells(Asker(Reader()), material, Drawing(), notes.append, 3)
    assert len(cell.prompts) == 3 and notes == []

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KnowledgeBase, "build", full)
    assert deletion_cells(Asker(Reader()), material, Drawing(), notes.append, 3) == []
    assert "deletion left out" in notes[0] and "No space left" in notes[0]


def test_a_memory_of_the_training_worlds_shows_when_facts_change():
    engine = Memory(materials()["trained"])
    found = run_suite(engine, meta=META, max_questions=NUM).numbers()
    assert found["fresh.swap_loss"].value == found["fresh.altered_loss"].value == 1.0


def test_nothing_measured_is_not_passed():
    verdicts = {one.threshold.number: one.outcome for one in judge_numbers(read_thresholds(), numbers(Abstainer))}
    assert verdicts["fresh.retrieved.citation_f1"] == verdicts["fresh.citations_valid"] == "not measured"
    assert make_results(run(Abstainer), read_thresholds(), checkpoint={})["thresholds"]["passed"] is False


def test_an_engine_that_takes_thresholds_is_calibrated_and_measured_so():
    result = run(Unsure)
    # the reader's doubts end at 0.31, its answers begin at 0.6; the engine's own threshold of 0.7 answers nothing
    assert 0.31 < result.calibration.threshold < 0.6
    assert value(Unsure, "fresh.retrieved.exact_match") == value(Unsure, "fresh.abstention_f1") == 1.0
    # at threshold 0 all is answered: what has no answer comes last, and only there the curve rises
    curve = make_results(result, read_thresholds(), checkpoint={})["risk_curves"]["fresh"]
    sure = [risk for coverage, risk in curve if coverage < 0.4]
    assert sure and max(sure) == 0.0 and curve[-1][0] == 1.0 and curve[-1][1] > 0.4
    assert 0 < numbers(Unsure)["fresh.risk_area"].value < 0.4


def test_a_threshold_that_was_given_is_the_one_that_is_stored():
    engine = Unsure()
    engine.answer_threshold = 0.45
    result = run_suite(engine, meta=META, max_questions=NUM)
    assert {one.threshold for one in result.calibrations.values()} == {0.45}
    stored = make_results(result, read_thresholds(), checkpoint={})["calibration"]
    assert stored["threshold"] == 0.45 and stored["why"].startswith("given for this run")


def test_an_engine_without_probabilities_is_not_calibrated():
    result = run(Reader)
    assert result.calibration.best is None and "no probability" in result.calibration.why
    assert "fresh.risk_area" not in numbers(Reader)


def test_columns_answer_their_conditions_and_are_tested_on_the_same_questions():
    result = run_suite(Reader(), name="good", columns={"bad": Guesser()}, max_questions=NUM)
    assert set(result.columns["bad"]["fresh"]) == set(COLUMN_CONDITIONS)
    found = {one["says"]: one for one in comparisons(result)}
    row = found["fresh, retrieved: good less bad"]
    assert row["difference"]["value"] == 1.0 and row["difference"]["num"] == NUM
    # 24 questions that differ, all in one direction: 2 / 2 ** 24
    assert row["p"] == pytest.approx(2**-23) and row["p_holm"] > row["p"]
    assert found["fresh: asked_typo less retrieved"]["p"] == 1.0


def test_the_same_call_gives_the_same_numbers_and_a_prompt_that_returns_is_asked_once():
    class Counting(Reader):
        asked = 0

        def generate_batch(self, conversations, max_tokens=256):
            self.asked += len(conversations)
            return super().generate_batch(conversations, max_tokens)

    engine = Counting()
    again = run_suite(engine, meta=META, max_questions=NUM)
    assert again.numbers() == numbers(Reader)
    prompts = [one.prompt for cells in again.columns["this model"].values() for judged in cells.values()
               for one in judged]
    assert len({one.key for one in prompts}) <= engine.asked < 0.9 * len(prompts)
    # timing asks some again, and is not counted
    assert engine.asked - NUM <= again.cost["prompts_asked"] < engine.asked


def test_another_seed_gives_other_worlds():
    other = make_materials(size_of("quick", NUM), {}, "bm25", 1, lambda line: None)
    assert not {one["content"] for one in materials()["fresh"].documents} & {
        one["content"] for one in other["fresh"].documents}


def test_the_answers_shown_are_of_different_questions_and_conditions():
    episodes = make_results(run(FirstOnly), read_thresholds(), checkpoint={})["episodes"]
    assert len(episodes) == 10 and len({one["id"] for one in episodes}) >= 8
    assert len({one["cell"] for one in episodes}) >= 5
    assert [one["is_right"] for one in episodes] == [False] * 5 + [True] * 5


def test_unknown_suites_are_refused():
    with pytest.raises(UserError, match="Unknown suite: 'quik'"):
        run_suite(Reader(), suite="quik")


def test_a_drawing_depends_on_its_name_and_seed_only():
    first, other = (Drawing(seed=seed).rng("edited w1").random() for seed in (0, 1))
    assert first == Drawing(seed=0).rng("edited w1").random() != other

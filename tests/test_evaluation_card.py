"""The card of a checkpoint: written beside the weights, read back, stale when knowledge base or weights changed."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from suite_stubs import Guesser, Reader, Unsure

from nanochat.errors import CheckpointError, UserError
from nanochat.evaluation.card import (
    CARD_FILE,
    card_lines,
    is_stale,
    measuring_again,
    read_card,
    stale_reason,
    write_card,
)
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite import make_card
from nanochat.evaluation.suite.charts import curve_chart, steps_chart
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager

HOSTILE = '</svg><script>alert("x")</script><img src=x onerror=y> & \u2028'
CARD = {
    "checkpoint": {"source": "rag", "tag": "t", "step": 3, "weights": "aa"}, "suite": "quick", "finished": "today",
    "knowledge_base": {"fingerprint": "f1", "path": "kb"}, "answer_threshold": 0.4,
    "thresholds": {"path": "thresholds.json", "sha256": "0" * 64, "lines": [
        {"number": "fresh.lift", "says": "gains", "bound": ">= 0.70", "outcome": "fail", "is_clear": False,
         "estimate": {"value": 0.6, "low": 0.5, "high": 0.75, "num": 9}},
        {"number": "fresh.other", "says": "", "bound": "<= 0.05", "outcome": "not measured", "is_clear": False,
         "estimate": None},
    ]},
}


def test_a_card_is_read_as_it_was_written(tmp_path):
    assert read_card(tmp_path) is None
    assert write_card(tmp_path, CARD) == tmp_path / CARD_FILE
    read = read_card(tmp_path)
    assert {key: read[key] for key in CARD} == CARD


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": "nanochat-rag-card", "version": 2}'])
def test_a_file_that_is_no_card_is_refused(tmp_path, text):
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="card.json: cannot be used"):
        read_card(tmp_path)


@pytest.mark.parametrize("threshold", [2, -0.1, "0.5", True])
def test_a_threshold_that_is_none_is_refused(tmp_path, threshold):
    write_card(tmp_path, CARD | {"answer_threshold": threshold})
    with pytest.raises(CheckpointError, match="answer_threshold"):
        read_card(tmp_path)


def test_a_card_is_stale_when_what_it_measured_has_changed():
    meta = {"files": {"model.safetensors": {"sha256": "aa"}}}
    other = {"files": {"model.safetensors": {"sha256": "aa"}, "adapters.safetensors": {"sha256": "bb"}}}
    assert not is_stale(CARD, fingerprint="f1", meta=meta)
    assert not is_stale(CARD) and not is_stale(CARD, fingerprint=None, meta={})
    assert is_stale(CARD, fingerprint="f2") and "knowledge base" in stale_reason(CARD, fingerprint="f2")
    assert "weights" in stale_reason(CARD, fingerprint="f1", meta=other)
    trained_on = CARD | {"knowledge_base": {"fingerprint": "f1", "was_asked": False}}
    assert "of its training" in stale_reason(trained_on, fingerprint="f2")
    # a card of generated worlds alone speaks for no knowledge base
    assert not is_stale(CARD | {"knowledge_base": {"fingerprint": ""}}, fingerprint="f2")


def test_the_lines_say_first_that_it_is_stale():
    lines = card_lines(CARD, stale="why")
    assert lines[1].startswith("STALE: why; measure again: python -m scripts.rag_eval --suite quick")
    assert lines[2].startswith("fail") and "0.600 [0.500, 0.750]" in lines[2] and "reaches across" in lines[2]
    assert lines[3].startswith("not measured") and "fresh.other" in lines[3]
    assert "answer_threshold: 0.400" in lines
    assert not any(line.startswith("STALE") for line in card_lines(CARD))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A card of the perfect reader, with a knowledge base of hostile texts, beside a guesser."""
    folder = tmp_path_factory.mktemp("card")
    documents = [Document(id=f"d{n}", title=f"Town {n} {HOSTILE}", content=f"The mayor of town {n} is m{n}. {HOSTILE}")
                 for n in range(6)]
    KnowledgeBase.build(documents, folder / "kb", "simple")
    questions = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of town {n} {HOSTILE}?", answers=(f"m{n}",),
                              supporting_ids=(f"d{n}",), hops=1 + n % 2) for n in range(6)]
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "meta.json").write_text("{}")
    meta = {"source": "rag", "tag": HOSTILE, "step": 1, "path": str(checkpoint),
            "files": {"model.safetensors": {"sha256": "aa"}}}
    return make_card(Reader(), meta, knowledge_base=RetrievalManager(None, folder / "kb"), questions=questions,
                     columns={"mid/<b>": Guesser()}, output=folder / "out", max_questions=6)


def test_everything_is_written_and_says_the_same(outcome):
    assert [path.name for path in outcome.paths] == ["card.html", "results.json", "answers.jsonl", "card.json"]
    results, card = (json.loads(outcome.paths[place].read_text()) for place in (1, 3))
    assert results["numbers"][results["name"]]["fresh.retrieved.exact_match"]["value"] == 1.0
    assert card["summary"]["fresh.lift"] == results["numbers"][results["name"]]["fresh.lift"]
    assert card["thresholds"]["sha256"] == results["thresholds"]["sha256"]
    assert card["knowledge_base"]["was_asked"] and card["answer_threshold"] is None
    answers = [json.loads(line) for line in outcome.paths[2].read_text(encoding="utf-8").split("\n") if line]
    retrieved = [one for one in answers if one["material"] == "fresh" and one["cell"] == "retrieved"
                 and one["column"] != "mid/<b>"]
    assert len(retrieved) == 8 and sum(one["exact"] for one in retrieved) == 6
    assert {one["column"] for one in answers} == set(results["numbers"])


@pytest.mark.parametrize("questions", [[], None])
def test_a_knowledge_base_that_nobody_asked_about_was_not_asked(outcome, tmp_path, questions):
    asked = {} if questions is None else {"questions": questions}
    manager = RetrievalManager(None, Path(outcome.card["knowledge_base"]["path"]))
    made = make_card(Reader(), {"source": "rag", "tag": "t", "knowledge_base": "of training"}, knowledge_base=manager,
                     output=tmp_path, max_questions=2, **asked)
    assert made.card["knowledge_base"] == {"path": "", "fingerprint": "of training", "was_asked": False}
    assert "yours" not in made.results["materials"]


def test_few_questions_of_the_users_are_the_reason_for_no_threshold_of_their_own(outcome, tmp_path):
    manager = RetrievalManager(None, Path(outcome.card["knowledge_base"]["path"]))
    questions = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of town {n}?", answers=(f"m{n}",),
                              supporting_ids=(f"d{n}",)) for n in range(3)]
    reason = "no question was kept for it (of fewer than 80 none is)"
    made = make_card(Unsure(), {"source": "rag", "tag": "t"}, knowledge_base=manager, questions=questions,
                     output=tmp_path, max_questions=2)
    assert made.lines[-1] == f"answer_threshold: not measured: {reason}"
    page = made.paths[0].read_text()
    assert "no probability" not in page and "fresh: no threshold, too few questions were kept for it" in page
    made = make_card(Unsure(), {"source": "rag", "tag": "t"}, knowledge_base=manager, questions=questions,
                     output=tmp_path, max_questions=24)
    assert re.match(rf"answer_threshold: 0\.\d+: that of the worlds, because {re.escape(reason)}; most right answers",
                    made.lines[-1])
    # of an engine that tells none it is true
    told = make_card(Reader(), {"source": "rag", "tag": "t"}, output=tmp_path / "other", max_questions=24).lines
    assert any("not measured: the engine gives no probability" in line for line in told)


def test_the_users_questions_have_cells_of_their_own_and_hops(outcome):
    numbers = outcome.results["numbers"][outcome.results["name"]]
    assert numbers["yours.oracle.right"]["num"] == 6 and numbers["yours.deleted_stale"]["num"] == 2
    assert {"yours.hops_1", "yours.hops_2"} <= set(numbers)
    assert "yours.asked_wording.right" not in numbers and numbers["yours.asked_typo.right"]["num"] == 6


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.unbalanced = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_the_page_stands_alone_and_shows_text_as_text(outcome):
    text = outcome.paths[0].read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe"} and not page.unbalanced and not page.open
    assert all(not key.startswith("on") and key not in ("src", "href") for _, given in page.tags for key in given)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert sum(name == "details" for name, _ in page.tags) == len(outcome.results["episodes"]) == 10
    assert sum(name == "svg" for name, _ in page.tags) >= 8
    assert "&lt;script&gt;" in text


def test_ten_different_answers_are_shown(outcome):
    episodes = outcome.results["episodes"]
    assert len({(one["id"], one["cell"]) for one in episodes}) == 10
    # the first are failures, where there are any
    flags = [one["is_right"] for one in episodes]
    assert flags == sorted(flags)
    assert all(one["verdict"] and "documents" in one for one in episodes)


def test_the_model_is_not_compared_with_itself():
    with pytest.raises(UserError, match="compared with itself"):
        make_card(Reader(), {"source": "rag", "tag": "a"}, columns={"rag/a": Reader()})


def test_charts_without_points_are_nothing_and_values_stay_inside():
    assert steps_chart({"a": []}, title="t", below="b") == "" == curve_chart({"a": []}, title="t", below="b")
    found = {"value": 1.0, "low": -0.2, "high": 1.4, "num": 3}
    chart = steps_chart({"a": [("1", found)]}, title="t", below="b")
    assert 'cy="40.0"' in chart and "V40.0" in chart


@pytest.mark.parametrize("name", ["checkpoint", "knowledge_base", "thresholds"])
def test_parts_that_are_no_objects_are_refused(tmp_path, name):
    write_card(tmp_path, CARD | {name: "somewhere"})
    with pytest.raises(CheckpointError, match=f"{name} is 'somewhere', not an object"):
        read_card(tmp_path)


def test_the_advice_to_measure_again_names_everything_that_the_command_needs():
    words = measuring_again({"source": "rag", "tag": "t"}, knowledge_base="my folder")
    made, measured = words.split(" && ")
    assert "--mode synthesize --knowledge_base 'my folder'" in made
    assert "--source rag --tag t --knowledge_base 'my folder' --questions " in measured
    assert measuring_again({"source": "rag", "tag": "t"}).endswith("--source rag --tag t")

"""A threshold for a number that no run measures is refused; every number that a run measures has a known name."""

import json
import re

import pytest
from suite_stubs import Guesser, Reader, Unsure

from nanochat.errors import UserError
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite import run_suite
from nanochat.evaluation.suite.names import is_number, number_names
from nanochat.evaluation.suite.thresholds import read_thresholds
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager

META = {"source": "rag", "step": 4, "config": {"seed": 0}, "curriculum": {"stages": ["documents"], "index": 0}}


def thresholds(tmp_path, *names):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"schema": "nanochat-rag-thresholds",
                                "lines": [{"number": name, "at_least": 0.5} for name in names]}))
    return read_thresholds(path)


@pytest.mark.parametrize(("name", "nearest"), [
    ("fresh.retreived.exact_match", "fresh.retrieved.exact_match"), ("yours.lifts", "yours.lift"),
    ("lift", "yours.lift"), ("fresh.position_0.f1", "fresh.position_1.f1"), ("fresh.hard_3.f1", "fresh.hard_9.f1"),
    ("trained.wrong.abstention", "fresh.wrong.abstention"), ("yours.swap_loss", "fresh.swap_loss"),
])
def test_an_unknown_number_is_refused_with_its_line_and_the_nearest_name(tmp_path, name, nearest):
    words = f"mine.json: line 2: there is no number {name!r}; the nearest is {nearest!r}"
    with pytest.raises(UserError, match=re.escape(words)):
        thresholds(tmp_path, "fresh.lift", name)
    assert is_number(nearest)


def test_numbers_that_go_on_are_known(tmp_path):
    names = ["fresh.position_12.exact_match", "yours.hops_3", "yours.retriever_hybrid.f1",
             "fresh.injection_changed_tags"]
    assert [line.number for line in thresholds(tmp_path, *names).lines] == names


def test_every_number_of_a_run_is_known_and_every_known_one_is_of_a_cell_of_a_run(tmp_path):
    towns = "Alda Brun Cers Dorn Elst Furn".split()
    KnowledgeBase.build([Document(id=f"d{n}", title=town, content=f"The mayor of {town} is {town}son.")
                         for n, town in enumerate(towns)], tmp_path / "kb", "simple")
    questions = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of {town}?", answers=(f"{town}son",),
                              supporting_ids=(f"d{n}",), hops=1 + n % 3) for n, town in enumerate(towns)]
    measured = set()
    for engine in (Reader(), Guesser(), Unsure()):
        result = run_suite(engine, meta=META, max_questions=6, questions=questions,
                           knowledge_base=RetrievalManager(None, tmp_path / "kb"))
        measured |= set(result.numbers())
    assert sorted(name for name in measured if not is_number(name)) == []
    parts = {tuple(name.split(".")[:-1]) for name in measured if name.count(".") == 2}
    rest = {tuple(name.split(".")[:-1]) for name in number_names() if name.count(".") == 2} - parts
    # of quick worlds and of this knowledge base there are no vectors, and no stub searches by itself
    assert rest == {*((name, f"retriever_{kind}") for name in ("fresh", "yours") for kind in ("dense", "hybrid")),
                    ("chains", "own_searches"), ("yours", "own_searches")}
    combined = {name for name in number_names() if name.count(".") == 1} - measured
    # most worlds have questions of one hop only, and nobody knew anything
    assert {name.partition(".")[2] for name in combined} == {
        "hops_1", "distraction_known", "own_hops_1", "own_searches_gain"}, combined

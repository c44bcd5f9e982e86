"""A suite that is interrupted goes on with the cells that it finished, and ends as if nothing had happened."""

import json
import os
import subprocess
import sys

import pytest
from suite_stubs import Guesser, Reader, Unsure

from nanochat.errors import UserError
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite import make_card
from nanochat.evaluation.suite.keeping import CELLS, Kept, remove_kept
from nanochat.evaluation.suite.prompts import prompt
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager

TOWNS = "Alda Brun Cers Dorn Elst Furn".split()


class Counted:
    """Another engine that counts its prompts, and is interrupted at one of them."""

    def __init__(self, engine, until=None):
        self.engine, self.until, self.num_asked = engine, until, 0
        if hasattr(engine, "answer_threshold"):
            self.answer_threshold = engine.answer_threshold

    def generate_batch(self, conversations, max_tokens=256, **chosen):
        self.num_asked += len(conversations)
        if self.until is not None and self.num_asked > self.until:
            raise KeyboardInterrupt
        return self.engine.generate_batch(conversations, max_tokens=max_tokens, **chosen)


@pytest.fixture
def card(tmp_path):
    """Make a card; what is not given is always the same."""
    KnowledgeBase.build([Document(id=f"d{n}", title=town, content=f"The mayor of {town} is {town}son.")
                         for n, town in enumerate(TOWNS)], tmp_path / "kb", "simple")
    asked = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of {town}?", answers=(f"{town}son",),
                          supporting_ids=(f"d{n}",)) for n, town in enumerate(TOWNS)]

    def make(engine, *, columns=None, output="out", weights="aa", lines=None, **more):
        lines = [] if lines is None else lines
        meta = {"source": "rag", "tag": "t", "step": 1, "files": {"model.safetensors": {"sha256": weights}}}
        given = {"max_questions": 6, "questions": asked, "batch_size": 4} | more
        outcome = make_card(engine, meta, knowledge_base=RetrievalManager(None, tmp_path / "kb"), columns=columns,
                            output=tmp_path / output, progress=lines.append, **given)
        return outcome, lines

    make.folder = tmp_path
    return make


def but_for_times(results):
    results = json.loads(json.dumps(results))
    for name in ("finished", "evaluation_s"):
        results["environment"].pop(name)
    for name in ("answer", "peak_memory_bytes"):
        results["cost"].pop(name)
    return results


def taken_up(lines):
    return [line for line in lines if "taken up" in line]


@pytest.mark.parametrize("make", [Reader, Unsure])
def test_results_are_those_of_a_run_that_was_not_interrupted(card, make):
    whole = Counted(make())
    expected, lines = card(whole, columns={"mid/b": Guesser()}, output="whole")
    assert not taken_up(lines)
    # in the calibration, then three times further on
    for share in (0.02, 0.2, 0.2, 0.3):
        with pytest.raises(KeyboardInterrupt):
            card(Counted(make(), until=int(share * whole.num_asked)), columns={"mid/b": Guesser()})
    assert not (card.folder / "out" / "results.json").exists()
    last = Counted(make())
    outcome, lines = card(last, columns={"mid/b": Guesser()})
    assert len(taken_up(lines)) == 1 and lines[0] == taken_up(lines)[0]
    assert last.num_asked < 0.5 * whole.num_asked
    assert but_for_times(outcome.results) == but_for_times(expected.results)
    for name in ("answers.jsonl", "results.json", "card.html"):
        assert (card.folder / "out" / name).exists()
    assert (card.folder / "out" / "answers.jsonl").read_text() == (card.folder / "whole" / "answers.jsonl").read_text()
    assert not (card.folder / "out" / CELLS).exists() and not (card.folder / "whole" / CELLS).exists()


def test_at_most_the_running_cell_is_lost(card):
    first = Counted(Reader())
    with pytest.raises(KeyboardInterrupt):
        card(first, columns={"mid/b": Counted(Reader(), until=1)})
    cells = sorted((card.folder / "out" / CELLS).iterdir())
    kept = sum(len(path.read_text().splitlines()) - 1 for path in cells)
    # all of its own answers but those that were timed, each asked alone
    assert kept == first.num_asked - 6
    assert {path.suffix for path in cells} == {".jsonl"}
    assert any("fresh_hard_4" in path.name for path in cells)


@pytest.mark.parametrize("change", [
    {"weights": "bb"}, {"seed": 1}, {"top_k": 3}, {"suite": "full"}, {"max_questions": 5}, {"max_tokens": 9},
    {"depends_on": {"column_weights": "cc"}}, {"retriever_type": "simple"}, {"questions": []},
    {"columns": {"mid/b": Guesser()}},
], ids=lambda change: next(iter(change)))
def test_cells_of_another_run_are_not_taken_up(card, change):
    with pytest.raises(KeyboardInterrupt):
        card(Counted(Reader(), until=60))
    theirs = card.folder / "out" / CELLS / "notes.jsonl"
    theirs.write_text("{}\n")
    lines = []
    with pytest.raises(KeyboardInterrupt):
        card(Counted(Reader(), until=0), lines=lines, **change)
    assert not taken_up(lines) and "cells of another run removed" in lines[0]
    assert list(theirs.parent.iterdir()) == [theirs]


def test_weights_that_are_not_known_are_not_kept(card):
    with pytest.raises(KeyboardInterrupt):
        card(Counted(Reader(), until=60), weights="")
    assert not (card.folder / "out").exists()


def test_what_was_kept_is_what_was_answered(tmp_path):
    question = EvalQuestion(id="q", question="Who?", answers=("b",), supporting_ids=("2",))
    documents = [{"id": str(n), "title": "t", "content": f"{n} \u2028 b", "score": 0.5} for n in range(3)]
    asked = prompt(question, documents)
    changed = {**documents[2], "content": "cut"}
    info = {"answer": "b", "abstained": False, "answer_probability": 0.1 + 0.2, "dropped": 1, "num_prompt_tokens": 7,
            "num_tokens": 2, "documents": [documents[2], changed], "first_token_s": 0.1,
            "citations": [{"number": 1, "id": "2", "slot": 0, "passage": "b"}]}
    kept = Kept(tmp_path, {"weights": "aa", "sizes": (1, 2)})
    kept.keep("me", "fresh, hard_4", [(asked, ("b [1]", info))])
    again = Kept(tmp_path, {"sizes": [1, 2], "weights": "aa"})
    text, found = again.find("me", asked)
    assert text == "b [1]" and found["documents"] == info["documents"]
    assert found["citations"] == [{"number": 1, "id": "2"}] and "first_token_s" not in found
    assert {name: found[name] for name in found if name not in ("citations", "documents")} == {
        name: info[name] for name in ("answer", "abstained", "answer_probability", "dropped", "num_prompt_tokens",
                                      "num_tokens")}
    assert again.find("other", asked) is None and again.find("me", prompt(question, documents[:2])) is None
    closed = prompt(question, None)
    again.keep("me", "closed_book", [(closed, ("b", info | {"documents": []}))])
    assert Kept(tmp_path, {"sizes": [1, 2], "weights": "aa"}).find("me", closed)[1]["documents"] == []
    assert len(list(tmp_path.iterdir())) == 2
    # of a process that was killed while it wrote
    (tmp_path / "tmpab12cd3e.tmp").write_text('{"schema": "nanoch')
    assert Kept(tmp_path, {"sizes": [1, 2], "weights": "aa"}).num_taken_up == 2
    remove_kept(tmp_path)
    assert not tmp_path.exists()


def test_a_cell_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "0001_me.jsonl").write_text("{")
    with pytest.raises(UserError, match="0001_me.jsonl: cannot be read"):
        Kept(tmp_path, {})


PROMPTS = """
from nanochat.evaluation.suite.conditions import CONDITIONS
from nanochat.evaluation.suite.keeping import _sha256
from nanochat.evaluation.suite.planning import make_materials, size_of
from nanochat.evaluation.suite.reading import Drawing
meta = {"source": "rag", "step": 4, "config": {"seed": 0}, "curriculum": {"stages": ["documents"], "index": 0}}
materials = make_materials(size_of("quick", 8), meta, "bm25", 0, lambda line: None)
print(_sha256([[one.key for one in cell.prompts] for material in materials.values() for condition in CONDITIONS.values()
               if condition.build for cell in condition.build(material, Drawing())]))
"""


def test_every_process_asks_the_same():
    said = {subprocess.run([sys.executable, "-c", PROMPTS], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                           capture_output=True, text=True, timeout=120).stdout for seed in ("1", "2")}
    assert len(said) == 1 and len(said.pop()) == 65

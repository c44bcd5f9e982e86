"""scripts.rag_eval --suite from the command line to the card, with a tiny random model; and --show_card."""

import json
import shutil

import pytest

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import base_dir, run_main, write_jsonl
from nanochat.engine import Engine
from nanochat.model import LanguageModel, ModelConfig
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.tokenizer import Tokenizer
from scripts.rag_eval import main

CITIES = ["Alda", "Brun", "Cers", "Dorn", "Elst"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A knowledge base, questions, and random checkpoints mid/card_tiny and rag/card_tiny, tuned from it."""
    folder = tmp_path_factory.mktemp("suite")
    documents = [Document(id=f"d{n}", title=city, content=f"The mayor of {city} is {city}son.")
                 for n, city in enumerate(CITIES)]
    KnowledgeBase.build(documents, folder / "kb", "simple")
    write_jsonl(folder / "questions.jsonl", [
        {"id": f"q{n}", "question": f"Who is the mayor of {city}?", "answers": [f"{city}son"],
         "supporting_ids": [f"d{n}"]} for n, city in enumerate(CITIES)])
    tokenizer = Tokenizer.train([document.text for document in documents] * 4, 340)
    config = ModelConfig(
        block_pattern="T,M", vocab_size=tokenizer.vocab_size, sequence_len=256, n_embd=32, n_head=2, n_kv_head=2,
        mlp_hidden=32, d_state=8, headdim=16,
    )
    for source, meta in (("mid", {}), ("rag", {"from": {"source": "mid", "tag": "card_tiny", "step": 1},
                                               "config": {"seed": 0}, "curriculum": {"stages": ["documents"]}})):
        save_checkpoint(source, "card_tiny", 1, model=LanguageModel(config), tokenizer=tokenizer, meta=meta)
    return folder


def run(*more):
    return run_main(main, ["--tag", "card_tiny", "--device", "cpu", *map(str, more)])


SMALL = ("--suite", "quick", "--max_questions", "2", "--max_tokens", "4")


def test_the_journey_ends_with_a_card_that_grows_stale(folder, capsys):
    own = ("--knowledge_base", folder / "kb", "--questions", folder / "questions.jsonl")
    assert run("--show_card") == 2
    assert "No card for rag/card_tiny step 1" in capsys.readouterr().err
    assert run(*SMALL, *own, "--output", folder / "out", "--thresholds", "") == 0
    printed = capsys.readouterr().out
    assert "Suite quick for rag/card_tiny step 1, beside mid/card_tiny" in printed
    assert "fresh, retrieved: 3 questions" in printed and "yours, retrieved: 2 questions" in printed
    assert "mid/card_tiny, yours, edited" in printed and f"wrote {folder / 'out' / 'card.html'}" in printed
    place = base_dir() / "checkpoints" / "rag" / "card_tiny" / "step_000001"
    card = json.loads((place / "card.json").read_text())
    assert card["settings"]["top_k"] == 5 and card["knowledge_base"]["fingerprint"]
    assert [line["outcome"] for line in card["thresholds"]["lines"]].count("not measured") <= 2
    results = json.loads((folder / "out" / "results.json").read_text())
    assert set(results["numbers"]) == {"rag/card_tiny", "mid/card_tiny"}
    # its seeds are known, so the worlds of training are those of training
    assert not any("does not say which worlds" in note for note in results["notes"])

    assert run("--show_card") == 0
    assert "STALE" not in capsys.readouterr().out
    KnowledgeBase.open(folder / "kb").add([Document(id="new", title="Furn", content="The mayor of Furn is Furnson.")])
    assert run("--show_card") == 0
    shown = capsys.readouterr().out
    assert "RAG card of rag/card_tiny" in shown
    assert "STALE: the knowledge base is not the one that was measured" in shown


def test_a_card_outlives_its_page_and_its_knowledge_base(folder, capsys):
    shutil.copytree(folder / "kb", folder / "gone")
    assert run(*SMALL, "--compare", "none", "--knowledge_base", folder / "gone", "--questions",
               folder / "questions.jsonl", "--output", folder / "page") == 0
    capsys.readouterr()
    page = folder / "page" / "card.html"
    assert run("--show_card") == 0
    assert capsys.readouterr().out.endswith(f"\npage: {page}\n")
    page.unlink()
    shutil.rmtree(folder / "gone")
    assert run("--show_card") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    # it cannot be known whether it is stale
    assert first == f"The knowledge base that was measured cannot be checked: {folder / 'gone'} is gone"
    assert rest[0].startswith("RAG card of rag/card_tiny step 1") and not any("STALE" in line for line in rest)
    assert rest[-1] == f"page: {page} is gone; measuring again writes it anew"
    # one that is named must be there
    assert run("--show_card", "--knowledge_base", folder / "gone") == 2
    assert f"Knowledge base not found: {folder / 'gone'}" in capsys.readouterr().err


def test_a_suite_that_is_interrupted_goes_on(folder, capsys, monkeypatch):
    own = (*SMALL, "--knowledge_base", folder / "kb", "--questions", folder / "questions.jsonl")
    assert run(*own, "--output", folder / "whole") == 0
    answers = Engine.generate_batch
    num_left = 60

    def press_later(engine, conversations, *args, **options):
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            raise KeyboardInterrupt
        return answers(engine, conversations, *args, **options)

    monkeypatch.setattr(Engine, "generate_batch", press_later)
    assert run(*own, "--output", folder / "half") == 130
    assert "the same command goes on from here" in capsys.readouterr().out
    assert run(*own, "--output", folder / "half") == 0
    assert "going on where a run was interrupted: " in capsys.readouterr().out
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("whole", "half")]
    for part in ("numbers", "comparisons", "risk_curves", "calibrations", "materials", "notes"):
        assert results[0][part] == results[1][part], part
    whole, half = ([json.loads(line) for line in (folder / name / "answers.jsonl").read_text().split("\n") if line]
                   for name in ("whole", "half"))
    # an engine whose cache of prompts is cold rounds in another order
    chances = [[one.pop("probability") for one in answers] for answers in (whole, half)]
    assert chances[0] == pytest.approx(chances[1], abs=1e-5) and whole == half
    assert not (folder / "half" / "cells").exists()


def test_a_suite_needs_nothing_but_a_checkpoint(folder, capsys):
    assert run(*SMALL, "--source", "mid", "--compare", "none", "--top_k", "3", "--conditions", "oracle") == 0
    printed = capsys.readouterr().out
    assert "--conditions has no effect with --suite" in printed and "beside" not in printed
    assert "does not say which worlds it was trained on" in printed
    place = base_dir() / "reports" / "cards" / "mid" / "card_tiny" / "step_000001"
    results = json.loads((place / "results.json").read_text())
    assert results["settings"]["top_k"] == 3 and list(results["numbers"]) == ["mid/card_tiny"]
    assert "yours" not in results["materials"]


@pytest.mark.parametrize(("more", "words"), [
    (("--suite", "medium"), "Unknown suite: 'medium'"),
    (("--suite", "quick", "--questions", "q.jsonl"), "--questions was given without --knowledge_base"),
    (("--suite", "quick", "--thresholds", "nowhere.json"), "Thresholds not found: nowhere.json"),
    (("--suite", "quick", "--compare", "elsewhere/x"), "'elsewhere' is no source of checkpoints"),
    (("--suite", "quick", "--compare", "base/missing"), "Checkpoint not found"),
    (("--suite", "quick", "--compare", "rag/card_tiny", "--max_questions", "2"), "compared with itself"),
    (("--suite", "quick", "--answer_threshold", "1.5"), "--answer_threshold must lie between 0 and 1"),
    (("--suite", "quick", "--citation_threshold", "1.5"), "--citation_threshold must lie between 0 and 1"),
    (("--suite", "quick", "--top_k", "0"), "--top_k must be at least 1"),
])
def test_what_a_user_can_fix_is_two_lines(folder, capsys, more, words):
    assert run(*more) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert lines[0].startswith("Error: ") and words in lines[0]
    assert len(lines) == 2 and lines[1].startswith("  hint: ")


def test_a_checkpoint_that_is_gone_has_no_column(folder, capsys):
    from scripts.rag_eval_suite import compared

    assert compared("", {"from": {"source": "base", "tag": "gone", "step": 3}}) == {}
    assert "no column for base/gone" in capsys.readouterr().out
    assert compared("", {"from": "hf:somewhere"}) == compared("none", {}) == {}
    assert compared("", {"from": {"source": "mid", "tag": "card_tiny", "step": 1}}) == {
        "mid/card_tiny": ("mid", "card_tiny", 1)}

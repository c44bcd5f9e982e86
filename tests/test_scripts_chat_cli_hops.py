"""Several searches per question at the terminal, with a tiny random model that likes to ask."""

import json

import pytest
from engine_stubs import make_documents, make_tokenizer
from hop_stubs import make_engine

from nanochat import checkpoint_manager
from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import run_main
from nanochat.rag.answer import answer_question
from nanochat.rag.hops import answer_over_hops, hop_line
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager
from scripts import chat_cli

QUESTION = "Who founded Brelith Institute?"
ASKS = make_engine(likes=(("query_start", 100.0),))


@pytest.fixture
def knowledge_base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    for source in ("rag", "refrag"):
        save_checkpoint(source, "tiny", 3, model=ASKS.model, tokenizer=make_tokenizer(), meta={})
    documents = [*make_documents(9), {"id": "h", "title": "Torvik \x1b[31m", "content": "Torvik \x07 x"}]
    KnowledgeBase.build([Document(**record) for record in documents], tmp_path / "kb", "simple")
    return tmp_path / "kb"


@pytest.fixture
def asking(monkeypatch):
    """The model that is loaded likes to ask: what it likes is not in its checkpoint."""
    load = checkpoint_manager.load_model
    monkeypatch.setattr(checkpoint_manager, "load_model", lambda *args, **options: (
        ASKS.model, *load(*args, **options)[1:]))


def chat(*flags):
    return run_main(chat_cli.main, ["--max_tokens", "8", "--source", "refrag", *map(str, flags)])


def test_every_search_is_shown_before_the_answer(knowledge_base, asking, capsys):
    assert chat("--knowledge_base", knowledge_base, "--question", QUESTION, "--max_hops", 3, "--top_k_per_hop", 2) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == "" and lines[0] == f"  search 1: {QUESTION}" and lines[1].startswith("      found: Title ")
    assert [line for line in lines if line.startswith("  search ")] == lines[0:6:2]
    assert not lines[6].startswith("  "), "the answer stands behind the searches"


def test_json_has_the_hops_with_the_numbers_of_their_documents(knowledge_base, asking, capsys):
    flags = ["--knowledge_base", knowledge_base, "--question", QUESTION, "--json"]
    assert chat(*flags, "--max_hops", 3, "--top_k_per_hop", 2) == 0
    record = json.loads(capsys.readouterr().out)
    assert [hop["hop"] for hop in record["hops"]] == [1, 2, 3] and record["hops"][0]["query"] == QUESTION
    numbers = [number for hop in record["hops"] for number in hop["documents"]]
    assert numbers == [document["number"] for document in record["documents"]] and numbers[:2] == [1, 2]
    assert chat(*flags, "--top_k", 2) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["hops"] == [] and len(record["documents"]) == 2


def test_one_search_is_as_without_hops(knowledge_base):
    engine, manager = make_engine(), RetrievalManager(None, knowledge_base)
    plain = answer_question(engine, manager, QUESTION, top_k=2, max_tokens=8)
    told = []
    once = answer_over_hops(engine, manager, QUESTION, max_hops=1, top_k_per_hop=2, max_tokens=8, on_hop=told.append)
    assert (once.text, once.documents, once.citations) == (plain.text, plain.documents, plain.citations)
    assert len(told) == 1 and told == once.info["hops"]


def test_a_misspelt_question_is_mended_before_the_first_search(knowledge_base, asking, capsys):
    flags = ["--knowledge_base", knowledge_base, "--question", "Who fuonded Brelith Institute?", "--json"]
    for hops in (1, 3):
        assert chat(*flags, "--max_hops", hops) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["read_as"] == QUESTION and f'read as "{QUESTION}"' in record["notes"]
        assert hops == 1 or record["hops"][0]["query"] == QUESTION
        assert chat(*flags, "--max_hops", hops, "--spelling", "false") == 0
        record = json.loads(capsys.readouterr().out)
        assert record["read_as"] == "" and record["question"] == "Who fuonded Brelith Institute?"
        assert hops == 1 or record["hops"][0]["query"] == "Who fuonded Brelith Institute?"


def test_control_characters_of_queries_and_titles_stay_away(knowledge_base):
    shown = hop_line({"hop": 2, "query": "a\x1b[31m\nb", "documents": [{"id": "h", "title": "T\x07", "content": ""}]})
    assert shown == "  search 2: a[31m b\n      found: T (h)"
    assert hop_line({"hop": 3, "query": "a", "documents": []}).endswith("found: nothing new")
    assert hop_line({"hop": 2, "query": "a", "documents": [], "citations": [0]}).startswith("  search 2, from [1]: a\n")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--max_hops", "0"], "Error: --max_hops must be at least 1, not 0"),
        (["--top_k_per_hop", "0"], "Error: --top_k_per_hop must be at least 1, not 0"),
        (["--max_hops", "many"], "Error: Bad value for --max_hops: 'many'"),
    ],
)
def test_what_cannot_work_is_said_in_two_lines(knowledge_base, capsys, flags, problem):
    assert chat("--knowledge_base", knowledge_base, *flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(problem) and captured.err.count("\n") == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max_hops", "2", "--top_k", "3"], "Note: --top_k has no effect with --max_hops 2: --top_k_per_hop is"),
        (["--max_hops", "2", "--second_look", "true"], "Note: --second_look has no effect with --max_hops 2: such"),
        (["--top_k_per_hop", "3"], "Note: --top_k_per_hop has no effect with --max_hops 1: --max_hops 3 is"),
        (["--max_hops", "2", "--source", "rag"], "Note: checkpoint rag/tiny has not learned to search again"),
    ],
)
def test_what_has_no_effect_is_said_once(knowledge_base, capsys, flags, told):
    assert chat("--knowledge_base", knowledge_base, "--question", QUESTION, *flags) == 0
    error = capsys.readouterr().err
    assert error.startswith(told) and error.count("\n") == 1

"""scripts.rag_eval from the command line to the report's files, with a tiny random model."""

import json
import subprocess
import sys

import pytest

from nanochat.common import base_dir, run_main, write_jsonl
from scripts.rag_eval import main

CITIES = ["Alda", "Brun", "Cers", "Dorn", "Elst"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A knowledge base, questions and a random checkpoint rag/eval_tiny."""
    import torch

    from nanochat.checkpoint_manager import save_checkpoint
    from nanochat.model import LanguageModel, ModelConfig
    from nanochat.retrieval import Document, KnowledgeBase
    from nanochat.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("rag_eval")
    documents = [
        Document(id=f"d{index}", title=city, content=f"The mayor of {city} is {city}son.")
        for index, city in enumerate(CITIES)
    ]
    KnowledgeBase.build(documents, folder / "kb", "simple")
    questions = [
        {"id": f"q{index}", "question": f"Who is the mayor of {city}?", "answers": [f"{city}son"],
         "supporting_ids": [f"d{index}"], "hops": 1}
        for index, city in enumerate(CITIES)
    ]
    questions.append({"id": "u", "question": "Who is the mayor of Gars?", "answers": [], "supporting_ids": []})
    write_jsonl(folder / "questions.jsonl", questions)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([document.text for document in documents] * 4, 340)
    config = ModelConfig(
        block_pattern="T,M", vocab_size=tokenizer.vocab_size, sequence_len=256, n_embd=32, n_head=2, n_kv_head=2,
        mlp_hidden=32, d_state=8, headdim=16,
    )
    model = LanguageModel(config)
    save_checkpoint("rag", "eval_tiny", 3, model=model, tokenizer=tokenizer, meta={})
    return folder


def arguments(folder, *more):
    return [
        "--knowledge_base", str(folder / "kb"), "--questions", str(folder / "questions.jsonl"), "--tag", "eval_tiny",
        "--max_tokens", "6", "--device", "cpu", *more,
    ]


def test_the_journey_ends_with_a_report(folder, capsys):
    output = folder / "report"
    assert run_main(main, arguments(folder, "--output", str(output), "--top_k", "2", "--batch_size", "4")) == 0
    printed = capsys.readouterr().out
    assert "Evaluating rag/eval_tiny step 3: 6 questions (1 unanswerable), 5 documents, simple, top 2" in printed
    assert "closed book" in printed and "recall@2" in printed and f"wrote {output / 'report.html'}" in printed
    names = ["plot.svg", "records.jsonl", "report.html", "report.md", "results.json", "table.txt"]
    assert sorted(path.name for path in output.iterdir()) == names
    results = json.loads((output / "results.json").read_text())
    assert results["checkpoint"] == {"source": "rag", "tag": "eval_tiny", "step": 3}
    assert results["questions"]["num_unanswerable"] == 1 and len(results["questions"]["sha256"]) == 64
    assert results["knowledge_base"]["num_documents"] == 5 and results["knowledge_base"]["fingerprint"]
    assert results["config"]["top_k"] == 2 and results["environment"]["device"] == "cpu"
    counts = {name: row["num_questions"] for name, row in results["conditions"].items()}
    assert counts == {"closed_book": 5, "retrieved": 5, "oracle": 5, "wrong": 5, "unanswerable": 1}
    assert results["conditions"]["oracle"]["recall"]["value"] == 1.0
    assert results["conditions"]["wrong"]["recall"]["value"] == 0.0
    records = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    assert len(records) == 21
    for record in records:
        assert all(citation["id"] in record["shown_ids"] for citation in record["citations"]), record


def test_the_same_run_gives_the_same_records(folder):
    for name in ("first", "second"):
        more = ("--output", str(folder / name), "--conditions", "retrieved,oracle")
        assert run_main(main, arguments(folder, *more)) == 0
    first, second = ((folder / name / "records.jsonl").read_bytes() for name in ("first", "second"))
    assert first == second


def test_the_report_has_a_place_of_its_own(folder):
    assert run_main(main, arguments(folder, "--conditions", "closed_book", "--max_questions", "2")) == 0
    place = base_dir() / "reports" / "rag" / "eval_tiny" / "step_000003" / "kb"
    assert json.loads((place / "results.json").read_text())["conditions"]["closed_book"]["num_questions"] == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--knowledge_base", "nowhere"], "Knowledge base not found: nowhere"),
        (["--knowledge_base", ""], "Knowledge base not found: --knowledge_base was not given"),
        (["--questions", ""], "Questions not found: --questions was not given"),
        (["--questions", "nothing.jsonl"], "Questions not found: nothing.jsonl"),
        (["--tag", "unknown"], "Checkpoint not found"),
        (["--conditions", "closed_book,orakel"], "Unknown condition: 'orakel'"),
        (["--retriever_type", "telepathy"], "Unknown retriever type 'telepathy'"),
        (["--top_k", "0"], "--top_k must be at least 1"),
        (["--max_questions", "0"], "--max_questions must be at least 1"),
        (["--top_q", "3"], "--top_q"),
    ],
)
def test_what_a_user_can_fix_is_two_lines(folder, capsys, more, words):
    assert run_main(main, arguments(folder, *more)) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert lines[0].startswith("Error: ") and words in lines[0]
    assert len(lines) == 2 and lines[1].startswith("  hint: ")


def test_a_report_that_cannot_be_written_is_refused_before_the_work(folder, capsys):
    (folder / "file").write_text("mine")
    assert run_main(main, arguments(folder, "--output", str(folder / "file" / "report"))) == 2
    captured = capsys.readouterr()
    assert "Cannot write" in captured.err and "questions," not in captured.out
    assert (folder / "file").read_text() == "mine"


def test_questions_of_another_knowledge_base_are_refused(folder, capsys):
    other = folder / "other.jsonl"
    write_jsonl(other, [{"question": "Who?", "answers": ["Jon"], "supporting_ids": ["elsewhere"]}])
    assert run_main(main, arguments(folder, "--questions", str(other))) == 2
    assert "None of the 1 supporting documents" in capsys.readouterr().err


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom scripts.rag_eval import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--knowledge_base" in done.stdout

"""Question files: what is read, and how bad lines are named."""

import gzip
import hashlib
import json

import pytest

from nanochat.evaluation import EvalQuestion, QuestionError, read_questions

GOOD = {"id": "q1", "question": "Who?", "answers": ["Jon"], "supporting_ids": ["d1"], "hops": 2, "kind": "mayor"}


def test_records_are_read_with_their_fingerprint(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({"question": "What?", "answers": []}) + "\n")
    questions, digest = read_questions(path)
    assert questions[0] == EvalQuestion(
        id="q1", question="Who?", answers=("Jon",), supporting_ids=("d1",), hops=2, kind="mayor"
    )
    assert not questions[1].is_answerable and questions[1].id == f"{path}:3"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(read_questions(path, limit=1)[0]) == 1


def test_compressed_files_are_read(tmp_path):
    path = tmp_path / "questions.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert read_questions(path)[0][0].answers == ("Jon",)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(QuestionError, match="cannot be read"):
        read_questions(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b'{"question": "\\ud800", "answers": []}', "not UTF-8 text"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"question": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"answers": []}', "'question' is missing or empty"),
        (b'{"question": " ", "answers": []}', "'question' is missing or empty"),
        (b'{"question": "Who?"}', "'answers' is missing"),
        (b'{"question": "Who?", "answers": "Jon"}', "'answers' must be a list"),
        (b'{"question": "Who?", "answers": [""]}', "'answers' must be a list"),
        (b'{"question": "Who?", "answers": ["Jon"], "supporting_ids": [3]}', "'supporting_ids' must be a list"),
        (b'{"question": "Who?", "answers": ["Jon"], "hops": "two"}', "'hops' must be a whole number"),
        (json.dumps(GOOD).encode(), "duplicate id 'q1', first used in line 1"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path, line, words):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(QuestionError) as caught:
        read_questions(path)
    assert caught.value.problem.startswith(f"{path}:2: ")
    assert words in caught.value.problem
    assert caught.value.hint


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(QuestionError, match="Questions not found"):
        read_questions(tmp_path / "nothing.jsonl")
    with pytest.raises(QuestionError, match="cannot be read"):
        read_questions(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(QuestionError, match="no questions"):
        read_questions(tmp_path / "empty.jsonl")

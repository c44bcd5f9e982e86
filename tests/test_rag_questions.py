"""Training questions: files with their errors by file and line, the file beside a knowledge base, questions by rule."""

import json

import pytest

from nanochat.errors import ConfigError
from nanochat.rag.question_file import QuestionError
from nanochat.rag.questions import questions_for, read_questions
from nanochat.retrieval import Document
from tasks.example_documents import example_documents

DOCUMENTS = [Document.from_dict(record) for record in example_documents()]
GOOD = {"id": "q1", "question": "Who?", "answers": ["Jon"], "supporting_ids": ["d1"], "hops": 1, "kind": "mayor"}
MINE = {"question": "Who may return what?", "answers": [], "supporting_ids": [DOCUMENTS[0].id]}


def write(path, *records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def ask(folder, path="", *, cloze_per_document=4):
    return questions_for(folder, DOCUMENTS, str(path), cloze_per_document=cloze_per_document, seed=0)


def test_questions_are_read_as_they_are(tmp_path):
    other = {**GOOD, "question": "Who\u2028else?", "answers": [], "parent": "d0"}
    del other["id"]
    path = write(tmp_path / "q.jsonl", GOOD, other)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8") + "\n  \n", encoding="utf-8")
    assert read_questions(path, {"d1"}) == [GOOD, {**other, "id": f"{path}:2"}]


@pytest.mark.parametrize(("changes", "words"), [
    ({"question": " "}, "'question' is missing"),
    ({"supporting_ids": []}, "it has answers, but 'supporting_ids' is empty"),
    ({"supporting_ids": ["d9"]}, "supporting document 'd9' is not in"),
])  # fmt: skip
def test_lines_that_cannot_train_are_named_by_file_and_line(tmp_path, changes, words):
    path = write(tmp_path / "q.jsonl", GOOD, {**GOOD, "id": "q2", **changes})
    with pytest.raises(QuestionError) as caught:
        read_questions(path, {"d1"})
    assert caught.value.problem.startswith(f"{path}:2: ") and words in caught.value.problem and caught.value.hint


def test_a_document_that_was_split_is_explained(tmp_path):
    with pytest.raises(QuestionError, match="'d1' is not in the knowledge base") as caught:
        read_questions(write(tmp_path / "q.jsonl", GOOD), {"d1#1", "d1#2"})
    assert "passages" in caught.value.hint and "'d1#1'" in caught.value.hint


@pytest.mark.parametrize("place", [".", ".."])
def test_the_file_beside_a_knowledge_base_is_found(tmp_path, place):
    (tmp_path / "kb").mkdir()
    path = write(tmp_path / "kb" / place / "queries_train.jsonl", MINE)
    questions, origin = ask(tmp_path / "kb")
    assert questions[0]["question"] == MINE["question"] and {item.get("kind") for item in questions[1:]} == {"cloze"}
    assert origin.startswith("1 from ") and path.name in origin and "fill-in questions made from the" in origin
    other = write(tmp_path / "other.jsonl", {**MINE, "question": "What else?"})
    assert [item["question"] for item in ask(tmp_path / "kb", other, cloze_per_document=0)[0]] == ["What else?"]


def test_fill_in_questions_of_a_file_are_not_made_again(tmp_path):
    # the others may be kept for a test
    made = ask(tmp_path)[0]
    path = write(tmp_path / "q.jsonl", *made[:3])
    questions, origin = ask(tmp_path, path)
    assert questions == made[:3] and origin == f"3 from {path}, fill-in questions among them, so none are made"


def test_no_questions_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No training questions") as caught:
        ask(tmp_path, cloze_per_document=0)
    assert "--cloze_per_document 4" in caught.value.hint
    with pytest.raises(ConfigError, match="--cloze_per_document is -1"):
        ask(tmp_path, cloze_per_document=-1)

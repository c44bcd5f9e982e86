"""Question files: the lists of documents that a line may name beside its evidence."""

import json

import pytest

from nanochat.rag.question_file import QuestionError, read_records

GOOD = {"id": "q1", "question": "Who?", "answers": ["Jon"], "supporting_ids": ["d1"], "hops": 1}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["supporting_ids", "about_ids", "near_ids", "also_ids"])
@pytest.mark.parametrize("value", [None, "d1", ["d1", 3], [""], [" "], [None], {"d1": 1}, 5, True])
def test_lists_of_documents_are_lists_of_texts(tmp_path, name, value):
    path = write(tmp_path / "q.jsonl", GOOD, {**GOOD, "id": "q2", name: value})
    with pytest.raises(QuestionError) as caught:
        read_records(path)
    assert caught.value.problem == f"{path}:2: '{name}' must be a list of non-empty strings" and caught.value.hint


def test_lists_of_documents_are_kept_as_they_are_and_none_is_added(tmp_path):
    more = {"about_ids": ["d2"], "near_ids": [], "also_ids": ["d3", "d4"]}
    path = write(tmp_path / "q.jsonl", GOOD, {**GOOD, **more, "id": "q2"})
    assert [record for _, record in read_records(path)[0]] == [GOOD, {**GOOD, **more, "id": "q2"}]

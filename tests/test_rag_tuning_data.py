"""Training data of a file, a folder or what lies beside a knowledge base: what trains, and what validates."""

import json

import pytest

from nanochat.common import write_jsonl
from nanochat.errors import ConfigError, ConversationError, UserError
from nanochat.rag.question_file import QuestionError
from nanochat.rag.tuning_data import held_out_data, is_episodes, read_episodes, tuning_data
from nanochat.retrieval import Document

DOCUMENTS = [Document(id=f"d{i}", title=f"Bridge {i}", content=f"In spring the Bridge {i} opened in 19{i + 10}.")
             for i in range(30)]


def question(number):
    return {"id": f"q{number}", "question": f"Who {number}?", "answers": ["Ume"], "supporting_ids": [f"d{number}"]}


def episode(number, **extra):
    shown = {"id": f"d{number}", "title": "T", "content": "Ume."}
    return {"id": f"e{number}", "messages": [
        {"role": "retrieval", "documents": [shown]}, {"role": "user", "content": f"Who {number}?"},
        {"role": "assistant", "content": "Ume", "citations": [0]}], **extra}


def read(folder, path="", **settings):
    return tuning_data(folder / "kb", DOCUMENTS, str(path), **{"cloze_per_document": 0, "validation_share": 0.3,
                                                               "seed": 0, **settings})


def ids(records):
    return [record["id"] for record in records]


def test_questions_about_passages_of_one_document_fall_on_one_side(tmp_path):
    passages = [Document(id=f"d{i}#{n}", title="", content="Ume.", metadata={"parent": f"d{i}"})
                for i in range(20) for n in range(3)]
    write_jsonl(tmp_path / "q.jsonl", [{**question(i), "id": f"q{i}-{n}", "supporting_ids": [f"d{i}#{n}"]}
                                       for i in range(20) for n in range(3)])
    found = tuning_data(tmp_path / "kb", passages, str(tmp_path / "q.jsonl"), cloze_per_document=0,
                        validation_share=0.3, seed=0)
    sides = [{name.partition("#")[0] for record in side for name in record["supporting_ids"]}
             for side in (found.questions, found.validation_questions)]
    assert all(sides) and not sides[0] & sides[1]


def test_a_file_is_questions_or_episodes_by_its_first_line(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", map(question, range(30)))
    write_jsonl(tmp_path / "e.jsonl", map(episode, range(30)))
    assert not is_episodes(tmp_path / "q.jsonl") and is_episodes(tmp_path / "e.jsonl")
    for name, train, held in (("q", "questions", "validation_questions"), ("e", "episodes", "validation_episodes")):
        data = read(tmp_path, tmp_path / f"{name}.jsonl")
        mine, kept = ids(getattr(data, train)), ids(getattr(data, held))
        assert len(data) == len(mine) and sorted(mine + kept) == sorted(f"{name}{i}" for i in range(30))
        assert 3 <= len(kept) <= 16 and f"30 {'episodes' if name == 'e' else ''}".strip() in data.origin
        assert (mine, kept) == (ids(getattr(read(tmp_path, tmp_path / f"{name}.jsonl"), train)), kept)
        assert len(read(tmp_path, tmp_path / f"{name}.jsonl", validation_share=0.0)) == 30


def test_episodes_of_a_document_fall_on_one_side(tmp_path):
    many = [{**episode(i % 6), "id": f"e{i}"} for i in range(60)]
    write_jsonl(tmp_path / "e.jsonl", many)
    data = read(tmp_path, tmp_path / "e.jsonl")
    about = [{record["messages"][1]["content"] for record in part}
             for part in (data.episodes, data.validation_episodes)]
    assert about[0] and about[1] and not about[0] & about[1]
    write_jsonl(tmp_path / "p.jsonl", [episode(i, parent="one") for i in range(9)])
    whole = read(tmp_path, tmp_path / "p.jsonl")
    # of a single document something must validate all the same
    assert whole.episodes and whole.validation_episodes


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_keeps_its_validation_file_apart(tmp_path, beside):
    place = tmp_path if beside else tmp_path / "data"
    (tmp_path / "kb").mkdir()
    write_jsonl(place / "queries_train.jsonl", map(question, range(5)))
    write_jsonl(place / "episodes_train.jsonl", map(episode, range(7)))
    write_jsonl(place / "queries_validation.jsonl", [question(9)])
    (place / "episodes_validation.jsonl").write_text("")
    data = read(tmp_path, "" if beside else place, cloze_per_document=4)
    assert (len(data.questions), len(data.episodes)) == (5, 7), "nothing is split off, and no cloze is added"
    assert ids(data.validation_questions) == ["q9"] and not data.validation_episodes
    assert ids(held_out_data(DOCUMENTS, str(place)).validation_questions) == ["q9"]
    # both settings were given and do nothing here; without validation files the share counts again
    assert set(data.unused) == {"cloze_per_document", "validation_share"}
    (place / "queries_validation.jsonl").unlink()
    write_jsonl(place / "episodes_train.jsonl", map(episode, range(7)))
    assert set(read(tmp_path, place, cloze_per_document=4).unused) == {"cloze_per_document"}


def test_without_a_path_the_file_beside_and_cloze_questions_train(tmp_path):
    (tmp_path / "kb").mkdir()
    found = read(tmp_path, cloze_per_document=1)
    assert len(found) > 5 and not found.unused
    write_jsonl(tmp_path / "queries_train.jsonl", map(question, range(8)))
    data = read(tmp_path)
    assert len(data.questions) + len(data.validation_questions) == 8
    (tmp_path / "queries_train.jsonl").unlink()
    with pytest.raises(ConfigError, match="No training questions"):
        read(tmp_path)


@pytest.mark.parametrize(("line", "problem"), [
    (json.dumps({"messages": []}), "e.jsonl:2: The conversation ends before"),
    (json.dumps({"messages": [{"role": "user", "content": "Hi"}]}), "e.jsonl:2: the episode does not end with an"),
    ("{oops", "e.jsonl:2: not valid JSON"),
])
def test_bad_episodes_are_named_by_file_and_line(tmp_path, line, problem):
    (tmp_path / "e.jsonl").write_text(json.dumps(episode(0)) + "\n" + line)
    with pytest.raises(UserError) as caught:
        read(tmp_path, tmp_path / "e.jsonl")
    assert problem in caught.value.problem and caught.value.hint


def test_empty_places_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(QuestionError, match="neither queries_train.jsonl nor episodes_train.jsonl") as caught:
        read(tmp_path, tmp_path / "data")
    assert "--mode synthesize" in caught.value.hint
    with pytest.raises(QuestionError, match="neither queries_validation"):
        held_out_data(DOCUMENTS, str(tmp_path / "data"))
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(QuestionError, match="no episodes"):
        read_episodes(tmp_path / "e.jsonl")
    with pytest.raises(QuestionError, match="Questions not found"):
        read(tmp_path, tmp_path / "none.jsonl")
    write_jsonl(tmp_path / "e.jsonl", [episode(0), {"messages": [episode(0)["messages"][1]]}])
    with pytest.raises(ConversationError, match="e.jsonl:2"):
        held_out_data(DOCUMENTS, str(tmp_path / "e.jsonl"))

"""Training and validation share no document: what records are about, groups of them, and what training may not show."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthesis_stubs import make_library, spec_documents, world_documents

from nanochat.common import write_jsonl
from nanochat.rag.apart import cited_by, documents_of, families, linked, split_records, unseen_ids
from nanochat.rag.training_data import DataConfig, iter_episodes, make_training_data
from nanochat.rag.tuning_data import held_out_data, tuning_data, unseen_documents
from nanochat.retrieval import Document


@pytest.fixture(scope="module")
def made():
    return make_training_data(make_library([*world_documents(), *spec_documents()]),
                              DataConfig(seed=3, validation_share=0.0, test_share=0.2))


def episode(shown, cited=(), **extra):
    documents = [{"id": name, "title": "T", "content": "Ume."} for name in shown]
    answer = {"citations": list(cited), "content": "Ume"} if cited else {"content": "", "abstain": True}
    return {"messages": [{"role": "retrieval", "documents": documents}, {"role": "user", "content": "Who?"},
                         {"role": "assistant", **answer}], **extra}


def test_an_episode_says_which_documents_it_is_about(made):
    asked = {question["id"]: question for part in made.questions.values() for question in part}
    kinds = set()
    for one in iter_episodes(made):
        question = asked[one["question_id"]]
        kinds.add(one["kind"])
        assert documents_of(one) == one["document_ids"] == documents_of(question) and one["document_ids"]
        assert not any("~" in name for name in one["document_ids"])
        assert set(cited_by(one)) <= set(one["document_ids"]), "a changed copy counts as its document"
    assert {"edited", "contradiction", "entity_absent", "relation_absent", "bridge_broken"} <= kinds


def test_no_document_is_on_both_sides_of_one_file_of_episodes(made, tmp_path):
    documents = [Document.from_dict(record) for record in [*world_documents(), *spec_documents()]]
    write_jsonl(tmp_path / "e.jsonl", made.episodes["train"])
    for share in (0.1, 0.3):
        data = tuning_data(tmp_path / "kb", documents, str(tmp_path / "e.jsonl"), cloze_per_document=0,
                           validation_share=share, seed=0)
        train, held = ({name for one in part for name in one["document_ids"]}
                       for part in (data.episodes, data.validation_episodes))
        assert train and held and not train & held
        share_held = len(data.validation_episodes) / len(made.episodes["train"])
        assert 0.5 * share <= share_held <= share + 0.01, share_held
        assert "documents of training" not in data.origin
        # what is kept back is in no context of training
        assert unseen_documents(documents, data, data) == held


def test_older_episodes_are_parted_by_what_they_show():
    # pairs of documents that appear together, a changed copy among them
    episodes = [episode([f"d{n}", f"d{n + n % 2 * -1}~12"], [0]) for n in range(40)]
    train, held, note = split_records(episodes, 0.25, {})
    seen = [{name for one in part for name in documents_of(one)} for part in (train, held)]
    assert len(held) == 10 and not seen[0] & seen[1] and not note
    # a distractor that is everywhere links all: then what they cite decides, and it is said
    linked_all = [episode([f"d{n}", "everywhere"], [0]) for n in range(40)]
    train, held, note = split_records(linked_all, 0.25, {})
    cited = [{name for one in part for name in cited_by(one)} for part in (train, held)]
    assert len(held) == 10 and not cited[0] & cited[1] and note == "validation shows documents of training"
    # all about one document
    train, held, note = split_records([episode(["d"], [0]) for _ in range(8)], 0.25, {})
    assert (len(train), len(held)) == (6, 2) and note == "validation is about documents of training"
    # abstentions cite nothing, and do not belong together for that
    _, held, _ = split_records([episode([f"d{n}", "everywhere"]) for n in range(40)], 0.25, {})
    assert len(held) == 10


@pytest.mark.parametrize("value", [None, "d1", [], [1, 2], {"d1": 1}])
def test_document_ids_that_are_no_list_of_ids_do_not_count(value):
    assert documents_of(episode(["d7", "d8~2"], document_ids=value)) == ["d7", "d8"]


def test_passages_of_a_document_stay_together_as_long_as_there_are_others():
    episodes = [episode([f"book{n // 10}#{n}"], [0]) for n in range(60)]
    family_of = {f"book{n // 10}#{n}": f"book{n // 10}" for n in range(60)}
    train, held, _ = split_records(episodes, 0.3, family_of)
    books = [{name.partition("#")[0] for one in part for name in documents_of(one)} for part in (train, held)]
    assert books[0] and books[1] and not books[0] & books[1]
    _, held, note = split_records(episodes[:10], 0.3, family_of)
    assert len(held) == 3 and not note, "of a single document its passages are parted"


records = st.lists(st.lists(st.integers(0, 12), min_size=0, max_size=3), min_size=0, max_size=40)


@given(records, st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@settings(deadline=None, max_examples=200)
def test_a_split_loses_nothing_and_parts_documents_unless_it_says_so(rows, share):
    questions = [{"id": str(place), "supporting_ids": [f"d{n}" for n in row]} for place, row in enumerate(rows)]
    train, held, note = split_records(questions, share, {})
    assert sorted(one["id"] for one in train + held) == sorted(one["id"] for one in questions)
    assert (train, held, note) == split_records(questions, share, {})
    assert bool(held) == (share > 0 and len(questions) > 1) and (train or not questions)
    seen = [{name for one in part for name in one["supporting_ids"]} for part in (train, held)]
    assert note or not seen[0] & seen[1]


def test_links_are_followed_however_long_they_are():
    rng = random.Random(0)
    chains = [[f"{chain}.{n}", f"{chain}.{n + 1}"] for chain in range(3) for n in range(500)]
    rng.shuffle(chains)
    groups = linked(chains)
    assert len(set(groups)) == 3
    assert all(group.partition(".")[0] == keys[0].partition(".")[0] for group, keys in zip(groups, chains, strict=True))


def test_what_training_may_not_show():
    family_of = families([Document(id=f"b{n}#{k}", content="x", metadata={"parent": f"b{n}"}) for n in range(3)
                          for k in range(2)] + [Document(id=name, content="x") for name in ("a", "b", "c~1")])
    asked = [{"supporting_ids": ["a", "b2#0"]}]
    held = [{"supporting_ids": ["b"], "near_ids": ["b0#0"]}, {"supporting_ids": ["a", "b2#1"]}]
    # a training question needs a and a passage of b2; of b0 all passages are kept back
    assert unseen_ids(family_of, asked, held) == {"b", "b0#0", "b0#1", "b2#1"}
    assert unseen_ids(family_of, asked, [episode(["b", "b1#0"], [1])], ["c~1", "unknown"]) == {"b1#0", "b1#1", "c~1"}
    assert unseen_ids(family_of, asked, [episode(["b"], [0], document_ids=["c~1"])]) == {"c~1"}
    assert unseen_ids(family_of, asked, []) == frozenset()


def test_test_questions_of_a_folder_are_kept_back_too(tmp_path):
    documents = [Document(id=f"d{n}", content="x") for n in range(9)]
    question = {"id": "q", "question": "Who?", "answers": ["x"], "supporting_ids": ["d1"]}
    write_jsonl(tmp_path / "data" / "queries_train.jsonl", [question])
    write_jsonl(tmp_path / "data" / "queries_validation.jsonl", [question | {"supporting_ids": ["d2"]}])
    write_jsonl(tmp_path / "data" / "queries_test.jsonl",
                [question | {"supporting_ids": ["d3", "gone"]}, {"supporting_ids": 1}])
    read = {"cloze_per_document": 0, "validation_share": 0.1, "seed": 0}
    data = tuning_data(tmp_path / "kb", documents, str(tmp_path / "data"), **read)
    assert unseen_documents(documents, data, data) == {"d2", "d3"}
    assert unseen_documents(documents, data, None) == {"d3"}, "validation is about other documents"
    write_jsonl(tmp_path / "held.jsonl", [question | {"supporting_ids": ["d4"]}])
    assert unseen_documents(documents, data, held_out_data(documents, str(tmp_path / "held.jsonl"))) == {"d3", "d4"}


def test_questions_and_episodes_of_a_folder_without_validation_are_split_together(tmp_path):
    documents = [Document(id=f"d{n}", content="x") for n in range(30)]
    write_jsonl(tmp_path / "data" / "queries_train.jsonl", [
        {"id": f"q{n}", "question": f"Who {n}?", "answers": ["x"], "supporting_ids": [f"d{n}"]} for n in range(30)])
    write_jsonl(tmp_path / "data" / "episodes_train.jsonl", [episode([f"d{n}"], [0]) for n in range(30)])
    data = tuning_data(tmp_path / "kb", documents, str(tmp_path / "data"), cloze_per_document=0, validation_share=0.3,
                       seed=0)
    train = {name for one in [*data.questions, *data.episodes] for name in documents_of(one)}
    held = {name for one in [*data.validation_questions, *data.validation_episodes] for name in documents_of(one)}
    assert not train & held and len(data.validation_questions) == len(data.validation_episodes) == 9

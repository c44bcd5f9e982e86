"""The data of a tuning run: what validation asks about is never shown, and a run resumed over other data says so."""

import json
import random

import pytest
from rag_finetune_stubs import make_place, meta_of, tune

from nanochat.common import write_jsonl
from nanochat.rag.pool import ExampleConfig
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager
from scripts.data_fingerprint import say_other_data
from scripts.rag_data import make_pool
from tasks.worlds import WorldConfig, make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_place(folder)
        yield folder


def questions_of(folder):
    return [json.loads(line) for line in (folder / "queries_train.jsonl").read_text().splitlines()]


def test_contexts_never_show_what_is_left_out_and_show_as_much_as_ever(folder, capsys):
    questions = questions_of(folder)
    manager = RetrievalManager("bm25", folder / "kb")
    ids = [document.id for document in manager.knowledge_base.documents]
    needed = {name for question in questions[:8] for name in question["supporting_ids"]}
    unseen = set([name for name in ids if name not in needed][:8])
    pools = [make_pool(questions[:8], manager, top_k=4, unseen=names) for names in ((), unseen)]
    assert "No context of training shows the 8 documents that only validation or test are" in capsys.readouterr().out
    config = ExampleConfig(max_documents=4, random_share=0.5)
    shown = [[[document["id"] for document in conversation["messages"][0]["documents"]]
              for conversation in pool.conversations(300, random.Random(1), config)] for pool in pools]
    first, second = ({name for context in contexts for name in context} for contexts in shown)
    assert unseen & first and not unseen & second and needed <= second
    for pool, allowed in zip(pools, (set(ids), set(ids) - unseen), strict=True):
        assert set(pool.position_of) == allowed
        for question, hits in zip(questions, pool.search([q["question"] for q in questions[:8]], 6), strict=False):
            # the best of those that may be shown, in their order
            best = [found.id for found in manager.retrieve(question["question"], 24) if found.id in allowed][:6]
            assert [pool.documents[position]["id"] for position in hits] == best


@pytest.mark.parametrize("flags", [
    ["--validation_share", "0.3"], ["--validation_questions", "{folder}/held.jsonl"],
    ["--questions", "{folder}/episodes_held"],
], ids=["share", "file", "folder"])  # fmt: skip
def test_training_sees_no_document_that_validation_asks_about(folder, monkeypatch, flags):
    questions = questions_of(folder)
    held = [question for question in questions if question["supporting_ids"]][-6:]
    write_jsonl(folder / "held.jsonl", held)
    # training questions that need the same documents are left out here, as in a split by document
    about = {name for question in held for name in question["supporting_ids"]}
    mine = [question for question in questions if not about & set(question["supporting_ids"])]
    write_jsonl(folder / "mine.jsonl", mine)
    write_jsonl(folder / "episodes_held" / "queries_train.jsonl", mine)
    write_jsonl(folder / "episodes_held" / "episodes_validation.jsonl", [{"document_ids": sorted(about), "messages": [
        {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ume"}]}])
    pools = []

    def recorded(*parts, **settings):
        pools.append(make_pool(*parts, **settings))
        return pools[-1]

    monkeypatch.setattr("scripts.rag_finetune.make_pool", recorded)
    more = ["--questions", "{folder}/mine.jsonl"] if flags[0] == "--validation_questions" else []
    _, _, printed = tune(folder, "seen", "--num_steps", "1", *flags, *more)
    train = {document["id"] for document in pools[0].documents}
    num_documents = KnowledgeBase.open(folder / "kb").num_documents
    if pools[1] is not None:
        about = {name for question in pools[1].questions for name in question["supporting_ids"]}
        about -= {name for question in pools[0].questions for name in question["supporting_ids"]}
        assert len(pools[1].documents) == num_documents, "validation shows any document"
    assert about and not about & train
    assert f"shows the {num_documents - len(train)} documents that only validation or test" in printed


def test_a_knowledge_base_of_its_own_takes_no_document_from_training(folder, monkeypatch):
    # another world with the same ids
    world = make_world(WorldConfig(seed=12, num_entities=20, questions_per_entity=2))
    KnowledgeBase.build([Document.from_dict(record) for record in world.documents], folder / "other", "simple")
    write_jsonl(folder / "other.jsonl", [question.to_dict() for question in world.questions][:6])
    _, _, printed = tune(folder, "apart", "--num_steps", "1", "--validation_questions", "{folder}/other.jsonl",
                         "--validation_knowledge_base", "{folder}/other")
    assert "No context of training" not in printed


def test_a_run_resumed_over_other_data_says_what_changed(folder):
    flags = ["--questions", "{folder}/few.jsonl", "--validation_questions", "{folder}/val.jsonl", "--num_steps"]
    questions = questions_of(folder)
    write_jsonl(folder / "few.jsonl", questions[:20])
    write_jsonl(folder / "val.jsonl", questions[20:25])
    _, meta, printed = tune(folder, "over", *flags, "1")
    assert meta["data"]["questions"]["count"] == 20 and meta["data"]["knowledge_base"] == meta["knowledge_base"]
    assert "the data is not" not in printed
    assert "the data is not" not in tune(folder, "over", *flags, "2", "--resume", "true")[2]
    write_jsonl(folder / "few.jsonl", [*questions[:19], questions[19] | {"answers": ["otherwise"]}])
    printed = tune(folder, "over", *flags, "3", "--resume", "true")[2]
    (line,) = [line for line in printed.splitlines() if "the data is not what this run was begun with" in line]
    assert "the questions (20, " in line and "validation" not in line.split(". ")[0] and "--tag NAME" in line
    KnowledgeBase.open(folder / "kb").add([Document(id="late", title="Late", content="It came late.")])
    write_jsonl(folder / "val.jsonl", questions[20:24])
    printed = tune(folder, "over", *flags, "4", "--resume", "true")[2]
    (line,) = [line for line in printed.splitlines() if "the data is not what this run was begun with" in line]
    assert f"the knowledge base ({meta['knowledge_base'][:8]} -> {meta_of('over')['knowledge_base'][:8]})" in line
    assert "the validation questions (5, " in line and "the questions" not in line.replace("validation questions", "")


def test_a_checkpoint_that_knows_nothing_of_its_data_is_believed(capsys):
    say_other_data({}, {"knowledge_base": "a", "chats": 3})
    assert not capsys.readouterr().out
    say_other_data({"knowledge_base": "abc", "chats": 3}, {"knowledge_base": "def", "chats": 4})
    assert "the knowledge base (abc -> def), the conversations of --base_tasks (3 -> 4)." in capsys.readouterr().out

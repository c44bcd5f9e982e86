"""The data of refrag_finetune: questions of several hops are found where they lie, and what cannot be used is named."""

import json
import random
from types import SimpleNamespace

import pytest
from refrag_stubs import make_world

from nanochat.common import write_jsonl
from nanochat.config import load_config
from nanochat.errors import ConfigError, UserError
from nanochat.rag.question_file import QuestionError
from nanochat.rag.tuning_data import TuningData
from nanochat.refrag.sources import DrawSettings
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager
from scripts.refrag_data import check_stages, make_reward_source, make_trace_pool, refrag_data, with_chains
from scripts.refrag_finetune import RefragFinetuneConfig


def settings(*flags):
    return load_config(RefragFinetuneConfig, list(map(str, flags)), prog="x")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A knowledge base of a chain world with plain questions beside it."""
    folder = tmp_path_factory.mktemp("chains")
    world = make_world(50)
    KnowledgeBase.build([Document.from_dict(one) for one in world.documents], folder / "kb", "bm25")
    write_jsonl(folder / "queries_train.jsonl", [one for one in world.pool.questions if one["answers"]][:20])
    return folder


@pytest.fixture
def manager(place):
    return RetrievalManager("bm25", str(place / "kb"))


def chain_questions():
    return [one for one in make_world(50).questions if one["hops"] == 2 and one["answers"]]


def test_chain_questions_beside_the_knowledge_base_are_trained_on(place, manager, capsys):
    path = place / "queries_multihop_train.jsonl"
    config = settings("--knowledge_base", place / "kb", "--cloze_per_document", 0)
    assert 2 not in make_trace_pool(refrag_data(config, manager)[0].questions, manager).by_hops
    write_jsonl(path, chain_questions())
    try:
        data, unseen = refrag_data(config, manager)
    finally:
        path.unlink()
    held = [one for one in data.validation_questions if one.get("steps")]
    trained = [one for one in data.questions if one.get("steps")]
    assert held and trained and len(held) + len(trained) == len(chain_questions())
    assert f"{len(trained)} questions of several hops" in capsys.readouterr().out
    pool = make_trace_pool(data.questions, manager, unseen=unseen)
    assert len(pool.by_hops[2][0]) == len(trained) and not {d["id"] for d in pool.documents} & unseen


def test_a_question_file_of_chains_is_split_like_any_other(place, manager):
    path = place / "mine.jsonl"
    write_jsonl(path, chain_questions())
    data, _ = refrag_data(settings("--knowledge_base", place / "kb", "--questions", path, "--cloze_per_document", 0,
                                   "--validation_share", 0.3), manager)
    assert all(one["steps"][0]["query"] == one["question"] for one in data.questions)
    assert data.questions and data.validation_questions
    assert len(data.questions) + len(data.validation_questions) == len(chain_questions())


def test_a_folder_with_validation_questions_keeps_them_apart(place, manager):
    folder = place / "both"
    ids = {document.id for document in manager.knowledge_base.documents}
    first, *others = chain_questions()
    write_jsonl(folder / "queries_multihop_train.jsonl", others)
    write_jsonl(folder / "queries_multihop_validation.jsonl", [first])
    data = with_chains(settings("--questions", folder), TuningData(), ids)
    assert [one["id"] for one in data.validation_questions] == [first["id"]] and len(data.questions) == len(others)
    assert with_chains(settings("--questions", place / "nothing"), TuningData(), ids) == TuningData()


def test_steps_that_cannot_be_are_named_with_their_line(place, manager):
    path = place / "wrong.jsonl"
    wrong = json.loads(json.dumps(chain_questions()[0]))
    wrong["steps"][1]["document_id"] = "nowhere"
    write_jsonl(path, [wrong])
    with pytest.raises(UserError, match="wrong.jsonl:1"):
        refrag_data(settings("--knowledge_base", place / "kb", "--questions", path), manager)


def test_stages_follow_the_number_of_searches(capsys):
    assert check_stages(settings()) == ["chains1", "chains2", "chains3"]
    assert check_stages(settings("--max_hops", 2)) == ["chains1", "chains2"]
    assert check_stages(settings("--max_hops", 5)) == ["chains1", "chains2", "chains3", "chains4"]
    assert not capsys.readouterr().out, "nobody asked for the stages that are left out"
    assert check_stages(settings("--max_hops", 2, "--stages", "chains1,chains3")) == ["chains1"]
    assert "With --max_hops 2 the stages are chains1\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="Unknown stage ''"):
        check_stages(settings("--stages", ""))
    with pytest.raises(ConfigError, match="--max_hops 1 is too few"):
        check_stages(settings("--stages", "chains2", "--max_hops", 1))


def test_a_pool_searches_around_what_may_not_be_shown():
    documents = [Document(id=str(n), title=f"Kite {n}", content="the red kite") for n in range(6)]

    def retrieve_batch(queries, top_k):
        return [documents[:top_k] for _ in queries]

    stub = SimpleNamespace(knowledge_base=SimpleNamespace(documents=documents), retrieve_batch=retrieve_batch)
    question = {"id": "q", "question": "Which kite?", "answers": ["red"], "supporting_ids": ["3"], "hops": 1}
    pool = make_trace_pool([question], stub, unseen={"0", "1"})
    found = [[pool.documents[place]["id"] for place in row] for row in pool.search(["Which kite?"], 2)]
    assert found == [["2", "3"]]
    assert make_trace_pool([{**question, "hops": 2}], stub) is None, "nobody knows how it is searched"


def test_questions_whose_steps_nobody_knows_are_asked_for_rewards_and_no_traces(place, manager, capsys):
    known = chain_questions()
    plain = [{name: one[name] for name in ("id", "question", "answers")} for one in known]
    path = place / "answers.jsonl"
    write_jsonl(path, [*plain, {"id": "none", "question": "Who?", "answers": []}])
    given = ["--knowledge_base", place / "kb", "--questions", path, "--cloze_per_document", 0]
    data, unseen = refrag_data(settings(*given, "--validation_share", 0.3), manager)
    kept = [one for one in data.questions if one["answers"]]
    assert 0 < len(kept) < len(known) and f"{len(kept)} that only rewards can teach" in capsys.readouterr().out
    pool = make_trace_pool(data.questions, manager, unseen=unseen)
    assert pool is None or not any(group for group, _ in pool.by_hops.values())
    source = make_reward_source(data.questions, manager, DrawSettings(max_hops=2), unseen=unseen)
    drawn = source.draw("x", 40)
    assert {one["id"] for one in drawn.questions} >= {one["id"] for one in kept}
    assert all(drawn.gold(one, random.Random(0)) is None for one in drawn.questions if one["answers"])
    # more documents than searches: nobody could answer it
    far = [{**plain[0], "supporting_ids": [manager.knowledge_base.documents[n].id for n in range(3)], "hops": 1}]
    assert make_reward_source(far, manager, DrawSettings(max_hops=2)) is None
    assert make_reward_source(far, manager, DrawSettings(max_hops=3)).draw("x", 1).questions[0]["hops"] == 3


def test_without_rewards_a_question_must_name_its_evidence(place, manager):
    path = place / "bare.jsonl"
    write_jsonl(path, [{"id": "q", "question": "Who?", "answers": ["Mira"]}])
    with pytest.raises(QuestionError, match="it has answers, but 'supporting_ids' is empty"):
        refrag_data(settings("--knowledge_base", place / "kb", "--questions", path, "--use_rewards", "false"), manager)

"""The curriculum of traces: batches from step and stage alone, a share of plain reading, a gate on whole traces."""

import random
from dataclasses import replace

import pytest
import torch

from nanochat.chat_format import render
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig, walk_masks
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.rag.curriculum import FIRST_SEED, HELD_OUT_SEED, Mixture
from nanochat.rag.pool import Pool
from nanochat.refrag import curriculum as module
from nanochat.refrag.curriculum import TraceCurriculum, traces_right
from nanochat.refrag.practice import CHAIN_STAGES, ChainWorld
from nanochat.refrag.traces import TracePool
from nanochat.tokenizer import Tokenizer

WORLD = ChainWorld(3)
TOKENIZER = Tokenizer.train([f" {d['title']} {d['content']}" for d in WORLD.documents], 700)
STAGES = list(CHAIN_STAGES)


def make(*stages, **settings):
    return TraceCurriculum(stages, TOKENIZER, **{
        "seed": 0, "row_len": 1500, "examples_per_step": 4, "context_weight": 0.1, "retriever_type": "simple",
        "gate_examples": 6, **settings,
    })


def make_model(seed=0):
    config = ModelConfig(
        block_pattern="M,T", vocab_size=TOKENIZER.vocab_size, sequence_len=512, n_embd=32, n_head=2, n_kv_head=2,
        mlp_hidden=32, attention_conv=4, d_state=8, headdim=16, chunk_size=16, init_std=0.1, embedding_multiplier=8.0,
    )
    return LanguageModel(config, seed=seed)


def same(one, other):
    return one.ids.shape == other.ids.shape and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("ids", "targets", "weights", "seq_idx"))


def examples(curriculum, count, seed=0):
    return curriculum._examples(WORLD, count, random.Random(seed))


def num_hops(rendered):
    """Searches of a rendered trace; 0 for plain reading."""
    starts = [at for at, token in enumerate(rendered.ids) if token == TOKENIZER.special("assistant_start")]
    if not rendered.mask[starts[0]] and TOKENIZER.special("query_start") not in rendered.ids:
        return 0
    return rendered.ids.count(TOKENIZER.special("results_start"))


def test_every_trace_keeps_to_what_a_model_can_write():
    """The grammar of searching at inference allows each supervised token, and decides at the same places."""
    engine = Engine(make_model(), TOKENIZER)
    config = replace(make("chains3").trace_config, recovery_share=1.0, min_followups=0, max_followups=0)
    for conversation in WORLD.traces.conversations(60, random.Random(0), config):
        rendered = render(conversation, TOKENIZER)
        allowed = dict(walk_masks(engine, rendered.ids, rendered.mask, HopConfig(max_hops=3, max_query_tokens=64)))
        assert sorted(allowed) == [place for place, value in enumerate(rendered.mask) if value]
        assert all(mask[rendered.ids[place]] and not mask.all() for place, mask in allowed.items())


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_depends_on_seed_step_micro_and_stage_only(stage):
    first, second = make(stage), make(stage)
    places = [(0, 0), (0, 1), (1, 0), (6, 0)]
    forward = {place: first.batches(*place) for place in places}
    backward = {place: second.batches(*place) for place in reversed(places)}
    assert all(same(forward[place], backward[place]) for place in places)
    batches = [*forward.values(), make(stage, seed=1).batches(0, 0)]
    assert not any(same(a, b) for i, a in enumerate(batches) for b in batches[:i])
    assert all(batch.kind == stage and batch.counts["examples_lost"] == 0 for batch in batches)


def test_stages_add_hops_and_a_share_of_plain_reading_stays():
    for number, stage in enumerate(STAGES, start=1):
        found = [num_hops(item) for item in examples(make(stage), 120)]
        assert 0.2 < found.count(0) / len(found) < 0.42
        # an abstention takes one search more
        assert max(found) == min(3, number + 1)
    assert not any(num_hops(item) == 0 for item in examples(make("chains2", reading_share=0.0, traces={
        "absent_share": 0.0}), 30))
    assert all(num_hops(item) == 0 for item in examples(make("chains2", reading_share=1.0), 12))


def test_the_decision_to_search_again_weighs_as_much_as_the_one_to_answer():
    plain, heavy = (make("chains2", decision_weight=weight, context_weight=0.0).batches(0, 0) for weight in (1.0, 3.0))
    assert torch.equal(plain.ids, heavy.ids)
    heavier = heavy.weights > plain.weights
    before = {int(token) for token in plain.ids[heavier]}
    assert before == {TOKENIZER.special("assistant_start"), TOKENIZER.special("user_end")}
    assert torch.all(heavy.weights[heavier] == 3.0) and torch.all(heavy.weights[~heavier] == plain.weights[~heavier])
    # of plain reading, what follows a question is no decision
    reading = make("chains2", decision_weight=3.0, context_weight=0.0, reading_share=1.0).batches(0, 0)
    assert not reading.weights[reading.ids == TOKENIZER.special("user_end")].any()


def test_settings_of_the_run_reach_the_traces():
    curriculum = make("chains3", max_hops=2, top_k_per_hop=1, traces={"absent_share": 0.0}, reading_share=0.0)
    found = examples(curriculum, 40)
    assert {num_hops(item) for item in found} == {1, 2}
    assert max(len(item.documents) for item in found) <= 2
    assert curriculum.trace_config.absent_share == 0.0


def test_the_longest_questions_are_practised_where_there_are_searches_for_them():
    curriculum = make("chains4", max_hops=4, top_k_per_hop=2, traces={"absent_share": 0.0, "recovery_share": 0.0})
    found = curriculum._examples(curriculum._world(4), 60, random.Random(0))
    assert {1, 2, 3, 4} <= {num_hops(item) for item in found}


def test_the_record_keeps_the_stage():
    both = make("chains1", "chains2")
    assert both.restore({"stages": ["chains1", "chains2"], "index": 1, "is_passed": False})
    assert same(both.batches(4, 0), make("chains2").batches(4, 0))
    assert not make("chains2").restore(both.record())


def test_unknown_stages_and_impossible_settings_are_refused_at_once():
    with pytest.raises(ConfigError, match="Unknown stage 'documents'"):
        make("documents")
    with pytest.raises(ConfigError, match="48 documents"):
        make("chains1", max_hops=6, top_k_per_hop=8)
    with pytest.raises(ConfigError, match="reading_share is 2"):
        make("chains1", reading_share=2)


def test_training_worlds_are_never_gate_worlds(monkeypatch):
    seeds = []

    class Recorder(ChainWorld):
        def __init__(self, seed, settings, retriever_type, **options):
            seeds.append(seed)
            super().__init__(seed, {**settings, "num_entities": 30}, retriever_type, **options)

    monkeypatch.setattr(module, "ChainWorld", Recorder)
    curriculum = make("chains2")
    for step in (0, 1, 2, 10**6):
        curriculum.batches(step, 0)
    assert len(seeds) == 3 and min(seeds) >= FIRST_SEED and max(seeds) < HELD_OUT_SEED
    curriculum.evaluate(make_model(), 5)
    assert seeds[-1] == HELD_OUT_SEED + 5


def test_the_users_own_questions_become_traces_and_plain_ones_stay_plain():
    documents = [{"id": f"d{i}", "title": f"Zqx {i}", "content": f"Zqx {i} weighs {i * 7} stones."} for i in range(12)]
    questions = [{"id": f"q{i}", "question": f"What does Zqx {i} weigh?", "answers": [f"{i * 7} stones"],
                  "supporting_ids": [f"d{i}"]} for i in range(12)]

    def search(queries, top_k):
        return [list(range(12))[:top_k] for _ in queries]

    for kind, is_trace in ((TracePool, True), (Pool, False)):
        pool = kind(documents, questions, search)
        curriculum = make("chains2", mixture=Mixture(pool=pool, pool_share=0.5))
        mine = [item for item in examples(curriculum, 40) if "Zqx" in TOKENIZER.decode(item.ids)]
        assert 15 <= len(mine) <= 25 and all((num_hops(item) > 0) == is_trace for item in mine)
        assert 0 <= curriculum.validate(make_model(), pool)["val_accuracy"] <= 1


def test_the_gate_asks_for_whole_traces_and_tells_its_parts(monkeypatch):
    verdict = {"now": False}
    monkeypatch.setattr(module, "traces_right", lambda model, rendered, group: [verdict["now"]] * len(rendered))
    curriculum, model = make("chains1", "chains2", gate_examples=24), make_model()
    metrics = curriculum.evaluate(model, 1)
    assert metrics == {"stage": "chains1", "accuracy": 0.0, "accuracy_1": 0.0, "accuracy_absent": 0.0}
    assert (curriculum.index, curriculum.is_passed) == (0, False)
    verdict["now"] = True
    metrics = curriculum.evaluate(model, 2)
    assert metrics["gate_passed"] == CHAIN_STAGES["chains1"].gate and metrics["next_stage"] == "chains2"
    metrics = curriculum.evaluate(model, 3)
    assert metrics["accuracy_2"] == metrics["accuracy"] == 1.0 and curriculum.is_passed


def test_a_trace_that_does_not_fit_into_a_row_is_not_right():
    assert make("chains2", row_len=40).evaluate(make_model(), 0)["accuracy"] == 0.0
    assert make("chains2", row_len=40).batches(0, 0).weight() == 0


def test_a_trace_is_right_when_every_supervised_token_is_the_likeliest():
    model = make_model().eval()
    config = replace(make("chains1").trace_config, top_k=1, min_followups=0, max_followups=0)
    conversations = WORLD.traces.conversations(6, random.Random(0), config)
    rendered = [render(conversation, TOKENIZER) for conversation in conversations]
    assert traces_right(model, rendered, TOKENIZER.doc_ids) == [False] * len(rendered)
    # what the model would write, in the place of what was asked for
    wanted = []
    for number, item in enumerate(rendered):
        ids = list(item.ids)
        for at in range(1, len(ids)):
            if item.mask[at]:
                logits = model(torch.tensor([ids[:at]]))[0, -1]
                is_slot = ids[at] in TOKENIZER.doc_ids
                slots = torch.zeros_like(logits, dtype=torch.bool)
                slots[TOKENIZER.doc_ids.start : TOKENIZER.doc_ids.stop] = True
                ids[at] = int(logits.masked_fill(slots != is_slot, -torch.inf).argmax())
        if number % 2:
            ids[max(at for at in range(len(ids)) if item.mask[at])] ^= 1
        wanted.append(type(item)(**{**vars(item), "ids": ids}))
    model.train()
    found = traces_right(model, wanted, TOKENIZER.doc_ids)
    assert found == [True, False] * 3 and model.training

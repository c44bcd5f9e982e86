"""The curriculum: batches from step, micro-batch and stage alone, gates that mean what greedy decoding does."""

import random

import pytest
import torch

from nanochat.chat_format import render
from nanochat.engine import Engine, SamplingParams, Session
from nanochat.model import LanguageModel, ModelConfig
from nanochat.rag import curriculum as module
from nanochat.rag.curriculum import FIRST_SEED, HELD_OUT_SEED, Curriculum, Mixture, answer_accuracy
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.rag.practice import STAGES, PracticeWorld
from nanochat.tokenizer import Tokenizer
from nanochat.training import build_optimizer, fit, language_model_loss

WORLD = PracticeWorld(3, {"num_entities": 30}, "simple")
TOKENIZER = Tokenizer.train([f" {d['title']} {d['content']}" for d in WORLD.world.documents], 700)


def make(*stages, **settings):
    return Curriculum(stages, TOKENIZER, **{
        "seed": 0, "row_len": 1500, "examples_per_step": 3, "context_weight": 0.1, "retriever_type": "simple",
        "gate_examples": 4, **settings,
    })


def make_model(seed=0):
    config = ModelConfig(
        block_pattern="M,T", vocab_size=TOKENIZER.vocab_size, sequence_len=512, n_embd=32, n_head=2, n_kv_head=2,
        mlp_hidden=32, attention_conv=4, d_state=8, headdim=16, chunk_size=16, init_std=0.1, embedding_multiplier=8.0,
    )
    return LanguageModel(config, seed=seed)


def same(one, other):
    return one.ids.shape == other.ids.shape and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("ids", "targets", "weights", "seq_idx")
    )


def user_pool(num_documents=12):
    """Documents of the user, told apart from practice by a word of their own."""
    documents = [{"id": f"d{i}", "title": f"Zqx {i}", "content": f"Zqx {i} weighs {i * 7} stones."}
                 for i in range(num_documents)]
    questions = [{"question": f"What does Zqx {i} weigh?", "answers": [f"{i * 7} stones"], "supporting_ids": [f"d{i}"]}
                 for i in range(num_documents)]
    return Pool(documents, questions, lambda queries, top_k: [list(range(top_k)) for _ in queries])


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_depends_on_seed_step_micro_and_stage_only(stage):
    first, second = make(stage, examples_per_step=2), make(stage, examples_per_step=2)
    places = [(0, 0), (0, 1), (1, 0), (7, 0)]
    forward = {place: first.batches(*place) for place in places}
    backward = {place: second.batches(*place) for place in reversed(places)}
    assert all(same(forward[place], backward[place]) for place in places)
    batches = [*forward.values(), make(stage, examples_per_step=2, seed=1).batches(0, 0)]
    assert not any(same(a, b) for i, a in enumerate(batches) for b in batches[:i])


def test_the_stage_decides_too_and_is_kept_in_the_record():
    both = make("recall", "facts")
    before = both.batches(5, 0)
    assert both.restore({"stages": ["recall", "facts"], "index": 1, "is_passed": False})
    assert same(both.batches(5, 0), make("facts").batches(5, 0)) and not same(both.batches(5, 0), before)
    again = make("recall", "facts")
    assert again.restore(both.record()) and again.record() == both.record()
    assert same(again.batches(5, 0), both.batches(5, 0))


def test_a_record_of_other_stages_is_refused():
    curriculum = make("recall", "facts")
    assert not curriculum.restore({"stages": ["recall"], "index": 0, "is_passed": True})
    assert not curriculum.restore({})
    assert (curriculum.index, curriculum.is_passed) == (0, False)


def test_training_worlds_are_never_gate_worlds_nor_those_people_generate(monkeypatch):
    seeds = {"train": [], "gate": []}
    kind = "train"

    class Recorder(PracticeWorld):
        def __init__(self, seed, settings, retriever_type):
            seeds[kind].append(seed)
            super().__init__(seed, {**settings, "num_entities": 8}, retriever_type)

    monkeypatch.setattr(module, "PracticeWorld", Recorder)
    for seed in (-5, 0, 1, 999, 10**9 + 7):
        curriculum = make("recall", seed=seed, examples_per_step=1)
        for step in (0, 1, 2, 3, 10**6):
            for micro in (0, 1, 63):
                curriculum.batches(step, micro)
    kind = "gate"
    for step in (0, 50, 10**6):
        make("recall", examples_per_step=1).evaluate(make_model(), step)
    assert min(seeds["train"]) >= FIRST_SEED and max(seeds["train"]) < HELD_OUT_SEED <= min(seeds["gate"])
    assert len(set(seeds["gate"])) == 3
    # steps 0 and 1 share their worlds, micro-batches do not
    assert len(seeds["train"]) == 5 * 3 * 3 and len(set(seeds["train"])) == 5 * 3 * 3


@pytest.mark.parametrize(("batch_size", "share"), [(1, 0.3), (4, 0.3), (10, 0.3), (3, 1.0), (3, 0.0)])
def test_the_users_documents_and_chats_get_their_share_of_any_batch_size(batch_size, share):
    chats = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Kjw"}]}]
    mixture = Mixture(pool=user_pool(), pool_share=share, chats=chats, chat_share=min(0.2, 1 - share))
    curriculum = make("facts", examples_per_step=batch_size, mixture=mixture)
    num_steps = 240 // batch_size
    totals = {"pool": 0, "chats": 0, "all": 0}
    world = PracticeWorld(5, STAGES["facts"].world | {"num_entities": 10}, "simple")
    for step in range(num_steps):
        texts = [TOKENIZER.decode(item.ids) for item in curriculum._examples(world, batch_size, random.Random(step))]
        assert len(texts) == batch_size
        totals["all"] += len(texts)
        totals["pool"] += sum("Zqx" in text for text in texts)
        totals["chats"] += sum("Kjw" in text for text in texts)
    assert totals["pool"] / totals["all"] == pytest.approx(share, abs=0.08)
    assert totals["chats"] / totals["all"] == pytest.approx(mixture.chat_share, abs=0.08)


def test_max_documents_limits_what_is_shown():
    few, many = (make("documents", max_documents=limit, row_len=2000, examples_per_step=8) for limit in (1, 6))
    mark = TOKENIZER.doc(1)
    assert not any((few.batches(step, 0).ids == mark).any() for step in range(3))
    assert any((many.batches(step, 0).ids == mark).any() for step in range(3))


def test_examples_whose_evidence_does_not_fit_are_left_out_and_counted():
    roomy, tight = make("documents", row_len=3000), make("documents", row_len=60)
    cut = make("documents", row_len=3000, max_doc_tokens=6)
    for curriculum in (roomy, tight, cut):
        for step in range(4):
            curriculum.batches(step, 0)
    assert roomy.num_rendered == tight.num_rendered == cut.num_rendered == 12
    assert roomy.num_lost == 0 and tight.num_lost > 0 and cut.num_lost > 0
    # nothing fits: an empty batch, and nothing right at the gate
    hopeless = make("documents", row_len=8)
    assert hopeless.batches(0, 0).weight() == 0
    assert hopeless.evaluate(make_model(), 0) == {"stage": "documents", "accuracy": 0.0}


def test_a_gate_opens_the_next_stage_and_the_last_one_ends_the_ladder(monkeypatch):
    accuracy = {"now": 0.0}
    monkeypatch.setattr(module, "answer_accuracy", lambda *args, **options: accuracy["now"])
    curriculum, model = make("recall", "facts"), make_model()
    assert curriculum.evaluate(model, 1) == {"stage": "recall", "accuracy": 0.0}
    assert (curriculum.index, curriculum.is_passed) == (0, False)
    accuracy["now"] = STAGES["recall"].gate
    assert curriculum.evaluate(model, 2) == {
        "stage": "recall", "accuracy": accuracy["now"], "gate_passed": STAGES["recall"].gate, "next_stage": "facts",
    }
    assert (curriculum.index, curriculum.is_passed) == (1, False)
    accuracy["now"] = STAGES["facts"].gate
    assert curriculum.evaluate(model, 3)["gate_passed"] == STAGES["facts"].gate
    assert (curriculum.index, curriculum.is_passed) == (1, True)


def test_evaluation_leaves_the_model_in_its_mode_and_repeats():
    curriculum, model, pool = make("documents"), make_model().train(), user_pool()
    assert curriculum.validate(model, pool) == make("documents").validate(model, pool)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    curriculum.evaluate(model, 3)
    assert not model.training


class GroupRule:
    """The only rule that training knows: document slots stand behind cite, and nowhere else."""

    def __init__(self, num_ids):
        self.num_ids, self.last = num_ids, 0

    def allowed(self, rows):
        ids = torch.arange(self.num_ids)
        is_slot = (ids >= TOKENIZER.doc_ids.start) & (ids < TOKENIZER.doc_ids.stop)
        return (is_slot == (self.last == TOKENIZER.special("cite")))[None]

    def advance(self, rows, ids):
        self.last = int(ids[0])


def test_the_gate_is_greedy_decoding_and_the_engine_is_never_worse():
    """On a model that knows some answers: span by span the same as decoding, token for token."""
    pool = WORLD.pool
    config = ExampleConfig(max_documents=2, lookups=1, unanswerable_share=0.3)
    conversations = pool.conversations(24, random.Random(0), config)
    rendered = [render(conversation, TOKENIZER) for conversation in conversations]
    model = make_model()
    batch = module.pack(rendered[:16], row_len=400, context_weight=0.0)
    optimizer = build_optimizer(model, matrix_lr=0.02, embedding_lr=0.01, scalar_lr=0.01)
    fit(model, lambda step, micro: batch, lambda m, b, n: language_model_loss(m, b, n, group=TOKENIZER.doc_ids),
        optimizer, num_steps=60, log=lambda record: None)
    group = TOKENIZER.doc_ids
    gates = [answer_accuracy(model, [item], 400, group=group) == 1.0 for item in rendered]
    assert 3 < sum(gates) < 23, f"{sum(gates)} of 24 right: this model tests nothing"
    assert answer_accuracy(model, rendered, 400, group=group) == pytest.approx(sum(gates) / 24)

    greedy, end = SamplingParams(temperature=0.0, max_tokens=24), TOKENIZER.special("assistant_end")
    engine = Engine(model.eval(), TOKENIZER)
    for conversation, item, gate in zip(conversations, rendered, gates, strict=True):
        start = item.mask.index(1)
        session = Session(model, 1)
        session.extend([0], [item.ids[:start]])
        (written,) = session.sample(greedy, stop_ids=(end,), rule=GroupRule(model.config.vocab_size))
        assert (written == item.ids[start:]) == gate
        _, info = engine.generate_from_conversation({"messages": conversation["messages"][:-1]}, 24)
        said = conversation["messages"][-1]
        is_right = (info["abstained"], info["answer"]) == (said.get("abstain", False), said["content"]) and [
            citation["slot"] for citation in info["citations"]] == said.get("citations", [])
        assert is_right >= gate


def test_accuracy_by_token_counts_tokens():
    model = make_model()
    rendered = [module.EXAMPLES["copy"](WORLD, TOKENIZER, random.Random(seed), 200) for seed in range(4)]
    by_token = answer_accuracy(model, rendered, 400, group=TOKENIZER.doc_ids, by_token=True)
    logits = [model(torch.tensor([item.ids]))[0] for item in rendered]
    right = total = 0
    for item, scores in zip(rendered, logits, strict=True):
        scores[:, TOKENIZER.doc_ids.start : TOKENIZER.doc_ids.stop] = -1e9
        for place in range(len(item.ids) - 1):
            if item.mask[place + 1]:
                right, total = right + int(scores[place].argmax() == item.ids[place + 1]), total + 1
    assert by_token == pytest.approx(right / total, abs=1e-6)

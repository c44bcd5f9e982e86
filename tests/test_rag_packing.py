"""Packing: nothing crosses from one sequence into the next, and the loss is that of the sequences alone."""

import random

import pytest
import torch
from chat_stubs import LONG, TOKENIZER, WORDS, answer, doc, retrieval, user
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import Rendered, render
from nanochat.model import LanguageModel, ModelConfig
from nanochat.rag.packing import is_grounded, pack, render_all
from nanochat.training import language_model_loss


def make(ids, mask):
    return Rendered(ids=list(ids), mask=list(mask), documents=[], dropped=0, lost_citations=0)


def random_sequences(count, seed, longest=30):
    rng = random.Random(seed)
    lengths = [rng.randint(1, longest) for _ in range(count)]
    return [make([rng.randrange(64, 300) for _ in range(n)], [0, *(rng.randint(0, 1) for _ in range(n - 1))])
            for n in lengths]


def unpack(batch):
    """(ids, targets, weights) of every packed sequence."""
    found = []
    for ids, *others, seq_idx in zip(batch.ids, batch.targets, batch.weights, batch.seq_idx, strict=True):
        for number in seq_idx.unique().tolist():
            place = seq_idx == number
            # no sequence here has the id 0: it fills what is left of a row, which is a sequence of its own
            if (ids[place] == 0).any():
                assert (ids[place] == 0).all() and (others[0][place] == -1).all() and (others[1][place] == 0).all()
            else:
                found.append(tuple(tensor[place].tolist() for tensor in (ids, *others)))
    return found


sequence = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1)), min_size=2, max_size=25)


@given(st.lists(sequence, max_size=12), st.sampled_from([0.0, 0.1, 1.0]))
@settings(deadline=None, max_examples=100)
def test_every_sequence_stands_alone_with_its_own_targets(sequences, context_weight):
    rendered = [make([i for i, _ in pairs], [m for _, m in pairs]) for pairs in sequences]
    batch = pack(rendered, row_len=20, context_weight=context_weight)
    expected = []
    for item in rendered:
        if len(item.ids) <= 21:
            pairs = list(zip(item.ids[1:], item.mask[1:], strict=True))
            targets = [target if mask or context_weight > 0 else -1 for target, mask in pairs]
            weights = [1.0 if mask else float(torch.tensor(context_weight)) for _, mask in pairs]
            expected.append((item.ids[:-1], targets, weights))
    assert sorted(unpack(batch)) == sorted(expected)


def test_rows_are_filled():
    rendered = random_sequences(60, seed=0)
    batch = pack(rendered, row_len=32, context_weight=0.1)
    used = sum(len(item.ids) - 1 for item in rendered)
    assert batch.ids.shape == (len(batch.ids), 32)
    assert used / batch.ids.numel() > 0.85, f"{used} tokens in {len(batch.ids)} rows of 32"


@pytest.mark.parametrize("pattern", ["T", "M", "M,T"])
@pytest.mark.parametrize(("context_weight", "group"), [(0.0, range(0)), (0.1, range(0)), (0.1, range(100, 132))])
def test_the_packed_loss_and_gradient_are_those_of_the_sequences_alone(pattern, context_weight, group):
    config = ModelConfig(
        block_pattern=pattern, vocab_size=300, n_embd=24, n_head=2, n_kv_head=1, mlp_hidden=32, attention_conv=4,
        d_state=8, headdim=12, chunk_size=8, init_std=0.3,
    )
    model = LanguageModel(config, seed=1)
    rendered = random_sequences(9, seed=1)
    normaliser = pack(rendered, row_len=40, context_weight=context_weight).weight()

    def gradient_of(batches):
        model.zero_grad()
        loss = sum(language_model_loss(model, batch, normaliser, group=group).loss for batch in batches)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    packed = gradient_of([pack(rendered, row_len=40, context_weight=context_weight)])
    alone = gradient_of([
        pack([item], row_len=len(item.ids) - 1, context_weight=context_weight) for item in rendered if len(item.ids) > 1
    ])
    assert packed[0] == pytest.approx(alone[0], abs=1e-5)
    assert (packed[1] - alone[1]).abs().max() < 1e-5


def test_a_share_of_the_context_stands_for_all_of_it():
    rendered = random_sequences(300, seed=2)
    whole = pack(rendered, row_len=40, context_weight=0.1)
    share = pack(rendered, row_len=40, context_weight=0.1, context_share=0.25, rng=random.Random(0))
    answers = (whole.targets >= 0) & (whole.weights == 1)
    assert torch.equal(share.targets[answers], whole.targets[answers]) and (share.weights[answers] == 1).all()
    context, kept = (whole.targets >= 0) & ~answers, (share.targets >= 0) & ~answers
    assert 0.2 < float(kept.sum() / context.sum()) < 0.3
    assert share.weight() == pytest.approx(whole.weight(), rel=0.05)
    again = pack(rendered, row_len=40, context_weight=0.1, context_share=0.25, rng=random.Random(0))
    other = pack(rendered, row_len=40, context_weight=0.1, context_share=0.25, rng=random.Random(1))
    assert torch.equal(share.targets, again.targets) and not torch.equal(share.targets, other.targets)


def test_a_share_of_the_context_never_touches_answers_even_at_full_weight():
    rendered = random_sequences(50, seed=3)
    batch = pack(rendered, row_len=40, context_weight=1.0, context_share=0.5, rng=random.Random(0))
    expected = sum(sum(item.mask[1:]) for item in rendered)
    assert int(((batch.targets >= 0) & (batch.weights == 1)).sum()) == expected
    assert set(batch.weights[(batch.targets >= 0)].tolist()) == {1.0, 2.0}


@pytest.mark.parametrize(("context_weight", "context_share", "decision_weight"), [
    (0.0, 1.0, 2.0), (0.1, 0.25, 2.0), (0.25, 0.25, 1.0), (1.0, 0.5, 0.5), (0.5, 1.0, 0.1)])
def test_what_is_logged_as_an_answer_is_what_the_renderer_supervises(context_weight, context_share, decision_weight):
    rendered = random_sequences(40, seed=4)
    batch = pack(rendered, row_len=40, context_weight=context_weight, context_share=context_share,
                 rng=random.Random(0), decision_after=rendered[0].ids[0], decision_weight=decision_weight)
    expected = sum(sum(item.mask[1:]) for item in rendered)
    assert batch.is_answer.dtype == torch.bool and int(batch.is_answer.sum()) == expected
    model = LanguageModel(ModelConfig(block_pattern="T", vocab_size=300, n_embd=16, n_head=2, n_kv_head=1,
                                      mlp_hidden=16))
    parts = {name: int(count) for name, (_, count) in language_model_loss(model, batch).parts.items()}
    supervised = int(batch.supervised().sum())
    assert parts == {"answer": expected, "context": supervised - expected}, "heavy context is no answer"


def test_nothing_that_fits_gives_a_batch_without_rows():
    for rendered in ([], [make(range(1, 30), [1] * 29)]):
        batch = pack(rendered, row_len=8, context_weight=0.1)
        assert batch.ids.shape == batch.targets.shape == (0, 8)
        assert batch.weight() == 0 and batch.num_tokens() == 0


def conversation(*documents, citations=(0,), said="1987"):
    return {"messages": [retrieval(*documents), user(), answer(said, citations=list(citations))]}


def test_documents_pay_for_a_row():
    rendered = render_all([conversation(*[LONG] * 5), conversation(LONG)], TOKENIZER, row_len=60)
    assert [len(item.ids) <= 61 for item in rendered] == [True, True]
    assert rendered[0].dropped > 0 and rendered[1].dropped == 0
    trimmed = render_all([conversation(LONG)], TOKENIZER, row_len=60, max_doc_tokens=5)
    assert trimmed[0].trimmed == (0,)


def grounded(item, **limits):
    return is_grounded(render(item, TOKENIZER, **limits), TOKENIZER)


def test_an_answer_is_grounded_while_its_cited_document_still_states_it():
    early, late = doc("a", "1987 " + " ".join(WORDS[:4] * 4)), doc("b", " ".join(WORDS[:4] * 4) + " 1987")
    assert grounded(conversation(late))
    assert grounded(conversation(early), max_doc_tokens=10)
    assert not grounded(conversation(late), max_doc_tokens=10)
    # a document that nobody cites may lose its tail
    assert grounded(conversation(doc("c", "In 1987."), late, citations=[0]), max_doc_tokens=10)
    # another whole document does not help when the cited one was cut, but another cited one does
    assert not grounded(conversation(doc("c", "In 1987."), late, citations=[1]), max_doc_tokens=10)
    assert grounded(conversation(doc("c", "In 1987."), late, citations=[0, 1]), max_doc_tokens=10)
    # 19 is not stated by 1987
    assert not grounded(conversation(early, said="19"), max_doc_tokens=10)


def test_a_dropped_document_grounds_nothing_and_an_abstention_needs_none():
    assert not grounded(conversation(*[LONG] * 3, citations=[2]), max_tokens=50)
    abstention = {"messages": [retrieval(LONG, LONG), user(), answer("", abstain=True)]}
    assert grounded(abstention, max_tokens=40) and grounded(abstention, max_doc_tokens=5)


def test_every_turn_must_be_grounded():
    late = doc("b", " ".join(WORDS[:4] * 4) + " 1987")
    messages = [retrieval(late), user(), answer("the", citations=[0]), user("And?")]
    assert grounded({"messages": messages}, max_doc_tokens=10)
    assert not grounded({"messages": [*messages, answer(citations=[0])]}, max_doc_tokens=10)

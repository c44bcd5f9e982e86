"""Streams of text: rows depend on their number only, every token is read once per epoch, documents stay apart."""

import itertools
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nanochat.errors import CheckpointError, DocumentError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from nanochat.training.losses import Batch, keep_group, language_model_loss
from nanochat.training.text import Corpus, TextStream
from nanochat.training.token_cache import SMALL_BYTES, open_tokens
from nanochat.training.validation import Validation

BOS = 0


def make_tokenizer(text=" some text for a few merges", size=340):
    return Tokenizer.train([text] * 3, size)


def large_file(folder):
    """A file that is worth keeping the tokens of."""
    path = folder / "large.txt"
    path.write_bytes(b"x" * (SMALL_BYTES + 1))
    return path


def stream(documents, **settings):
    return TextStream(documents, **{"bos": BOS, "rows": 3, "row_len": 5, "micro_per_step": 2, "seed": 4, **settings})


def numbered(lengths):
    """Documents whose tokens are all different, from 1 on."""
    start, documents = 1, []
    for length in lengths:
        documents.append(range(start, start + length))
        start += length
    return documents


DOCUMENTS = numbered([7, 1, 12, 0, 3, 20, 9, 4])


def test_batches_depend_on_step_and_micro_only():
    places = [(0, 0), (0, 1), (1, 0), (5, 1), (40, 0)]
    forward, backward = stream(DOCUMENTS), stream(DOCUMENTS)
    batches = [forward.batches(*place) for place in places]
    again = [backward.batches(*place) for place in reversed(places)][::-1]
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.targets, other.targets)
        assert torch.equal(one.seq_idx, other.seq_idx) and one.ids.shape == (3, 5)
    assert not torch.equal(stream(DOCUMENTS, seed=5).batches(0, 0).ids, batches[0].ids)


def test_micro_batches_of_a_step_are_the_next_rows():
    wide, narrow = stream(DOCUMENTS, rows=4, micro_per_step=1), stream(DOCUMENTS, rows=2, micro_per_step=2)
    for step in range(5):
        pieces = [narrow.batches(step, micro) for micro in range(2)]
        assert torch.equal(wide.batches(step, 0).ids, torch.cat([piece.ids for piece in pieces]))
        assert torch.equal(wide.batches(step, 0).targets, torch.cat([piece.targets for piece in pieces]))


def test_an_epoch_reads_every_row_once_and_the_next_one_another_order():
    num_tokens = sum(len(document) + 1 for document in DOCUMENTS)
    per_epoch = (num_tokens - 1) // 5
    source = stream(DOCUMENTS, rows=1, micro_per_step=1)
    rows = [source.batches(number, 0).ids[0] for number in range(2 * per_epoch)]
    epochs = [torch.cat(rows[:per_epoch]), torch.cat(rows[per_epoch:])]
    for ids in epochs:
        seen = ids[ids != BOS].tolist()
        assert len(set(seen)) == len(seen) and len(ids) > num_tokens - 6
    assert not torch.equal(*epochs)


def test_targets_are_the_next_tokens_and_a_documents_end_predicts_nothing():
    follows = {token: after for document in DOCUMENTS for token, after in zip(document, document[1:], strict=False)}
    first = {document[0] for document in DOCUMENTS if document}
    batch = stream(DOCUMENTS, rows=40, micro_per_step=1).batches(0, 0)
    for ids, targets in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        for token, target in zip(ids, targets, strict=True):
            if token == BOS:
                assert target in first | {-1}
            else:
                assert target == follows.get(token, -1)


def test_a_new_sequence_begins_at_every_bos():
    batch = stream(DOCUMENTS, rows=40, micro_per_step=1).batches(0, 0)
    steps = batch.seq_idx.diff(dim=1)
    assert torch.equal(steps == 1, batch.ids[:, 1:] == BOS) and set(steps.unique().tolist()) <= {0, 1}


def test_one_row_of_text_is_enough_and_less_is_refused_in_words():
    exact = stream(numbered([5]), rows=4)
    assert exact.batches(3, 1).ids.tolist() == [[BOS, 1, 2, 3, 4]] * 4
    for documents in (numbered([4]), []):
        with pytest.raises(DocumentError, match=r"The text has only \d tokens, one row needs 6"):
            stream(documents)


def test_documents_on_disk_give_the_same_rows_as_documents_in_memory(tmp_path):
    tokenizer, file = make_tokenizer(), large_file(tmp_path)
    texts = [f" text {number} " + "abc " * number for number in range(40)]
    kept = open_tokens(file, lambda: texts, tokenizer, tmp_path / "tokens")
    bos = tokenizer.special("bos")
    on_disk, in_memory = (stream(documents, bos=bos, row_len=37) for documents in (kept, tokenizer.encode_batch(texts)))
    assert isinstance(kept.parts[0], np.memmap) and kept.parts[0].dtype == np.uint16
    for place in [(0, 0), (3, 1), (90, 0)]:
        assert torch.equal(on_disk.batches(*place).ids, in_memory.batches(*place).ids)
        assert torch.equal(on_disk.batches(*place).targets, in_memory.batches(*place).targets)


def test_a_file_is_tokenised_once_and_again_when_it_or_the_tokenizer_changes(tmp_path):
    calls = []
    file = large_file(tmp_path)

    def texts():
        calls.append(1)
        return [" some text", " more"]

    first, other = make_tokenizer(), make_tokenizer(" another text altogether")
    for tokenizer, number in [(first, 1), (first, 1), (other, 2), (first, 2)]:
        corpus = open_tokens(file, texts, tokenizer, tmp_path / "tokens")
        assert len(calls) == number, f"tokenised {len(calls)} times, expected {number}"
        assert tokenizer.decode(corpus.read(0, 0, 99)) == " some text"
    os.utime(file, ns=(1, 1))
    open_tokens(file, texts, first, tmp_path / "tokens")
    assert len(calls) == 3


def test_a_run_that_dies_while_tokenising_leaves_nothing(tmp_path):
    def texts():
        yield from [" first"] * 1500
        raise DocumentError("line 1501 is broken")

    with pytest.raises(DocumentError, match="line 1501"):
        open_tokens(large_file(tmp_path), texts, make_tokenizer(), tmp_path / "tokens")
    assert list((tmp_path / "tokens").iterdir()) == []


@pytest.mark.parametrize("damage", ["short", "gone", "no_array", "of_another"])
def test_damaged_tokens_are_named(tmp_path, damage):
    file, tokenizer = large_file(tmp_path), make_tokenizer()
    open_tokens(file, lambda: [" some text"], tokenizer, tmp_path / "tokens")
    place = next((tmp_path / "tokens").iterdir())
    if damage == "short":
        content = (place / "tokens.npy").read_bytes()
        (place / "tokens.npy").write_bytes(content[:-2])
    elif damage == "gone":
        (place / "starts.npy").unlink()
    elif damage == "of_another":
        np.save(place / "starts.npy", np.array([0, 1]))
    else:
        (place / "starts.npy").write_text("no array", encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"Kept tokens in {place} are damaged"):
        open_tokens(file, lambda: [" some text"], tokenizer, tmp_path / "tokens")


def test_small_files_are_not_kept(tmp_path):
    file = tmp_path / "small.txt"
    file.write_text("x", encoding="utf-8")
    corpus = open_tokens(file, lambda: [" some text"], make_tokenizer(), tmp_path / "tokens")
    assert len(corpus) == 1 and not (tmp_path / "tokens").exists()


def test_held_out_documents_are_never_trained_on_and_do_not_depend_on_weights():
    corpus = Corpus.of_ids(DOCUMENTS * 5, bos=BOS)
    train, held = corpus.split(0.2)
    assert len(held) == 8 and sorted([*train.start, *held.start]) == sorted(corpus.start)
    assert list(corpus.split(0.2)[1].start) == list(held.start)
    assert sorted(held.start) != sorted(corpus.start[:8]), "the first documents may all be of one kind"
    for weight, times in [(1, 32), (2, 64), (0.5, 16), (1.25, 40)]:
        repeated = train.repeat(weight, seed=3)
        assert len(repeated) == times, f"weight {weight}: {len(repeated)} documents"
        assert not set(repeated.start) & set(held.start)
    assert len(Corpus.of_ids(DOCUMENTS[:1], bos=BOS).split(0.5)[1]) == 0, "the only document is trained on"


def test_corpora_are_joined_without_a_copy():
    one, other = Corpus.of_ids(DOCUMENTS[:3], bos=BOS), Corpus.of_ids(DOCUMENTS[3:], bos=BOS)
    both, whole = Corpus.join([one, other]), Corpus.of_ids(DOCUMENTS, bos=BOS)
    assert both.num_tokens == whole.num_tokens and np.shares_memory(both.parts[1], other.parts[0])
    assert torch.equal(stream(both).batches(2, 1).ids, stream(whole).batches(2, 1).ids)


@pytest.mark.parametrize("pattern", ["T", "M", "M,T", "T,M,M"])
@pytest.mark.parametrize("conv", [0, 4])
def test_packed_documents_have_the_loss_and_gradients_of_separate_ones(pattern, conv):
    model = LanguageModel(ModelConfig(block_pattern=pattern, vocab_size=64, n_embd=32, n_head=2, n_kv_head=1,
                                      mlp_hidden=48, d_state=8, headdim=16, chunk_size=8, attention_conv=conv), seed=1)
    documents = [[1 + (7 * i + i * i * length) % 63 for i in range(length)] for length in (1, 17, 3, 30, 9)]
    length = sum(map(len, documents)) + len(documents)
    source = TextStream(documents, bos=BOS, rows=1, row_len=length - 1, micro_per_step=1, seed=2)
    packed = source.batches(0, 0)
    assert len(packed.seq_idx.unique()) == 5
    # rows that hold one document each, in the order of the epoch; the last row misses its last token
    ids = packed.ids[0].tolist()
    starts = [*(i for i, token in enumerate(ids) if token == BOS), len(ids)]
    separate = [Batch(ids=packed.ids[:, a:b], targets=packed.targets[:, a:b]) for a, b in itertools.pairwise(starts)]
    results = []
    for batches in ([packed], separate):
        model.zero_grad()
        loss = sum(language_model_loss(model, batch, packed.weight()).loss for batch in batches)
        loss.backward()
        results.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss, grads), (other_loss, other_grads) = results
    assert abs(loss - other_loss) < 1e-5, f"packed {loss}, separate {other_loss}"
    worst = max((float((grads[name] - other_grads[name]).abs().max()), name) for name in grads)
    assert worst[0] < 1e-5, f"gradient of {worst[1]} differs by {worst[0]:.1e}"


def test_bits_per_byte_are_those_of_the_scored_tokens_and_the_same_whatever_the_batch():
    tokenizer = make_tokenizer()
    texts = [" häuser und some text " * 3, " other", " a document " * 9]
    model = LanguageModel(ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size, n_embd=16, n_head=2,
                                      n_kv_head=1, mlp_hidden=16, d_state=4, headdim=16), seed=3)
    corpus = Corpus.of_ids(tokenizer.encode_batch(texts), bos=tokenizer.special("bos"))
    wide, narrow = (Validation(corpus, tokenizer, rows=5, row_len=11, batch_rows=rows) for rows in (8, 2))
    assert wide.rows == 5 and wide.num_bytes == narrow.num_bytes and wide(model) == pytest.approx(narrow(model))
    nats = num_bytes = 0
    for batch in wide.batches:
        logits = keep_group(model(batch.ids, seq_idx=batch.seq_idx).detach(), batch.targets, tokenizer.doc_ids)
        for row, targets in zip(logits.log_softmax(-1), batch.targets.tolist(), strict=True):
            for place, target in enumerate(targets):
                if target != -1:
                    nats -= float(row[place, target])
                    num_bytes += tokenizer.bytes_per_id()[target]
    assert wide.num_bytes == num_bytes
    assert wide(model)["val_bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    # of a whole document all bytes are counted
    size = len(tokenizer.encode(texts[0]))
    whole = Validation(Corpus.of_ids([tokenizer.encode(texts[0])], bos=tokenizer.special("bos")), tokenizer, rows=1,
                       row_len=size, batch_rows=1)
    assert whole.num_bytes == len(texts[0].encode()) and whole.num_tokens == size


def test_validation_rows_are_spread_over_the_text_and_never_read_twice():
    corpus = Corpus.of_ids([range(1, 2000)], bos=BOS)
    tokenizer = SimpleNamespace(special=lambda name: BOS, doc_ids=range(0), bytes_per_id=lambda: [1] * 2000)
    validation = Validation(corpus, tokenizer, rows=10, row_len=50, batch_rows=4)
    firsts = [int(row[0]) for batch in validation.batches for row in batch.ids]
    assert firsts == [50 * (i * 39 // 10) for i in range(10)]
    assert [len(batch.ids) for batch in validation.batches] == [4, 4, 2]
    assert Validation(corpus, tokenizer, rows=10**6, row_len=50, batch_rows=4).rows == 39

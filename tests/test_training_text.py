"""Streams of text: rows depend on their number only, every token is read once per epoch, documents stay apart."""

import pytest
import torch

from nanochat.errors import DocumentError
from nanochat.training.text import TextStream

BOS = 0


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

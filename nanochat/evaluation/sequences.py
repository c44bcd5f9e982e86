"""Sequences under a model: the loss of every scored token and whether greedy decoding would write it; bits per byte."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nanochat.evaluation.statistics import NUM_RESAMPLES, Estimate
from nanochat.training.losses import HEAD_POSITIONS, keep_group

TOKENS_AT_ONCE = 4096  # of a forward


@dataclass(frozen=True, kw_only=True)
class ScoredSequence:
    """What a model reads, and which of it counts."""

    ids: Sequence[int]
    is_scored: Sequence[bool]  # per id; the first cannot be scored


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One entry per scored token of a sequence, in order."""

    nats: np.ndarray  # float64, - log probability
    is_right: np.ndarray  # bool, whether it was the likeliest


@torch.no_grad()
def score(model: nn.Module, sequences: Sequence[ScoredSequence], *, group: range) -> list[Scores]:
    """Scores of every sequence. `group`: ids that compete with each other only, as in training, see `keep_group`."""
    was_training = model.training
    model.eval()
    results: list[Any] = [None] * len(sequences)
    for places in _batches([len(sequence.ids) for sequence in sequences]):
        for place, scores in zip(places, _score_batch(model, [sequences[i] for i in places], group), strict=True):
            results[place] = scores
    model.train(was_training)
    return results


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of sequences of about one length, so that little is padded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and lengths[place] * (len(batch) + 1) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _score_batch(model: nn.Module, sequences: Sequence[ScoredSequence], group: range) -> list[Scores]:
    device = next(model.parameters()).device
    width = max(len(sequence.ids) for sequence in sequences)
    # what stands behind a sequence cannot change what was read before
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    is_scored = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.as_tensor(sequence.ids)
        is_scored[row, : len(sequence.ids)] = torch.as_tensor(sequence.is_scored)
    assert not is_scored[:, 0].any(), "the first id of a sequence has nothing before it"
    ids, is_scored = ids.to(device), is_scored.to(device)
    features = model.features(ids[:, :-1])[is_scored[:, 1:]]
    targets = ids[is_scored]
    nats, is_right = [], []
    for x, y in zip(features.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True):
        logits = keep_group(model.head(x), y, group)
        nats.append(nn.functional.cross_entropy(logits, y, reduction="none").double().cpu())
        is_right.append((logits.argmax(-1) == y).cpu())
    ends = is_scored.sum(dim=1).cumsum(0).tolist()[:-1]
    return [Scores(nats=one, is_right=other) for one, other in zip(
        np.split(torch.cat(nats).numpy(), ends), np.split(torch.cat(is_right).numpy(), ends), strict=True)]


def text_windows(ids: Sequence[int], *, bos: int, row_len: int, context: int) -> list[ScoredSequence]:
    """A text as sequences of at most `row_len` read tokens in which every one of its ids is scored once.

    A later window begins with the last `context` tokens of the one before, unscored.
    """
    assert 0 <= context < row_len, f"context {context} leaves nothing of rows of {row_len}"
    whole, windows, done = [bos, *ids], [], 1
    while done < len(whole):
        start = max(0, done - 1 - context) if windows else 0
        end = min(len(whole), start + row_len + 1)
        windows.append(ScoredSequence(ids=whole[start:end], is_scored=[start + i >= done for i in range(end - start)]))
        done = end
    return windows


@dataclass(frozen=True, kw_only=True)
class TextBits:
    """Bits and bytes of each document of a text."""

    bits: np.ndarray
    num_bytes: np.ndarray
    num_tokens: int

    def bits_per_byte(self, *, seed: int = 0) -> Estimate:
        """All bits over all bytes, with a bootstrap interval over documents."""
        return ratio(self.bits, self.num_bytes, seed=seed)


def text_bits(model: nn.Module, tokenizer: Any, texts: Sequence[str], *, row_len: int, context: int) -> TextBits:
    """Bits that a model needs for each text, by its own tokenizer; bytes are those of the text in UTF-8, exactly.

    A text starts with bos and ends without a mark. Empty texts are left out.
    """
    texts = [text for text in texts if text]
    windows, owner = [], []
    for place, ids in enumerate(tokenizer.encode_batch(texts)):
        new = text_windows(ids, bos=tokenizer.special("bos"), row_len=row_len, context=context)
        windows += new
        owner += [place] * len(new)
    bits, num_tokens = np.zeros(len(texts)), 0
    for place, scores in zip(owner, score(model, windows, group=tokenizer.doc_ids), strict=True):
        bits[place] += scores.nats.sum() / np.log(2)
        num_tokens += len(scores.nats)
    num_bytes = np.array([len(text.encode("utf-8", "replace")) for text in texts], dtype=np.float64)
    return TextBits(bits=bits, num_bytes=num_bytes, num_tokens=num_tokens)


def ratio(tops: np.ndarray, bottoms: np.ndarray, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """Sum of tops over sum of bottoms, with a percentile bootstrap interval over the cases."""
    generator = np.random.default_rng(seed)
    values = [tops[picked].sum() / bottoms[picked].sum() for picked in _resamples(generator, len(tops), num_resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value=float(tops.sum() / bottoms.sum()), low=float(low), high=float(high), num=len(tops))


def _resamples(generator: np.random.Generator, num: int, num_resamples: int) -> Iterator[np.ndarray]:
    return (generator.integers(0, num, size=num) for _ in range(num_resamples))

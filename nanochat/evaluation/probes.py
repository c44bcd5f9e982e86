"""Recall probes: can a model find again what it has read? Generated, without knowledge, at several lengths."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.sequences import ScoredSequence
from nanochat.rag.practice import EXAMPLES, STAGES, PracticeWorld

HELD_OUT_SEED = 2 * 10**9  # of practice worlds that no training sees
EXAMPLES_PER_WORLD = 4


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One kind of recall at several difficulties."""

    text: str  # what is scored
    cases: tuple[tuple[int, ...], ...]  # arguments of `make`, one tuple per difficulty
    label: Callable[..., str]  # case -> its name
    make: Callable[..., ScoredSequence]  # tokenizer, ids of text, rng, *case -> a sequence


def induction(tokenizer: Any, words: Sequence[int], rng: random.Random, length: int) -> ScoredSequence:
    """`length` random ids, then the same again; the second time is scored, but for its first id.

    Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv:2209.11895.
    """
    ids = [rng.choice(words) for _ in range(length)]
    return ScoredSequence(ids=[tokenizer.special("bos"), *ids, *ids],
                          is_scored=[False] * (length + 2) + [True] * (length - 1))


def key_values(
    tokenizer: Any, words: Sequence[int], rng: random.Random, pairs: int, distance: int
) -> ScoredSequence:
    """Random keys each with a value, `distance` random ids, then the keys in another order: their values are scored.

    Multi-query associative recall: Arora et al. 2023, "Zoology", arXiv:2312.04927. No id occurs in two roles.
    """
    some = rng.sample(words, min(len(words), 2 * pairs + 64))
    keys, values, filler = some[:pairs], some[pairs : 2 * pairs], some[2 * pairs :]
    value_of = dict(zip(keys, values, strict=True))
    ids = [tokenizer.special("bos"), *(part for key in keys for part in (key, value_of[key])),
           *(rng.choice(filler) for _ in range(distance))]
    asked = rng.sample(keys, pairs)
    return ScoredSequence(ids=[*ids, *(part for key in asked for part in (key, value_of[key]))],
                          is_scored=[False] * len(ids) + [False, True] * pairs)


def practice(kind: str) -> Callable[..., ScoredSequence]:
    """Examples of a practice stage in plain text, from worlds that training never sees."""
    worlds: dict[int, PracticeWorld] = {}

    def make(tokenizer: Any, words: Sequence[int], rng: random.Random, max_tokens: int) -> ScoredSequence:
        seed = HELD_OUT_SEED + rng.randrange(EXAMPLES_PER_WORLD)
        if seed not in worlds:
            worlds[seed] = PracticeWorld(seed, STAGES[kind].world, "simple")
        rendered = EXAMPLES[kind](worlds[seed], tokenizer, rng, max_tokens)
        return ScoredSequence(ids=rendered.ids, is_scored=[value == 1 for value in rendered.mask])

    return make


PROBES: dict[str, Probe] = {
    "induction": Probe(text="tokens of a repeated random sequence", cases=((16,), (64,), (250,)),
                       label=lambda length: f"{length} ids", make=induction),
    "key_values": Probe(text="values of random keys", cases=((4, 0), (16, 0), (64, 0), (4, 200), (16, 200)),
                        label=lambda pairs, distance: f"{pairs} pairs, {distance} ids between", make=key_values),
    "copy": Probe(text="tokens of sentences shown before", cases=((512,),), label=lambda length: f"{length} tokens",
                  make=practice("copy")),
    "recall": Probe(text="tokens of values stated before", cases=((256,),), label=lambda length: f"{length} tokens",
                    make=practice("recall")),
}


def make_examples(
    name: str, case: Sequence[int], tokenizer: Any, *, count: int, max_len: int, seed: int = 0
) -> list[ScoredSequence]:
    """`count` examples of one difficulty, the same for a seed; none when the model cannot read that many tokens, or
    the vocabulary is too small.
    """
    words = [index for index, size in enumerate(tokenizer.bytes_per_id()) if size]
    if name == "key_values" and 2 * case[0] >= len(words):
        return []
    made = [PROBES[name].make(tokenizer, words, random.Random(f"{seed}:{name}:{case}:{number}"), *case)
            for number in range(count)]
    fitting = [example for example in made if len(example.ids) <= max_len + 1 and any(example.is_scored)]
    return fitting if len(fitting) >= count / 2 else []

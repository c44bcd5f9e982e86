"""Random lives of sessions over one prefix cache, checked against reading everything again from the first token.

A scenario is a few operations in random order: extend, sample, fork, mark, roll back, snapshot, restore, keep, match,
insert, evict under a budget of a few prompts, clear, new weights. At its end the logits of every row must be those of a
plain forward over the row's ids.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.session import Session, SessionMark
from nanochat.model import Cache, LanguageModel, ModelConfig

VOCAB = 40
# block pattern, width of the convolution on q, k, v
SHAPES = (("T", 0), ("T", 3), ("M", 0), ("M,T", 0), ("T,M", 4), ("M,T,M", 3))
# and what tokens of documents get of their slot
SLOT_SHAPES = (("T", 0, 0.5), ("T,M", 3, 0.5))
SLOT_IDS = (0, 1, 10, 8)
MAX_LENGTH = 90


def make_model(pattern: str, attention_conv: int = 0, slot_scale: float = 0.0, *, seed: int = 1) -> LanguageModel:
    """A random model of odd sizes whose logits are far apart."""
    return LanguageModel(ModelConfig(
        block_pattern=pattern, vocab_size=VOCAB, n_embd=12, n_head=2, n_kv_head=1, mlp_hidden=10, d_state=5, headdim=8,
        n_groups=1, chunk_size=7, attention_conv=attention_conv, slot_scale=slot_scale, slot_ids=SLOT_IDS,
        init_std=0.3), seed=seed).eval()


@dataclass
class Life:
    """What happens in one scenario."""

    model: LanguageModel
    prefixes: PrefixCache
    chance: random.Random
    stems: list[list[int]]  # beginnings that prompts share
    done: Counter = field(default_factory=Counter)
    session: Session = field(init=False)
    marks: list[tuple[SessionMark, list[list[int]]]] = field(default_factory=list)
    snapshot: tuple[Cache, list[list[int]]] | None = None

    def __post_init__(self) -> None:
        self.session = Session(self.model, self.chance.randint(1, 4), seed=self.chance.randrange(99),
                               prefix_cache=self.prefixes if self.chance.random() < 0.9 else None)

    def run(self, num_operations: int) -> None:
        table: dict[Callable[[], None], int] = {
            self.extend: 6, self.sample: 4, self.mark: 3, self.rollback: 3, self.fork: 1, self.keep: 2, self.restart: 2,
            self.go_back_by_value: 1, self.insert: 1, self.clear: 1,
        }
        self.extend()
        for _ in range(num_operations):
            operation = self.chance.choices(list(table), list(table.values()))[0]
            operation()
            self.done[operation.__name__] += 1

    def some_rows(self) -> list[int]:
        rows = range(len(self.session.rows))
        return self.chance.sample(rows, self.chance.randint(1, len(rows)))

    def some_ids(self) -> list[int]:
        fresh = [self.chance.randrange(VOCAB) for _ in range(self.chance.choice((1, 1, 2, 5, 9, 20)))]
        if self.chance.random() < 0.25:
            return fresh
        stem = self.chance.choice(self.stems)
        return stem[: self.chance.randint(1, len(stem))] + fresh * self.chance.randint(0, 1)

    def extend(self) -> None:
        rows = [row for row in self.some_rows() if len(self.session.rows[row].ids) < MAX_LENGTH]
        ids = [self.some_ids() for _ in rows]
        if rows and self.chance.random() < 0.3:
            ids = [ids[0] + own[: self.chance.randint(0, 3)] for own in ids]
        places = [[self.chance.randint(1, len(own))] if self.chance.random() < 0.5 else [] for own in ids]
        self.session.extend(rows, ids, boundaries=places)

    def sample(self) -> None:
        rows = [row for row in self.some_rows() if self.session.rows[row].ids]
        params = [SamplingParams(temperature=self.chance.choice((0.0, 1.0)), max_tokens=self.chance.randint(1, 4))
                  for _ in rows]
        steps = self.session.steps(params, stop_ids=(3,), rows=rows)
        for _ in range(self.chance.randint(1, 5)):
            next(steps, None)
        steps.close()

    def mark(self) -> None:
        rows = self.some_rows()
        self.marks.append((self.session.mark(rows), [[*row.ids] for row in self.session.rows]))

    def rollback(self) -> None:
        """To the last mark or one before, whose followers are void then."""
        if self.marks:
            del self.marks[self.chance.randint(1, len(self.marks)) :]
            mark, ids = self.marks[-1]
            rows = self.chance.sample(sorted(mark.rows), self.chance.randint(1, len(mark.rows)))
            self.session.rollback(mark, rows)
            for row in rows:
                assert self.session.rows[row].ids == ids[row], f"row {row} has other ids than at its mark"

    def fork(self) -> None:
        if len(self.session.rows) <= 3:
            parent, before = self.session, [[*row.ids] for row in self.session.rows]
            self.session, self.marks, self.snapshot = self.session.fork(2, seed=1), [], None
            self.extend()
            assert [row.ids for row in parent.rows] == before
            if self.chance.random() < 0.5:
                self.session = parent

    def keep(self) -> None:
        self.session.keep(self.some_rows())

    def restart(self) -> None:
        """A new session: what it begins with may be known."""
        self.session, self.marks, self.snapshot = Session(self.model, self.chance.randint(1, 4),
                                                          prefix_cache=self.prefixes), [], None
        self.extend()

    def go_back_by_value(self) -> None:
        """The cache's own snapshot and restore, with other tokens read in between."""
        cache = self.session.cache
        kept = cache.snapshot()
        with torch.no_grad():
            self.model(torch.randint(VOCAB, (len(cache), 3), generator=torch.Generator().manual_seed(0)), cache)
        cache.restore(kept)
        self.marks = []

    def insert(self) -> None:
        """A prompt read and kept beside any session, in two pieces."""
        ids = self.some_ids()
        match = self.prefixes.match(ids)
        cache = match.make_cache()
        with torch.no_grad():
            for end in match.snapshots:
                piece = torch.tensor([ids[int(cache.lengths[0]) : end]])
                features = self.model.features(piece, cache)[0, -1]
                self.prefixes.insert(ids[:end], cache, features=features, version=match.version,
                                     passing=end == len(ids))

    def clear(self) -> None:
        if self.chance.random() < 0.3:
            self.prefixes.clear()

    def difference(self) -> float:
        """The largest difference of a row's logits to those of reading it all at once."""
        rows = [row for row, seen in enumerate(self.session.rows) if seen.ids]
        logits = self.session.logits(rows)
        plain = plain_logits(self.model, [self.session.rows[row].ids for row in rows])
        return (logits - plain).abs().max().item() if rows else 0.0


@torch.no_grad()
def plain_logits(model: LanguageModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (B, V) behind each row, all packed into one forward without a cache."""
    if not rows:
        return torch.zeros(0, VOCAB)
    ids = torch.tensor([id for row in rows for id in row])[None]
    segments = torch.tensor([number for number, row in enumerate(rows) for _ in row])[None]
    ends = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
    return model(ids, seq_idx=segments)[0, ends]


def run_scenarios(
    count: int, *, seed: int = 0, num_operations: int = 6, shapes: Sequence[tuple] = SHAPES
) -> dict:
    """Run `count` scenarios, a fresh world every fifty; the largest difference, and what was done how often."""
    done, totals, worst = Counter(), Counter(), 0.0
    for start in range(0, count, 50):
        chance = random.Random(f"{seed}:{start}")
        model = make_model(*shapes[start // 50 % len(shapes)], seed=chance.randrange(1000))
        stems = [[chance.randrange(VOCAB) for _ in range(chance.randint(20, 60))] for _ in range(3)]
        stems += [stem[:17] + [chance.randrange(VOCAB) for _ in range(30)] for stem in stems]
        prefixes = PrefixCache(model, max_bytes=chance.choice((20_000, 60_000, 10**6)), boundary_ids=(7,))
        for number in range(start, min(start + 50, count)):
            life = Life(model, prefixes, random.Random(f"{seed}:{number}:life"), stems)
            life.run(num_operations)
            difference = life.difference()
            assert difference < 1e-5, f"scenario {number}, seed {seed}: logits differ by {difference}; {life.done}"
            assert prefixes.stats.bytes <= prefixes.max_bytes, prefixes.stats
            worst = max(worst, difference)
            done += life.done
            if life.chance.random() < 0.05:
                model.reset_parameters(life.chance.randrange(1000))
                done["new weights"] += 1
        stats = prefixes.stats
        totals += Counter({name: getattr(stats, name) for name in (
            "hits", "misses", "tokens_reused", "tokens_read", "insertions", "evictions", "invalidations")})
    return {"scenarios": count, "largest_difference": worst, "operations": dict(done), "prefix_cache": dict(totals)}

"""Names that training has seen: of every world of a run, and of the runs that it went on from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nanochat.checkpoint_files import read_meta
from nanochat.checkpoint_manager import SOURCES, find_checkpoint
from nanochat.errors import CheckpointError, CheckpointNotFound
from nanochat.evaluation.suite.worlds import trained_seeds
from nanochat.rag.practice import STAGES
from tasks.worlds import WorldConfig, make_world

MAX_WORLDS = 6000    # made again, the latest first: some 10 ms each
MAX_RUNS = 8         # one after the other


def trained_names(meta: Mapping[str, Any], note: Callable[[str], None]) -> frozenset[str]:
    """Every name of the worlds that a checkpoint was trained on, as far as the records say; notes what they do not.

    A record says in which stages a run practised and not which world belongs to which, so each seed is made as every
    stage would have made it.
    """
    names: set[str] = set()
    num_made = num_left = 0
    for one in _runs(meta, note):
        for settings in _settings(one):
            for seed in trained_seeds(one, one["step"]):
                if num_made == MAX_WORLDS:
                    num_left += 1
                    continue
                names |= make_world(WorldConfig(seed=seed, **{"questions_per_entity": 6} | settings)).names
                num_made += 1
    if num_left:
        note(f"names of the latest {num_made:,} worlds of training are excluded; those of {num_left:,} earlier ones "
             "may come up again")
    return frozenset(names)


def _settings(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of the worlds of the stages that a run came to, without repeats."""
    curriculum = meta["curriculum"]
    stages = [name for name in curriculum.get("stages", ()) if name in STAGES]
    reached = stages[: curriculum.get("index", len(stages)) + 1]
    found: list[dict[str, Any]] = []
    for name in reached:
        if STAGES[name].world not in found:
            found.append(STAGES[name].world)
    return found


def _runs(meta: Mapping[str, Any], note: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
    """The records of a checkpoint and of what it was tuned from, where they tell of worlds."""
    one: Mapping[str, Any] = meta
    for _ in range(MAX_RUNS):
        if trained_seeds(one, 1):
            yield one
        origin = one.get("from")
        if not isinstance(origin, Mapping) or origin.get("source") not in SOURCES:
            return
        try:
            path = find_checkpoint(origin["source"], origin.get("tag"), origin.get("step"))
            one = {"source": origin["source"], **read_meta(path)}
        except (CheckpointNotFound, CheckpointError) as missing:
            note(f"names of earlier training may come up again: {missing.problem}")
            return

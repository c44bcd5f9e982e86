"""The log of episodes: one line each with all that a replay needs, written while training runs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, rank, unwritable, write_text
from nanochat.errors import UserError
from nanochat.refrag.pieces import pieces_of, token_text
from nanochat.refrag.policy_batch import Sequenced
from nanochat.refrag.rewards import is_right
from nanochat.refrag.rollout import Group
from nanochat.refrag.trace import Trace
from nanochat.tokenizer import Tokenizer

Found = Sequence[tuple[Sequence[float], Sequence[float]]]  # of each sequence: log-probabilities, entropies


def log_path(tag: str) -> Path:
    """Where the episodes of refrag/TAG are logged."""
    return base_dir() / "episodes" / f"refrag_{tag}.jsonl"


class EpisodeLog:
    """Appends to `path` on rank 0; records after `start_step`, of a run that was interrupted, are dropped first."""

    def __init__(self, path: str | Path, tokenizer: Tokenizer, *, start_step: int = 0) -> None:
        self.path, self.tokenizer = Path(path), tokenizer
        if rank() == 0:
            kept = [line for line in _lines(self.path) if start_step and _step(line) <= start_step]
            write_text(self.path, "".join(line + "\n" for line in kept))

    def write(
        self, step: int, groups: Sequence[Group], sequences: Sequence[Sequenced], traces: Sequence[Trace | None],
        found: Found, count: int,
    ) -> None:
        """Up to `count` episodes of a step, from different questions first, with what the training saw of them.

        Raises UserError when the disk is full.
        """
        if rank() != 0 or not count:
            return
        seen = {id(trace): (item, *numbers) for item, trace, numbers in zip(sequences, traces, found, strict=True)
                if trace is not None}
        rounds = zip_longest(*(range(len(group.traces)) for group in groups))
        order = [(group, place) for places in rounds
                 for group, place in zip(groups, places, strict=True) if place is not None]
        lines = [json.dumps(self._record(step, number, group, place, seen.get(id(group.traces[place]))),
                            ensure_ascii=False) for number, (group, place) in enumerate(order[:count])]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _record(self, step: int, number: int, group: Group, place: int, learned: Any) -> dict[str, Any]:
        """One episode: question, trace, reward by part, and each chosen token with what the training saw of it.

        Of an episode that nothing was learned from, only what it was sampled with is known.
        """
        trace, score = group.traces[place], group.scores[place]
        places = [at for at, chosen in enumerate(trace.mask) if chosen]
        logprobs: dict[int, float] = {at: trace.logprobs[at] for at in places}
        entropies: dict[int, float] = {}
        advantages: Mapping[int, float] = {}
        if learned is not None:
            item, new, found = learned
            advantages = item.advantages
            logprobs |= dict(zip(sorted(item.masks), new, strict=False))
            entropies = dict(zip(sorted(item.masks), found, strict=False))
        pieces = pieces_of(places)
        return {
            "step": step, "number": number, "question_id": str(group.question.get("id", "")),
            "reference": asdict(group.reference), "is_right": is_right(trace, group.reference), "reward": score.total,
            "parts": dict(score.parts), "group_rewards": group.rewards, "trace": trace.to_dict(),
            "chosen": [{"place": at, "piece": pieces[at], "text": token_text(trace.token_ids[at], self.tokenizer),
                        "logprob": _finite(logprobs[at]), "entropy": _finite(entropies.get(at, math.nan)),
                        "advantage": advantages.get(at, 0.0)} for at in places],
        }


def read_episodes(path: str | Path) -> list[dict[str, Any]]:
    """All logged episodes, in order. Raises UserError where there are none."""
    records = [json.loads(line) for line in _lines(Path(path))]
    if not records:
        raise UserError(f"No episodes are logged in {path}",
                        hint="they come from training with rewards: python -m scripts.refrag_finetune "
                        "--knowledge_base data/my_kb --source rag --use_rewards true --log_episodes 8")
    return records


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _lines(path: Path) -> Iterator[str]:
    """Whole lines; one torn by a kill is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if line.endswith("}") and isinstance(_parsed(line), Mapping):
            yield line


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _step(line: str) -> int:
    return int(json.loads(line).get("step", 0))

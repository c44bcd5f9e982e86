"""SmolTalk: everyday conversations without documents, from a local file or the hub's HuggingFaceTB/smol-smoltalk."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat.conversation import check_conversation
from nanochat.errors import ConversationError, MissingDependency, UserError
from tasks.jsonl import JsonlTask

HUB_ID = "HuggingFaceTB/smol-smoltalk"
LOCAL_FILES = ("data/smoltalk.jsonl", "data/smoltalk.jsonl.gz")

_OFFLINE_HINT = f"put conversations into {LOCAL_FILES[0]}, one {{\"messages\": [...]}} per line, or leave SmolTalk out"
_logger = logging.getLogger(__name__)


class SmolTalk(JsonlTask):
    """Chat to keep a model's manners while it learns to read documents."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "") -> "SmolTalk":
        """At most `samples` conversations (0: all), chosen by the seed.

        A given path or data/smoltalk.jsonl(.gz) comes first, the hub's training split next, through the library
        `datasets` and its cache. Raises MissingDependency without the library, UserError when the hub cannot be read.
        """
        for name in [path] if path else LOCAL_FILES:
            if path or Path(name).is_file():
                return super().load(samples, seed, path=name)
        return cls(_legal(_hub_rows(samples, seed)))


def _hub_rows(samples: int, seed: int) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'datasets': the task SmolTalk needs it to read from the hub",
            hint=f"uv pip install datasets, or {_OFFLINE_HINT}",
        ) from missing
    try:
        rows = load_dataset(HUB_ID, split="train")
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Cannot load {HUB_ID} from the hub: {reason}", hint=_OFFLINE_HINT) from error
    rows = rows.shuffle(seed=seed)
    return rows.select(range(min(samples or len(rows), len(rows))))


def _legal(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as conversations; the few that break the grammar are left out and counted in the log."""
    kept, left_out = [], 0
    for row in rows:
        conversation = {"messages": row["messages"]}
        try:
            check_conversation(conversation)
        except ConversationError:
            left_out += 1
        else:
            kept.append(conversation)
    if left_out:
        _logger.warning("SmolTalk: left out %d conversations that break the grammar, kept %d", left_out, len(kept))
    return kept

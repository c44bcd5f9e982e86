"""What tells the data of a tuning run from other data, so that a run that is resumed over other data says so."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.common import print0

# part of the record -> its words for people
PARTS = {"knowledge_base": "the knowledge base", "validation_knowledge_base": "the knowledge base for validation",
         "questions": "the questions", "episodes": "the episodes", "validation_questions": "the validation questions",
         "validation_episodes": "the validation episodes", "chats": "the conversations of --base_tasks"}


def data_record(data: Any, held_out: Any, knowledge_base: str, other: str, chats: Sequence[Any]) -> dict[str, Any]:
    """Plain data for a checkpoint: the fingerprints of both knowledge bases (`other`: for validation), and number and
    hash of the records that train and validate; of the conversations only the number.
    """
    records = {"questions": data.questions, "episodes": data.episodes,
               "validation_questions": held_out.validation_questions,
               "validation_episodes": held_out.validation_episodes}
    return {"knowledge_base": knowledge_base, "validation_knowledge_base": other,
            "chats": getattr(chats, "num_conversations", len(chats)),
            **{name: {"count": len(part), "sha256": _digest(part)} for name, part in records.items()}}


def say_other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """One line where a resumed run goes on with other data than that of its checkpoint, which may know less of it."""
    changed = [f"{words} ({_shown(before[name])} -> {_shown(now[name])})" for name, words in PARTS.items()
               if name in before and before[name] != now[name]]
    if changed:
        print0(f"Warning: the data is not what this run was begun with: {', '.join(changed)}. What is held out now may "
               "have been trained on, so that val_loss looks too good. To be exact: give the old data, or begin "
               "another run with --tag NAME, without --resume")


def _shown(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"{part['count']:,}, {str(part['sha256'])[:8]}"
    return f"{part:,}" if isinstance(part, int) else str(part)[:8] or "none"


def _digest(records: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, sort_keys=True).encode("ascii") + b"\n")
    return digest.hexdigest()

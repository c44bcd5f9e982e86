"""What a task is, and the table of tasks that scripts know by name."""

from collections.abc import Mapping
from typing import Any, Protocol

from nanochat.errors import ConfigError
from tasks.jsonl import JsonlTask
from tasks.smoltalk import SmolTalk


class Task(Protocol):
    """A sequence of legal conversations, as plain dicts in the guide's form."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "") -> "Task":
        """At most `samples` conversations (0: all), chosen by the seed; `path` is what follows the name's colon."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


TASKS: dict[str, type[Task]] = {
    "SmolTalk": SmolTalk,     # everyday chat without documents, from the hub or data/smoltalk.jsonl
    "Jsonl": JsonlTask,       # your own conversations: Jsonl:PATH
}


def load_task(name: str, samples: int, seed: int) -> Task:
    """The task called `name`, such as "SmolTalk" or "Jsonl:data/chats.jsonl". Raises ConfigError for other names."""
    kind, _, path = name.strip().partition(":")
    by_lower = {key.lower(): task for key, task in TASKS.items()}
    if kind.lower() not in by_lower:
        raise ConfigError(f"Unknown task {name!r}", hint=f"known tasks: {', '.join(TASKS)}; a file is Jsonl:PATH")
    if samples < 0:
        raise ConfigError(f"samples is {samples} for task {name!r}", hint="give a positive number, or 0 for all")
    return by_lower[kind.lower()].load(samples, seed, path=path)

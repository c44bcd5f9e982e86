"""What a task is, the table of tasks that scripts know by name, and mixtures of them by weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat.errors import ConfigError
from tasks.jsonl import JsonlTask
from tasks.qa import Hotpot, QaTask, Squad, Worlds
from tasks.reading import PLAIN, Reading
from tasks.smoltalk import SmolTalk


class Task(Protocol):
    """A sequence of legal conversations, as plain dicts in the guide's form."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "Task":
        """At most `samples` conversations (0: all), chosen by the seed; `path` is what follows the name's colon.
        `reading` is for tasks that put documents before their questions.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


TASKS: dict[str, type[Task]] = {
    "SmolTalk": SmolTalk,     # everyday chat without documents: a folder, data/smoltalk.jsonl, or the hub
    "Jsonl": JsonlTask,       # your own conversations: Jsonl:PATH
    "Qa": QaTask,             # questions over a corpus in a folder: Qa:FOLDER
    "Squad": Squad,           # SQuAD's own JSON: Squad:FILE
    "Hotpot": Hotpot,         # the JSON of HotpotQA and 2WikiMultihopQA: Hotpot:FILE
    "Worlds": Worlds,         # a generated world
}
_FORM = "NAME, NAME:PATH or NAME=PATH, each with :WEIGHT behind it if wanted"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One entry of --base_tasks."""

    name: str  # of TASKS
    path: str = ""
    weight: float = 1.0  # share of examples, relative to the other entries

    def __str__(self) -> str:
        return f"{self.name}:{self.path}" if self.path else self.name


def parse_tasks(text: str) -> list[TaskSpec]:
    """The entries of "SmolTalk:2,Jsonl:data/chats.jsonl:1". Raises ConfigError for unknown names and weights."""
    return [_spec(part.strip()) for part in text.split(",") if part.strip()]


def _spec(text: str) -> TaskSpec:
    place = min((text.index(sign) for sign in ":=" if sign in text), default=len(text))
    kind, rest = text[:place], text[place + 1 :]
    by_lower = {key.lower(): key for key in TASKS}
    if kind.lower() not in by_lower:
        raise ConfigError(f"Unknown task {text!r}", hint=f"known tasks: {', '.join(TASKS)}; write {_FORM}")
    path, colon, last = rest.rpartition(":")
    if not colon and text[place : place + 1] == "=":
        # what follows = is a path, even if it is a number
        path, last = rest, ""
    weight = _number(last)
    if weight is None:
        return TaskSpec(name=by_lower[kind.lower()], path=rest)
    if not 0 < weight < float("inf"):
        raise ConfigError(f"Task {text!r} has the weight {last}, must be above 0", hint=f"write {_FORM}")
    return TaskSpec(name=by_lower[kind.lower()], path=path, weight=weight)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def load_task(name: str, samples: int, seed: int, *, reading: Reading = PLAIN) -> Task:
    """The task called `name`, such as "SmolTalk" or "Jsonl:data/chats.jsonl". Raises ConfigError for other names."""
    specs = parse_tasks(name)
    if len(specs) != 1:
        raise ConfigError(f"Unknown task {name!r}", hint=f"known tasks: {', '.join(TASKS)}; write {_FORM}")
    if samples < 0:
        raise ConfigError(f"samples is {samples} for task {name!r}", hint="give a positive number, or 0 for all")
    return TASKS[specs[0].name].load(samples, seed, path=specs[0].path, reading=reading)


class WeightedTasks(Sequence):
    """Several tasks as one sequence, in which a random place lies in each task as often as its weight says.

    Within a task every conversation is as likely as any other. `len` is a number of places, not of conversations.
    """

    PLACES = 2**40

    def __init__(self, tasks: Sequence[Sequence[Mapping[str, Any]]], weights: Sequence[float]) -> None:
        kept = [(task, weight) for task, weight in zip(tasks, weights, strict=True) if len(task)]
        total, done = sum(weight for _, weight in kept), 0.0
        self._ends: list[tuple[int, Sequence[Mapping[str, Any]]]] = []
        for task, weight in kept:
            done += weight
            self._ends.append((round(self.PLACES * done / total), task))
        self.num_conversations = sum(len(task) for task, _ in kept)

    def __len__(self) -> int:
        return self.PLACES if self._ends else 0

    def __getitem__(self, index):
        start = 0
        for end, task in self._ends:
            if index < end:
                return task[(index - start) * len(task) // (end - start)]
            start = end
        raise IndexError(f"place {index} of {len(self)}")

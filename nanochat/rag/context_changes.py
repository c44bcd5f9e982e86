"""What is changed in the documents of one context, and which of its questions that spoils."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.rag.changes import stands


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Documents that stand for those of their positions, and what the first question's answer becomes."""

    place: float  # where the rival stands: 0 first ... 1 last
    documents: dict[int, dict[str, Any]] = field(default_factory=dict)
    rival: dict[str, Any] | None = None
    value: str = ""  # the new value; "" where nothing changed
    old: str = ""  # the value that the edit took away, or that the rival contradicts
    about: str = ""  # id of the document that was edited, or that the rival repeats
    decoy: dict[str, Any] | None = None  # says something else of somebody with a name like the one asked for
    decoy_place: float = 0.0  # as `place`
    decoy_name: str = ""

    def spoils(self, question: Mapping[str, Any]) -> bool:
        """Whether another question's answer is no longer what it was, or may not be."""
        if self.decoy_name and stands(self.decoy_name, question["question"]):
            return True
        if not self.value:
            return False
        named = {*question["supporting_ids"], *question.get("also_ids", ())}
        # a rival repeats all that its document says; what takes several documents may have gone through the value
        if self.about in named and (self.rival is not None or len(named) > 1):
            return True
        # "Who is the mayor of OLD?" after "Where was she born? OLD"; "Who was born in NEW?" has one answer more
        if any(stands(value.lower(), question["question"].lower()) for value in (self.old, self.value)):
            return True
        # the year of a date went with it
        return self.rival is None and any(
            stands(self.old, answer) or stands(answer, self.old) for answer in question["answers"])

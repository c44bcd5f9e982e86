"""What rewards and logs see of an episode: plain values, without the model that wrote it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One search: what was asked, and what came back."""

    hop: int  # from 1
    query: str
    documents: Sequence[Mapping[str, Any]]  # shown by this hop, best first: id, title, content
    citations: Sequence[int] = ()  # slots of the documents, shown before, that made it ask


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known about a question; never shown to the model."""

    answers: tuple[str, ...]  # accepted answers; empty when the documents do not say it
    supporting_ids: tuple[str, ...] = ()  # documents that state the answer, in hop order
    num_hops: int = 1  # searches that the answer, or seeing that there is none, takes
    kind: str = ""  # where the question is from, such as "broken_bridge"

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)

    @classmethod
    def of(cls, question: Mapping[str, Any]) -> "Reference":
        """Of a question record, with answers, supporting_ids, hops, kind and, where it knows better than its hops how
        many it takes, searches.
        """
        num_searches = question.get("searches") or question.get("hops", 1)
        return cls(answers=tuple(question["answers"]), supporting_ids=tuple(question.get("supporting_ids", ())),
                   num_hops=max(1, int(num_searches)), kind=str(question.get("kind", "")))


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One episode: searches, answer, and the tokens that were written and read."""

    question: str
    hops: Sequence[Hop]
    answer: str  # text without marks; "" for an abstention
    citations: Sequence[int] = ()  # slots
    closest: Sequence[int] = ()  # slots that an abstention names
    documents: Sequence[Mapping[str, Any]] = ()  # shown, in slot order
    abstained: bool = False
    token_ids: Sequence[int] = ()  # (T,)
    mask: Sequence[int] = ()  # (T,) 1 where the policy sampled the token
    logprobs: Sequence[float] = ()  # (T,) of sampled tokens when they were drawn; 0.0 where the mask is 0
    stop: str = "end"  # "end", or "length" when there was no room to finish
    is_valid: bool = True  # the answer is complete
    num_repeated: int = 0  # searches for what had been searched before

    @property
    def num_searches(self) -> int:
        return len(self.hops)

    @property
    def is_truncated(self) -> bool:
        """Cut for want of room: nobody knows what it would have become."""
        return self.stop == "length"

    @property
    def is_clean(self) -> bool:
        """Valid, and no search repeated another."""
        return self.is_valid and not self.num_repeated

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.mask)

    @property
    def shown_ids(self) -> list[str]:
        """Ids of all documents that were shown, in slot order."""
        return [document["id"] for document in self.documents]

    @property
    def cited_ids(self) -> list[str]:
        return [self.documents[slot]["id"] for slot in self.citations if slot < len(self.documents)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Trace":
        """What `to_dict` wrote."""
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        return cls(**{**known, "hops": tuple(Hop(**hop) for hop in record["hops"])})

    @classmethod
    def of(cls, episode: Any) -> "Trace":
        """Of an episode of nanochat.engine.hops."""
        return cls(
            question=episode.question,
            hops=tuple(Hop(hop=hop["hop"], query=hop["query"], documents=hop["documents"],
                           citations=tuple(hop.get("citations", ()))) for hop in episode.hops),
            answer=episode.answer, citations=tuple(episode.citations), closest=tuple(episode.closest),
            documents=tuple(episode.documents), abstained=episode.abstained, token_ids=tuple(episode.ids),
            mask=tuple(episode.mask), logprobs=tuple(episode.logprobs), stop=episode.stop,
            # to repeat a search has a price of its own
            is_valid=episode.stop == "end", num_repeated=episode.num_repeated,
        )

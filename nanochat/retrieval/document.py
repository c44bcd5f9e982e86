"""A document, a document with a score, and the checks a JSON record must pass to become one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.errors import DocumentError

MAX_CONTENT_CHARS = 1_000_000
_FIELDS = ("id", "title", "content", "source", "metadata")
_HINT = 'each document needs an id and content, and should have a title: {"id": "a1", "title": "...", "content": "..."}'


@dataclass(frozen=True, kw_only=True)
class Document:
    """What is retrieved and shown to the model. Keys of a record that are not fields here are kept in `metadata`."""

    id: str
    title: str = ""
    content: str
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """What a retriever indexes: title, the heading that a passage stands under, and content."""
        heading = self.metadata.get("heading")
        if isinstance(heading, str) and heading:
            return f"{self.title}\n{heading}\n{self.content}"
        return f"{self.title}\n{self.content}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record; `Document.from_dict` gives the same document back."""
        record: dict[str, Any] = {"id": self.id, "title": self.title, "content": self.content, "source": self.source}
        if self.metadata:
            record["metadata"] = dict(self.metadata)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], *, where: str = "document") -> "Document":
        """Check a record and make a document of it. `where` (file:line) starts the message of a DocumentError."""
        if not isinstance(record, Mapping):
            raise DocumentError(f"{where}: expected a JSON object, found {_kind(record)}", hint=_HINT)
        identifier = _identifier(record, where)
        texts = {name: _text(record, name, identifier, where) for name in ("title", "content", "source")}
        if not texts["content"].strip():
            raise DocumentError(
                f"{where}: 'content' is missing or empty in document {identifier!r}", hint=_advice(record)
            )
        if len(texts["content"]) > MAX_CONTENT_CHARS:
            raise DocumentError(
                f"{where}: document {identifier!r} has {len(texts['content']):,} characters of content, "
                f"the limit is {MAX_CONTENT_CHARS:,}",
                hint="split it into documents of 200 to 500 words; answers get better, too",
            )
        return cls(id=identifier, metadata=_metadata(record, identifier, where), **texts)


@dataclass(frozen=True, kw_only=True)
class ScoredDocument(Document):
    """A document found by a search. Scores compare within one query and one retriever only; higher is better."""

    score: float

    @classmethod
    def of(cls, document: Document, score: float) -> "ScoredDocument":
        """The document with a search score."""
        return cls(**vars(document), score=score)

    def to_dict(self) -> dict[str, Any]:
        """The document's record with its score."""
        return {**super().to_dict(), "score": self.score}


def _identifier(record: Mapping[str, Any], where: str) -> str:
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise DocumentError(f"{where}: 'id' is missing or empty", hint=_HINT)
    if not isinstance(value, str):
        raise DocumentError(f"{where}: 'id' must be text or a whole number, found {_kind(value)}", hint=_HINT)
    if not value.strip():
        raise DocumentError(f"{where}: 'id' is missing or empty", hint=_HINT)
    return value


def _text(record: Mapping[str, Any], name: str, identifier: str, where: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DocumentError(
            f"{where}: {name!r} must be text in document {identifier!r}, found {_kind(value)}", hint=_HINT
        )
    return value


def _metadata(record: Mapping[str, Any], identifier: str, where: str) -> dict[str, Any]:
    nested = record.get("metadata")
    if nested is not None and not isinstance(nested, Mapping):
        raise DocumentError(
            f"{where}: 'metadata' must be an object in document {identifier!r}, found {_kind(nested)}",
            hint='write it as {"metadata": {"topic": "shipping"}}, or leave it out',
        )
    return {**(nested or {}), **{key: value for key, value in record.items() if key not in _FIELDS}}


def _advice(record: Mapping[str, Any]) -> str:
    for name in ("text", "body", "contents", "passage", "answer"):
        if isinstance(record.get(name), str) and "content" not in record:
            return f"the text must be under 'content'; this record has it under {name!r}: rename that key"
    return _HINT


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")

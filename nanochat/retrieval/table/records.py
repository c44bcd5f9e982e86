"""What is written about a document and about a part: one JSON line, hashes, and the part's own record."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document

FILES = (
    "documents.jsonl", "offsets.npy", "passages.npy", "ids.npy", "hashes.npy", "fields.json", "fields.npy",
)  # fmt: skip
MAX_ROWS = 2**31 - 1
# far below what stops JSON from being read, which depends on who reads
_MAX_DEPTH = 100
# made once: json.dumps makes an encoder for every call with options
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_to_canonical_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True).encode
_NAME = re.compile(r"p-[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PartRecord:
    """What a manifest says about a part. The name is a hash of the content."""

    name: str
    num_documents: int
    num_passages: int
    files: Mapping[str, Mapping[str, Any]]  # file name -> {"bytes", "sha256"}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "name": self.name,
            "num_documents": self.num_documents,
            "num_passages": self.num_passages,
            "files": {name: dict(record) for name, record in self.files.items()},
        }

    @classmethod
    def from_dict(cls, record: Any) -> "PartRecord":
        """Check a record read from JSON. Raises ValueError for anything that `to_dict` would not have made."""
        if not isinstance(record, Mapping) or record.keys() != {"name", "num_documents", "num_passages", "files"}:
            raise ValueError("the record of a part has other keys than it should")
        if not isinstance(record["name"], str) or not _NAME.fullmatch(record["name"]):
            raise ValueError(f"{record['name']!r} is no name of a part")
        for key in ("num_documents", "num_passages"):
            if type(record[key]) is not int or not 0 <= record[key] <= MAX_ROWS:
                raise ValueError(f"{key} of part {record['name']} is {record[key]!r}")
        files = record["files"]
        if not isinstance(files, Mapping) or files.keys() != set(FILES):
            raise ValueError(f"part {record['name']} names other files than it should")
        for name, file in files.items():
            if not _is_file_record(file):
                raise ValueError(f"part {record['name']} has no size and hash of {name}")
        return cls(record["name"], record["num_documents"], record["num_passages"], files)


def file_record(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _is_file_record(record: Any) -> bool:
    return (
        isinstance(record, Mapping)
        and record.keys() == {"bytes", "sha256"}
        and type(record["bytes"]) is int
        and record["bytes"] >= 0
        and isinstance(record["sha256"], str)
        and _SHA256.fullmatch(record["sha256"]) is not None
    )


def encode_document(document: Document, where: str = "document") -> tuple[Document, bytes, bytes]:
    """The document as it will be read again, its line in documents.jsonl, and its hash (16 bytes).

    Raises DocumentError starting with `where` for a document that could not be read again: no content, half of a
    character, NaN or an object that is not JSON in the metadata.
    """
    try:
        checked = Document.from_dict(Document.to_dict(document), where=where)
        _check_depth(checked.metadata, _MAX_DEPTH)
        record = checked.to_dict()
        line = f"{_to_json(record)}\n".encode()
        if not checked.metadata:
            return checked, line, _hash16(line)
        if not all(type(key) is str for key in checked.metadata):
            checked = Document.from_dict(json.loads(line), where=where)
        # metadata in another order is the same document
        canonical = _to_canonical_json(record).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(
            f"{where}: {document.id!r} cannot be written as UTF-8 JSON: {error}", hint="clean its text and metadata"
        ) from error
    return checked, line, _hash16(canonical)


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise ValueError("its metadata is nested too deeply")
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_depth(item, depth - 1)


def document_hash(document: Document) -> bytes:
    """16 bytes that change with anything in the document; the order of its metadata does not count."""
    return encode_document(document)[2]


def decode_document(line: bytes) -> Document:
    """The document of a line. Raises ValueError where it is not one that was written."""
    try:
        return Document.from_dict(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"documents.jsonl is not what was written: {error}") from error
    except DocumentError as error:
        raise ValueError(f"documents.jsonl is not what was written: {error.problem}") from error


def starts_with_id(line: bytes, identifier: str) -> bool:
    """Whether a line of documents.jsonl, or its beginning, is that of a document with this id."""
    return line.startswith(f'{{"id": {_to_json(identifier)}, '.encode())


def id_hash(identifier: str) -> int:
    """64 bits of an id, for finding it; different ids may share them."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")


def _hash16(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()

"""Writing the next version of a knowledge base: new parts, indexes that continue the old ones, one rename at the end.

Until that rename nothing that a reader can see has changed; what a failed write leaves behind is removed by it, what a
killed one leaves by the next.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

import nanochat
from nanochat.common import sync_path
from nanochat.errors import KnowledgeBaseError, MissingDependency
from nanochat.retrieval.base import COMPONENTS
from nanochat.retrieval.chunking import Chunking, spans_function
from nanochat.retrieval.document import Document
from nanochat.retrieval.storage.indexes import load_index, write_index
from nanochat.retrieval.storage.manifest import FORMAT, FORMAT_VERSION, names_of
from nanochat.retrieval.storage.naming import Names
from nanochat.retrieval.storage.snapshot import Snapshot, fingerprint_of
from nanochat.retrieval.storage.versions import (
    commit_version,
    remove,
    write_whole,
)
from nanochat.retrieval.table import Part, PartRecord, Spans, Table, merge_parts, write_part

log = logging.getLogger(__name__)

PART_DOCUMENTS = 20_000  # a part of so many is complete: it is merged with no other
Progress = Callable[[str], None] | None


@dataclass
class Draft:
    """What the next version shall hold."""

    retriever_type: str
    settings: Mapping[str, Any]
    chunking: Mapping[str, Any]
    types: Mapping[str, Mapping[str, Any]]                 # the indexes it has, with their settings
    parts: Sequence[PartRecord]
    deleted: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sources: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] | None = None             # the file that counts tokens for chunking
    indexes: Mapping[str, Any] = field(default_factory=dict)  # records of those that hold the first rows already
    indexed_rows: int = 0                                  # how many rows those hold
    reuse: Mapping[str, Any] = field(default_factory=dict)  # records of those whose vectors may be taken over


class Writer:
    """One write: made by `writing`, which holds the lock. `base` is the version it starts from, if there is one."""

    def __init__(self, path: Path, action: str, base: Snapshot | None, version: int, progress: Progress) -> None:
        self.path, self.action, self.base, self.version, self.progress = path, action, base, version, progress
        self._names = Names()
        parts = path / "parts"
        self._were_there = set(os.listdir(parts)) if parts.is_dir() else set()

    def write_parts(self, documents: Iterable[Document], spans: Spans | None) -> list[PartRecord]:
        """Write documents, however many, as parts of at most 20,000."""
        records: list[PartRecord] = []
        remaining = self._names.watch(documents)
        for first in remaining:
            block = chain([first], islice(remaining, PART_DOCUMENTS - 1))
            number = 1 + sum(record.num_documents for record in records)
            records.append(write_part(self.path / "parts", block, spans, first=number))
        return records

    def opened(self, records: Iterable[PartRecord]) -> list[Part]:
        """Parts of this knowledge base, open."""
        known = {part.record.name: part for part in self.base.table.parts} if self.base is not None else {}
        return [known.get(record.name) or Part.open(self.path / "parts" / record.name, record) for record in records]

    def forget_names(self) -> None:
        """What was written so far will be written again."""
        self._names = Names()

    def draft(self, **changes: Any) -> Draft:
        """The base version's content with changes; its indexes are carried on."""
        manifest = self.base.manifest
        return Draft(**{
            "retriever_type": manifest["retriever_type"],
            "settings": manifest["settings"],
            "chunking": manifest["chunking"],
            "types": {name: record.get("settings", {}) for name, record in manifest["indexes"].items()},
            "parts": [part.record for part in self.base.table.parts],
            "deleted": self.base.table.deleted,
            "tokenizer": manifest["tokenizer"],
            "indexes": manifest["indexes"],
            "indexed_rows": manifest["num_rows"],
            **changes,
        })

    def commit(self, draft: Draft) -> dict[str, Any]:
        """Write the draft's indexes and files and make it the current version. Returns its manifest."""
        for name in ("parts", "indexes", "versions"):
            (self.path / name).mkdir(exist_ok=True)
        table = Table(self._merged(draft.parts), draft.deleted)
        fingerprint, num_documents = fingerprint_of(table, draft.chunking)
        if not num_documents:
            raise KnowledgeBaseError("A knowledge base needs at least one document",
                                     hint=f"check the documents; to be rid of all, remove the folder {self.path}")
        had_numbered = self.base is not None and bool(self.base.manifest.get("has_numbered_ids"))
        if draft.chunking.get("size"):
            self._names.check(table, had_numbered=had_numbered)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "created_by": f"nanochat-rag {nanochat.__version__}",
            "action": self.action,
            "retriever_type": draft.retriever_type,
            "settings": dict(draft.settings),
            "chunking": dict(draft.chunking),
            "chunk_words": draft.chunking.get("size", 0) if draft.chunking.get("unit") == "words" else 0,
            "num_documents": num_documents,
            "num_passages": table.num_live,
            "num_rows": table.num_rows,
            "has_numbered_ids": had_numbered or self._names.has_numbered,
            "fingerprint": fingerprint,
            "parts": [part.record.to_dict() for part in table.parts],
            "deleted": self._save_rows(table.deleted),
            "sources": self._save_json("sources", draft.sources),
            "tokenizer": draft.tokenizer,
            "indexes": self._write_indexes(draft, table),
        }
        sync_path(self.path / "parts")
        if manifest["indexes"] != draft.indexes:
            sync_path(self.path / "indexes")
        if self.base is None:
            sync_path(self.path)
        commit_version(self.path, manifest)
        self._clear(manifest)
        return manifest

    def commit_again(self) -> None:
        """Make the base version's content the current version."""
        commit_version(self.path, {**self.base.manifest, "version": self.version, "action": self.action})

    def _merged(self, records: Sequence[PartRecord]) -> list[Part]:
        parts = self.opened(records)
        start = merge_tail([record.num_documents for record in records])
        if start == len(parts):
            return parts
        merged = merge_parts(self.path / "parts", parts[start:])
        return [*parts[:start], *self.opened([merged])]

    def _write_indexes(self, draft: Draft, table: Table) -> dict[str, Any]:
        indexes = {}
        for name, settings in draft.types.items():
            record = draft.indexes.get(name)
            if record is not None and draft.indexed_rows == table.num_rows:
                indexes[name] = record
                continue
            try:
                indexes[name] = self._write_index(draft, name, settings, table)
            except MissingDependency as missing:
                if name in required_types(draft.retriever_type):
                    raise
                log.warning("%s loses its %s index: %s", self.path, name, missing.problem)
        return indexes

    def _write_index(self, draft: Draft, name: str, settings: Mapping[str, Any], table: Table) -> dict[str, Any]:
        previous, reuse = draft.indexes.get(name), draft.reuse.get(name)
        if previous is not None and load_index(self.path, self.base.manifest, name) is None:
            previous = None
        return write_index(
            self.path, self.version, name, settings, table, previous=previous, reuse=reuse,
            first_row=0 if previous is None else draft.indexed_rows, progress=self.progress,
        )

    def _save_rows(self, rows: np.ndarray) -> dict[str, Any] | None:
        if not len(rows):
            return None
        file = io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        return self.save_file("deleted", ".npy", file.getvalue())

    def _save_json(self, kind: str, value: Mapping[str, Any]) -> dict[str, Any] | None:
        data = json.dumps(value, ensure_ascii=False, indent=0, sort_keys=True).encode()
        return self.save_file(kind, ".json", data) if value else None

    def save_file(self, kind: str, ending: str, data: bytes) -> dict[str, Any]:
        """Write a file of parts/ that is named by its content; its record. `commit` puts the name on the disk."""
        sha256 = hashlib.sha256(data).hexdigest()
        record = {"name": f"{kind}-{sha256[:16]}{ending}", "bytes": len(data), "sha256": sha256}
        if self.base is None or self.base.manifest[kind] != record:
            (self.path / "parts").mkdir(exist_ok=True)
            write_whole(self.path / "parts" / record["name"], data, sync_folder=False)
        return record

    def _clear(self, manifest: Mapping[str, Any]) -> None:
        """Remove the journal, and what was merged on the way; a failure here harms nothing."""
        needed = names_of(manifest) | self._were_there
        with contextlib.suppress(OSError):
            shutil.rmtree(self.path / "work", ignore_errors=True)
            for entry in (self.path / "parts").iterdir():
                if entry.name not in needed:
                    remove(entry)


def required_types(retriever_type: str) -> tuple[str, ...]:
    """The indexes without which a retriever type cannot work."""
    return COMPONENTS.get(retriever_type, (retriever_type,))


def merge_tail(sizes: Sequence[int]) -> int:
    """Where the parts at the end begin that shall become one; len(sizes) where none shall.

    A part is merged when what follows it is more than half as large, so that a knowledge base of many small additions
    has few parts and every document is copied but a few times.
    """
    start, total = len(sizes) - 1, sizes[-1] if sizes else 0
    while start > 0 and sizes[start - 1] < PART_DOCUMENTS and sizes[start - 1] < 2 * total:
        start -= 1
        total += sizes[start]
    return start if len(sizes) - start > 1 else len(sizes)


def join_rows(deleted: np.ndarray, rows: Iterable[int]) -> np.ndarray:
    """Rows that were deleted and rows that are now, int64, ascending."""
    # np.union1d would import masked arrays, which takes longer than all the rest of deleting a document
    joined = np.sort(np.concatenate([deleted, np.fromiter(rows, np.int64)]))
    return joined[np.diff(joined, prepend=-1) > 0]


def chunk_spans(path: Path, manifest: Mapping[str, Any]) -> Spans | None:
    """How the version cuts documents; None where they stay whole."""
    chunking = dict(manifest["chunking"])
    if manifest["tokenizer"] is not None:
        chunking["tokenizer"] = str(path / "parts" / manifest["tokenizer"]["name"])
    return spans_function(Chunking.from_dict(chunking))


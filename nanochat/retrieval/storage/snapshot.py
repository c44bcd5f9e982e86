"""One version of a knowledge base, opened for reading: it stays as it is, whatever a writer does meanwhile."""

import contextlib
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.base import Retriever
from nanochat.retrieval.storage.manifest import check_file, check_folder, damaged, files_of, index_files
from nanochat.retrieval.storage.versions import hold_current, hold_version, read_current, version_name, version_numbers
from nanochat.retrieval.table import Part, PartRecord, Table

_KEPT_MASKS = 64


class Snapshot:
    """Manifest, table and loaded retrievers of a version. While it lives, the version is not pruned."""

    def __init__(self, path: Path, manifest: dict[str, Any], file: IO[bytes]) -> None:
        self.path, self.manifest, self._file = path, manifest, file
        self.version: int = manifest["version"]
        self.table = open_table(path, manifest)
        self.retrievers: dict[str, Retriever] = {}
        self.lock = threading.RLock()
        self._masks: OrderedDict[str, np.ndarray | None] = OrderedDict()

    @classmethod
    def open(cls, path: Path, version: int | None = None) -> "Snapshot":
        """The current version, or another that has not been pruned."""
        if version is None:
            manifest, file = hold_current(path)
        else:
            manifest, file = _hold(path, version)
        try:
            return cls(path, manifest, file)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Let the version be pruned. What was read from it stays valid."""
        self._file.close()

    def mask(self, filters: Any) -> np.ndarray | None:
        """Which rows may be found, bool (num_rows,); None where all may: filters, less what is deleted."""
        if not filters and not isinstance(filters, str):
            return self.table.live
        from nanochat.retrieval.filters import rows_matching

        key = repr(filters)
        with self.lock:
            if key not in self._masks:
                matching = rows_matching(self.table, filters)
                live = self.table.live
                self._masks[key] = matching if live is None else matching & live
                while len(self._masks) > _KEPT_MASKS:
                    self._masks.popitem(last=False)
            self._masks.move_to_end(key)
            return self._masks[key]

    def verify(self) -> tuple[int, int]:
        """Hash every file; (files, bytes). KnowledgeBaseError names the first that is not as it was written."""
        names = [*files_of(self.manifest)]
        for name in self.manifest["indexes"]:
            names += index_files(self.manifest, name)
        for name, record in names:
            check_file(self.path, name, record, always_hash=True)
        return len(names), sum(record["bytes"] for _, record in names)


def _hold(path: Path, version: int) -> tuple[dict[str, Any], IO[bytes]]:
    numbers = version_numbers(path)
    with contextlib.suppress(KnowledgeBaseError):
        # a version above the current one was never committed; where CURRENT is damaged, every one may be the last
        numbers = [number for number in numbers if number <= read_current(path)[0]] or numbers
    try:
        if numbers and version > numbers[-1]:
            raise FileNotFoundError(version_name(version))
        return hold_version(path, version)
    except (FileNotFoundError, NotADirectoryError) as missing:
        if not numbers:
            # also tells apart all that is no knowledge base
            hold_current(path)[1].close()
        there = ", ".join(map(str, numbers[-10:]))
        raise KnowledgeBaseError(
            f"Knowledge base {path} has no version {version} (there are: {there})",
            hint=f"list them: nanochat kb versions {path}",
        ) from missing


def open_table(path: Path, manifest: Mapping[str, Any]) -> Table:
    """The documents of a version, sizes checked, small files hashed."""
    check_folder(path, "parts")
    for part in manifest["parts"]:
        check_folder(path, f"parts/{part['name']}")
    for name, record in files_of(manifest):
        check_file(path, name, record, always_hash=False)
    try:
        records = [PartRecord.from_dict(record) for record in manifest["parts"]]
        parts = [Part.open(path / "parts" / record.name, record) for record in records]
        table = Table(parts, read_deleted(path, manifest))
    except (ValueError, OSError) as error:
        raise damaged(path, f"its documents cannot be read: {error}") from error
    if table.num_rows != manifest["num_rows"]:
        raise damaged(path, f"parts/ hold {table.num_rows} passages, {version_name(manifest['version'])} names "
                            f"{manifest['num_rows']}")
    return table


def read_deleted(path: Path, manifest: Mapping[str, Any]) -> np.ndarray:
    """The deleted rows of a version, int64, ascending."""
    if manifest["deleted"] is None:
        return np.zeros(0, np.int64)
    rows = np.load(path / "parts" / manifest["deleted"]["name"], allow_pickle=False)
    if rows.dtype != np.int64 or rows.ndim != 1:
        raise ValueError(f"{manifest['deleted']['name']} does not hold rows")
    return rows


def read_sources(path: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `sync` knew of each file: size, time and hash."""
    record = manifest["sources"]
    if record is None:
        return {}
    name = f"parts/{record['name']}"
    check_file(path, name, record, always_hash=True)
    try:
        sources = json.loads((path / name).read_bytes())
    except (ValueError, OSError) as error:
        raise damaged(path, f"{name} cannot be read: {error}") from error
    if not isinstance(sources, dict):
        raise damaged(path, f"{name} does not hold files")
    return sources


def live_documents(table: Table) -> list[np.ndarray]:
    """Per part: the numbers of its documents that are not deleted, ascending."""
    live, first_row, found = table.live, 0, []
    for part in table.parts:
        rows = np.asarray(part.offsets[:-1, 1], np.int64) + first_row
        found.append(np.arange(part.num_documents) if live is None else np.flatnonzero(live[rows]))
        first_row += part.num_passages
    return found


def fingerprint_of(table: Table, chunking: Mapping[str, Any]) -> tuple[str, int]:
    """A hash of the live documents in their order and of how they are cut, and their number.

    It does not depend on when the documents came, nor on what was deleted before.
    """
    digest, num_documents = hashlib.sha256(json.dumps(chunking, sort_keys=True).encode()), 0
    for part, documents in zip(table.parts, live_documents(table)):
        is_whole = len(documents) == part.num_documents
        digest.update(np.ascontiguousarray(part.hashes if is_whole else part.hashes[documents]))
        num_documents += len(documents)
    return digest.hexdigest(), num_documents

"""A knowledge base on disk: documents and their indexes in one folder, in versions that never change.

    CURRENT                the number and hash of the current version, replaced by rename
    versions/000003.json   what belongs to a version, with sizes and hashes
    parts/                 documents, in immutable folders that versions share
    indexes/               one folder per retriever type and version; unchanged files are hard links
    log.jsonl              one line per write

A `KnowledgeBase` keeps the version it has opened until `refresh`, whatever others write. docs/knowledge_base.md tells
more.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import write_jsonl
from nanochat.errors import ConfigError, DocumentError, KnowledgeBaseError, UserError
from nanochat.retrieval.base import COMPONENTS, Retriever, check_retriever_type, make_retriever
from nanochat.retrieval.chunking import Chunking
from nanochat.retrieval.document import Document, ScoredDocument
from nanochat.retrieval.storage.indexes import check_settings, compose, load_index, settings_of
from nanochat.retrieval.storage.manifest import encode_manifest
from nanochat.retrieval.storage.snapshot import Snapshot
from nanochat.retrieval.storage.versions import VersionInfo, list_versions, read_current
from nanochat.retrieval.writing import backup, changes, sync
from nanochat.retrieval.writing.changes import Change
from nanochat.retrieval.writing.place import check_place
from nanochat.retrieval.writing.purge import purge as purge_documents

if TYPE_CHECKING:
    import numpy as np

    from nanochat.retrieval.filters import Filter

log = logging.getLogger(__name__)

Progress = Callable[[str], None] | None


class KnowledgeBase:
    """Documents and indexes of one folder. `build` writes one, `open` opens one."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.path = snapshot.path
        self._snapshot = snapshot

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        path: str | Path,
        retriever_type: str = "simple",
        *,
        chunk_words: int = 0,
        chunking: Chunking | None = None,
        settings: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        progress: Progress = None,
    ) -> "KnowledgeBase":
        """Write documents and the index of a type into a folder, and open it. In the place of a knowledge base this
        is its next version, with nothing of the old ones, which stay until they are pruned.

        chunking (or `chunk_words`, for passages of so many words at most): documents are cut into passages, which are
        what a search finds. settings: of the retriever type, such as {"model": "all-MiniLM-L6-v2"}. sources: what
        `sync` shall know of the files; it may be filled while documents are read. Refuses no documents, repeated ids,
        and a folder that holds anything but a knowledge base. `progress` gets a line of text now and then.
        """
        if chunk_words and chunking is not None:
            raise ConfigError("chunk_words and chunking were both given", hint="give chunking alone")
        if chunking is None:
            chunking = Chunking("words", chunk_words) if chunk_words else Chunking()
        path = Path(path)
        check_settings(retriever_type, settings or {})
        # what is wrong or missing must be known before anything is written
        make_retriever(retriever_type, settings)
        check_place(path)
        changes.build(path, documents, retriever_type, chunking=chunking, settings=settings or {}, sources=sources,
                      progress=progress)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, version: int | None = None) -> "KnowledgeBase":
        """Open the current version or another. Raises KnowledgeBaseNotFound, or KnowledgeBaseError for a damaged one.
        """
        return cls(Snapshot.open(Path(path), version))

    @property
    def snapshot(self) -> Snapshot:
        """The version that is open; it stays usable when this object moves on to another."""
        return self._snapshot

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the open version says of itself."""
        return self._snapshot.manifest

    @property
    def version(self) -> int:
        """The number of the open version."""
        return self._snapshot.version

    @property
    def retriever_type(self) -> str:
        """The type it was built with, used unless another is asked for."""
        return self.manifest["retriever_type"]

    @property
    def fingerprint(self) -> str:
        """Changes when the documents, their order or how they are cut change; not when indexes do."""
        return self.manifest["fingerprint"]

    @property
    def documents(self) -> Sequence[Document]:
        """What a search can find, in order of arrival: the documents, or their passages where they are cut."""
        return self._snapshot.table.documents

    @property
    def num_documents(self) -> int:
        """Whole documents."""
        return self.manifest["num_documents"]

    def document(self, identifier: str) -> Document | None:
        """The whole document with an id; None where there is none."""
        return self._snapshot.table.document(identifier)

    def passage(self, row: int) -> Document:
        """What a hit's position names."""
        return self._snapshot.table.passage(row)

    def neighbours(self, identifier: str, before: int = 1, after: int = 1) -> list[Document]:
        """The passage with an id between those before and after it in its document, in order; [] for an unknown id."""
        table = self._snapshot.table
        rows = table.find(identifier)
        return table.passages(table.neighbours(rows[0], before, after)) if rows else []

    def allowed(self, filters: "Filter | None" = None) -> "np.ndarray | None":
        """bool (rows,), which rows a search may find: not deleted, and passing the filters; None where all may."""
        return self._snapshot.mask(filters)

    def search(
        self, queries: Sequence[str], top_k: int = 5, *, retriever_type: str | None = None,
        filters: "Filter | None" = None,
    ) -> list[list[ScoredDocument]]:
        """The best documents (or passages) for each query, best first."""
        snapshot = self._snapshot
        return search(snapshot, self.retriever(retriever_type), queries, top_k, filters)

    def retriever(self, retriever_type: str | None = None, settings: Mapping[str, Any] | None = None) -> Retriever:
        """The retriever of a type, default this knowledge base's own.

        A type without a usable index here is built from the stored documents and kept in the folder, or in memory
        only where the folder cannot be written or has moved on; a logged warning says so. Deleted rows are still in
        the index: search with `allowed=kb.allowed()`, as `search` does.
        """
        snapshot = self._snapshot
        name = check_retriever_type(retriever_type or self.retriever_type)
        check_settings(name, settings or {})
        settings = {**self._settings(name), **(settings or {})}
        with snapshot.lock:
            if name not in COMPONENTS:
                return self._single(snapshot, name, settings)
            parts = [self._single(snapshot, part, settings_of(part, settings)) for part in COMPONENTS[name]]
            return compose(name, parts, settings)

    def _settings(self, name: str) -> dict[str, Any]:
        """Those it was built with, if they concern this type."""
        mine = self.manifest["settings"]
        record = self.manifest["indexes"].get(name)
        return dict(record["settings"]) if record else settings_of(name, mine)

    def _single(self, snapshot: Snapshot, name: str, settings: Mapping[str, Any]) -> Retriever:
        key = f"{name} {sorted(settings.items())}"
        if key not in snapshot.retrievers:
            found = load_index(snapshot.path, snapshot.manifest, name, settings)
            snapshot.retrievers[key] = found or self._add_index(snapshot, name, settings)
        return snapshot.retrievers[key]

    def _add_index(self, snapshot: Snapshot, name: str, settings: Mapping[str, Any]) -> Retriever:
        """Build the index of a type into the folder, once for all processes that ask for it at the same time."""
        try:
            version = changes.add_index(snapshot.path, name, settings, snapshot.manifest)
            if version is not None:
                return self._moved_to(snapshot, version, name, settings)
            why = "is not its current version"
        except (KnowledgeBaseError, DocumentError, ConfigError):
            raise
        except (UserError, OSError):
            why = "cannot be written"
        log.warning("%s (version %d) %s: its %s index stays in memory this time",
                    self.path, snapshot.version, why, name)
        retriever = make_retriever(name, settings)
        retriever.index(snapshot.table.rows(0, snapshot.table.num_rows))
        return retriever

    def _moved_to(self, old: Snapshot, version: int, name: str, settings: Mapping[str, Any]) -> Retriever:
        """Move on to a version with the same rows and one more index; what is loaded stays loaded."""
        new = Snapshot.open(self.path, version)
        new.retrievers.update(old.retrievers)
        if self._snapshot is old:
            self._snapshot = new
        retriever = load_index(self.path, new.manifest, name, settings)
        assert retriever is not None, f"the {name} index of version {version} was written just now, and is not usable"
        return retriever

    def refresh(self) -> bool:
        """Move on to the current version; whether it was another one. One of the same number is another, too, where
        the folder was removed and built anew."""
        if read_current(self.path) == (self.version, hashlib.sha256(encode_manifest(self.manifest)).hexdigest()):
            return False
        self._snapshot = Snapshot.open(self.path)
        return True

    def add(self, documents: Iterable[Document], *, progress: Progress = None) -> Change:
        """Append documents; those that are there already are left alone, another one of the same id is refused."""
        return self._changed(changes.add(self.path, documents, progress=progress))

    def update(self, documents: Iterable[Document], *, progress: Progress = None) -> Change:
        """Append documents, each in the place of the one with its id if there is one."""
        return self._changed(changes.add(self.path, documents, replace=True, progress=progress))

    def delete(self, ids: Iterable[str], *, purge: bool = False, backups: Sequence[str | Path] = ()) -> Change:
        """Delete documents by id. With `purge` also their bytes, in all versions and in the backups named, with a
        proof in log.jsonl."""
        if not purge:
            if backups:
                raise ConfigError("backups were given without purge", hint="kb delete --purge --backups FOLDER")
            return self._changed(changes.delete(self.path, ids))
        self._snapshot.close()
        try:
            return purge_documents(self.path, ids, backups)
        finally:
            self._snapshot = Snapshot.open(self.path)

    def sync(self, paths: str | Path | Sequence[str | Path], *, progress: Progress = None, **options: Any) -> Change:
        """Make the documents those of these files and folders; see `nanochat.retrieval.writing.sync.sync`."""
        return self._changed(sync.sync(self.path, paths, progress=progress, **options))

    def compact(self, *, progress: Progress = None) -> Change:
        """Leave out deleted rows; the rows of the others are numbered anew."""
        return self._changed(changes.compact(self.path, progress=progress))

    def versions(self) -> list[VersionInfo]:
        """All versions that are there, ascending."""
        return list_versions(self.path)

    def rollback(self, version: int) -> Change:
        """Make the content of an older version current again; nothing is copied."""
        return self._changed(changes.rollback(self.path, version))

    def prune(self, keep: int = 1) -> changes.Pruned:
        """Remove all but the newest `keep` versions, except those that some program has open."""
        return changes.prune(self.path, keep)

    def verify(self) -> tuple[int, int]:
        """Hash every file of the open version; (files, bytes). KnowledgeBaseError names the first damaged one."""
        return self._snapshot.verify()

    def backup(self, target: str | Path) -> Path:
        """Copy the open version into a folder, which is a knowledge base itself; every file is checked."""
        return backup.backup(self._snapshot, Path(target))

    def export(self, target: str | Path) -> int:
        """Write the whole documents of the open version into a .jsonl file; how many there are."""
        write_jsonl(target, (document.to_dict() for document in self._snapshot.table.whole_documents))
        return self.num_documents

    def stats(self) -> dict[str, Any]:
        """Counts, sizes in bytes and what the indexes were made by, JSON-ready."""
        return backup.stats(self._snapshot)

    def _changed(self, change: Change) -> Change:
        self.refresh()
        return change


def search(
    snapshot: Snapshot, retriever: Retriever, queries: Sequence[str], top_k: int, filters: "Filter | None"
) -> list[list[ScoredDocument]]:
    """The best documents of a version for each query."""
    allowed = snapshot.mask(filters)
    hits = retriever.search(queries, top_k) if allowed is None else retriever.search(queries, top_k, allowed=allowed)
    rows = sorted({hit.position for row in hits for hit in row})
    found = dict(zip(rows, snapshot.table.passages(rows))) if rows else {}
    return [[ScoredDocument.of(found[position], score) for position, score in row] for row in hits]

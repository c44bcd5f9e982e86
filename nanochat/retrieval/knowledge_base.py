"""A knowledge base on disk: documents and their indexes in one folder, described by its manifest.

    manifest.json          format and version, counts, sizes and hashes of all files, the default retriever type
    documents.jsonl        the documents, one per line, in the order of their positions
    indexes/<type>/        one folder per retriever type

A folder is built beside its place and renamed: it is there whole or not at all. docs/knowledge_base.md tells more.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nanochat.common import write_folder, write_json
from nanochat.errors import DocumentError, KnowledgeBaseError, UserError
from nanochat.retrieval.base import Retriever, check_retriever_type, make_retriever
from nanochat.retrieval.chunking import chunk_documents
from nanochat.retrieval.document import Document
from nanochat.retrieval.manifest import check_file, damaged, index_record, make_manifest, read_manifest
from nanochat.retrieval.readers import read_documents

log = logging.getLogger(__name__)

OWN_NAMES = {"manifest.json", "documents.jsonl", "indexes", ".lock"}
_PROGRESS_EVERY = 20_000  # documents
Item = TypeVar("Item")


class KnowledgeBase:
    """Documents and indexes of one folder. `build` writes one, `open` opens one."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], documents: Sequence[Document]) -> None:
        self.path = path
        self.manifest = manifest
        self.documents = documents
        self._retrievers: dict[str, Retriever] = {}

    @property
    def retriever_type(self) -> str:
        """The type it was built with, used unless another is asked for."""
        return self.manifest["retriever_type"]

    @property
    def fingerprint(self) -> str:
        """Changes when the documents or their order change."""
        return self.manifest["documents"]["sha256"]

    @classmethod
    def build(
        cls,
        documents: Sequence[Document],
        path: str | Path,
        retriever_type: str = "simple",
        *,
        chunk_words: int = 0,
        progress: Callable[[str], None] | None = None,
    ) -> "KnowledgeBase":
        """Write documents and one index into a folder, replacing a knowledge base that is there, and open it.

        With `chunk_words`, documents of more words are split into passages, and the passages are its documents.
        Refuses an empty sequence, repeated ids, and a folder that holds anything but a knowledge base.
        `progress` gets a line of text now and then.
        """
        path = Path(path)
        retriever = make_retriever(retriever_type)
        _check_place(path)
        if chunk_words:
            documents = chunk_documents(documents, chunk_words)
        records = _check_documents(documents)
        with contextlib.ExitStack() as until_replaced, write_folder(path) as folder:
            with open(folder / "documents.jsonl", "wb") as file:
                file.writelines(records)
            index = folder / "indexes" / retriever_type
            index.mkdir(parents=True)
            retriever.index(_Watched(documents, progress, f"indexed for {retriever_type}") if progress else documents)
            retriever.save(index)
            indexes = {retriever_type: index_record(retriever.describe(), index)}
            manifest = make_manifest(folder, retriever_type, len(documents), indexes, chunk_words=chunk_words)
            write_json(folder / "manifest.json", manifest)
            if (path / "manifest.json").is_file() and os.access(path, os.W_OK):
                # another process may be adding an index to the old folder, and would finish in the new one
                until_replaced.enter_context(_exclusive(path))
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "KnowledgeBase":
        """Open a folder that `build` wrote. Raises KnowledgeBaseNotFound, or KnowledgeBaseError for a damaged one."""
        path = Path(path)
        if not path.exists():
            _wait_for_replacement(path)
        manifest = read_manifest(path)
        try:
            check_file(path, "documents.jsonl", manifest["documents"], always_hash=True)
            documents = read_documents(path / "documents.jsonl")
        except DocumentError as error:
            raise damaged(path, error.problem) from error
        except KnowledgeBaseError:
            # another process may have put a new version here between two looks
            if read_manifest(path) != manifest:
                return cls.open(path)
            raise
        if len(documents) != manifest["num_documents"]:
            raise damaged(path, f"documents.jsonl holds {len(documents)} documents, not {manifest['num_documents']}")
        return cls(path, manifest, documents)

    def retriever(self, retriever_type: str | None = None) -> Retriever:
        """The retriever of a type, default this knowledge base's own.

        A type without a usable index here is built from the stored documents and kept in the folder, or in memory
        only where the folder cannot be written; a logged warning says so.
        """
        name = check_retriever_type(retriever_type or self.retriever_type)
        if name not in self._retrievers:
            self._retrievers[name] = self._load(name) or self._add(name)
        return self._retrievers[name]

    def verify(self) -> None:
        """Hash every file of the folder; raises KnowledgeBaseError naming the first that is not as written."""
        check_file(self.path, "documents.jsonl", self.manifest["documents"], always_hash=True)
        for name in self.manifest["indexes"]:
            self._check_index(name, always_hash=True)

    def _check_index(self, name: str, *, always_hash: bool = False) -> None:
        for file, record in self.manifest["indexes"][name]["files"].items():
            check_file(self.path, f"indexes/{name}/{file}", record, always_hash=always_hash)

    def _load(self, name: str) -> Retriever | None:
        """The retriever from its folder; None where there is no index that this program would make itself."""
        record = self.manifest["indexes"].get(name)
        retriever = make_retriever(name)
        if record is None or record["made_by"] != retriever.describe():
            return None
        self._check_index(name)
        try:
            retriever.load(self.path / "indexes" / name)
        except (ValueError, OSError) as error:
            raise damaged(self.path, f"the {name} index cannot be read: {error}") from error
        return retriever

    def _add(self, name: str) -> Retriever:
        """Build the index of a type into the folder, once for all processes that ask for it at the same time."""
        retriever = make_retriever(name)
        try:
            with _exclusive(self.path):
                self.manifest = self._current_manifest()
                loaded = self._load(name)
                if loaded is not None:
                    return loaded
                log.warning("%s has no usable %s index: building it from its documents", self.path, name)
                retriever.index(self.documents)
                self._write_index(name, retriever)
        except (KnowledgeBaseError, DocumentError):
            raise
        except (UserError, OSError):
            log.warning("%s cannot be written: its %s index stays in memory this time", self.path, name)
            retriever.index(self.documents)
            return retriever
        return self._load(name) or retriever

    def _current_manifest(self) -> dict[str, Any]:
        current = read_manifest(self.path)
        if current["documents"] != self.manifest["documents"]:
            raise KnowledgeBaseError(
                f"Knowledge base {self.path} was replaced while it was open", hint="open it again"
            )
        return current

    def _write_index(self, name: str, retriever: Retriever) -> None:
        others = {key: record for key, record in self.manifest["indexes"].items() if key != name}
        if name in self.manifest["indexes"]:
            # an old index leaves the manifest before its files change: a crash in between leaves no false promise
            write_json(self.path / "manifest.json", {**self.manifest, "indexes": others})
        with write_folder(self.path / "indexes" / name) as folder:
            retriever.save(folder)
            record = index_record(retriever.describe(), folder)
        self.manifest = {**self.manifest, "indexes": {**others, name: record}}
        write_json(self.path / "manifest.json", self.manifest)


class _Watched(Sequence[Item]):
    """A sequence that tells how far someone has read it."""

    def __init__(self, items: Sequence[Item], progress: Callable[[str], None], verb: str) -> None:
        self._items, self._progress, self._verb = items, progress, verb
        self._started, self._next = time.perf_counter(), _PROGRESS_EVERY

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: Any) -> Any:
        end = min(place.stop, len(self._items)) if isinstance(place, slice) else place
        if end >= self._next:
            seconds = time.perf_counter() - self._started
            self._progress(f"{self._verb}: {self._next:,} of {len(self._items):,} documents, {seconds:.0f} s")
            self._next += _PROGRESS_EVERY
        return self._items[place]


def _check_documents(documents: Sequence[Document]) -> list[bytes]:
    """The line of each document in documents.jsonl; raises DocumentError where opening would refuse the document."""
    if not documents:
        raise KnowledgeBaseError("A knowledge base needs at least one document", hint="check the documents file")
    lines: list[bytes] = []
    seen: set[str] = set()
    for place, document in enumerate(documents):
        where = f"document {place + 1}"
        record = document.to_dict()
        Document.from_dict(record, where=where)
        if document.id in seen:
            raise DocumentError(f"{where}: duplicate id {document.id!r}", hint="give every document its own id")
        seen.add(document.id)
        try:
            lines.append(f"{json.dumps(record, ensure_ascii=False, allow_nan=False)}\n".encode())
        except (TypeError, ValueError) as error:
            raise DocumentError(
                f"{where}: {document.id!r} cannot be written as UTF-8 JSON: {error}", hint="clean its text and metadata"
            ) from error
    return lines


def _check_place(path: Path) -> None:
    """Refuse to replace anything that is not a knowledge base."""
    if path.is_dir():
        others = sorted(set(os.listdir(path)) - OWN_NAMES)
        if others:
            raise KnowledgeBaseError(
                f"Refusing to replace {path}: it holds what is not part of a knowledge base, such as {others[0]}",
                hint=f"choose a new folder, e.g. --output {path / 'knowledge_base'}",
            )
    elif path.exists():
        raise KnowledgeBaseError(f"Refusing to replace {path}: it is a file", hint="choose a new folder for --output")


def _wait_for_replacement(path: Path) -> None:
    """A writer moves the old folder aside an instant before the new one takes its place; wait, or put the old one back
    when that writer died in between."""
    for _ in range(20):
        found = path.parent.glob(f".{path.name}.*.old/{path.name}")
        aside = [old for old in found if (old / "manifest.json").is_file()]
        if path.exists() or not aside:
            return
        time.sleep(0.02)
    log.warning("%s was left by an interrupted build: putting the old version back", path)
    with contextlib.suppress(OSError):
        os.rename(aside[0], path)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One writer at a time; the lock ends with the process, also when it is killed."""
    with open(path / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

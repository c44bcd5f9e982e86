"""Keep a knowledge base the image of files and folders: read what changed, delete what is gone, leave the rest."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.errors import ConfigError, KnowledgeBaseError, MissingDependency, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers import FileResult, SourceFile, find_files, read_files
from nanochat.retrieval.storage.snapshot import live_documents, read_sources
from nanochat.retrieval.table import Table
from nanochat.retrieval.writing.changes import Change, Tally, commit_changes, finish, fresh_documents
from nanochat.retrieval.writing.place import writing

Progress = Callable[[str], None] | None
Sources = dict[str, dict[str, Any]]
_FRESH_NS = 2_000_000_000


def sync(
    path: Path, paths: str | Path | Sequence[str | Path], *, progress: Progress = None, allow_empty: bool = False,
    read: Mapping[str, Any] | None = None,
) -> Change:
    """Make the documents that came from files those of `paths`, as they are now.

    A file of the same size and time, or else of the same hash, is not read again. Documents are compared by id and
    content; only new and changed ones are written and encoded. Documents of files that are gone are deleted, as are
    those that a file no longer holds. A file that cannot be read is skipped and named in the result, and its old
    documents stay. Documents that did not come from files stay as they are.

    read: options of `read_files`, such as timeout_s, but no limit. Raises KnowledgeBaseError where no file is left of
    those that were there before (a folder that is not mounted?), unless `allow_empty`.
    """
    if read and read.get("limit") is not None:
        raise ConfigError("sync takes no limit: documents that it does not read would seem to be gone",
                          hint="leave the limit out, or name fewer files")
    started = time.perf_counter()
    with writing(path, "sync", progress=progress) as writer:
        plan = Plan(writer.base.table, read_sources(path, writer.base.manifest), find_files(paths))
        if plan.old and not plan.old.keys() & plan.present and not allow_empty:
            raise KnowledgeBaseError(
                f"None of the {len(plan.old):,} files that {path} knows is there any more",
                hint="name all folders of the knowledge base in one command; nothing was changed",
            )
        results = read_files(plan.changed, progress=progress, **(read or {}))
        if commit_changes(writer, plan.documents(results), plan.tally, sources=plan.new_sources):
            return finish(writer, plan.tally, started, skipped=plan.skipped)
        return Change(writer.base.version, "sync", unchanged=plan.tally.unchanged, skipped=plan.skipped,
                      seconds=time.perf_counter() - started)


class Plan:
    """What differs between the files that are known and those that are there."""

    def __init__(self, table: Table, old: Sources, files: Sequence[SourceFile]) -> None:
        self.table, self.old, self.tally = table, old, Tally()
        self.notes = Notes(files, old)
        self.skipped = self.notes.skipped
        # a file with a problem is still there: its documents stay
        self.present = {file.relative for file in files}
        self.changed = [file for file in files if self._has_changed(file)]
        self.gone = old.keys() - self.present
        self._read = {file.relative for file in self.changed}
        # only documents of files that an earlier sync has read are those of a file
        self._owned, num_others = documents_of(table, old.keys() & (self.gone | self._read), old.keys())
        self.tally.unchanged = num_others
        self._seen: set[str] = set()

    def _has_changed(self, file: SourceFile) -> bool:
        record, before = self.notes.known.get(file.relative), self.old.get(file.relative, {})
        return record is not None and before.get("sha256") != record["sha256"]

    def documents(self, results: Iterable[FileResult]) -> Iterator[Document]:
        """The new and changed documents of the changed files; afterwards tally and skipped are complete."""
        yield from fresh_documents(self.table, self._held(results), self.tally, replace=True)
        for name in sorted(self._owned):
            for identifier in sorted(self._owned[name] - self._seen):
                # those that are neither in their file any more nor in another
                self.tally.rows += self.table.find(identifier)
                self.tally.deleted += 1

    def _held(self, results: Iterable[FileResult]) -> Iterator[Document]:
        for result in results:
            name = result.file.relative
            self.notes.add(result)
            for document in result.documents:
                other = self._unchanged_owner(document.id, name)
                if other:
                    self.skipped.append(f"{name}: the id {document.id!r} is used in {other} already")
                    # the other file may give the id up while this one stays as it is
                    self.notes.read_again(name)
                    continue
                self._seen.add(document.id)
                yield document
            if result.errors:
                # what could not be read may be what is there: those documents stay
                self._owned.pop(name, None)

    def _unchanged_owner(self, identifier: str, name: str) -> str:
        """The file that has the id, if it is not about to be read or gone; "" if there is none."""
        if self.table.hash_of(identifier) is None:
            return ""
        other = self.table.document(identifier).metadata.get("file")
        is_known = isinstance(other, str) and other != name and other in self.old
        return other if is_known and other not in self._read and other not in self.gone else ""

    def new_sources(self) -> Sources:
        """What the next `sync` shall know."""
        kept = {name: record for name, record in self.old.items()
                if name in self.present and name not in self.notes.known}
        return {**kept, **self.notes.known}


class Notes:
    """What to remember of files: size, time and hash of those that were read whole."""

    def __init__(self, files: Iterable[SourceFile], old: Mapping[str, Mapping[str, Any]]) -> None:
        self.known: Sources = {}
        self.skipped: list[str] = []
        for file in files:
            if file.problem:
                self.skipped.append(f"{file.relative}: {file.problem.problem}")
                continue
            try:
                self.known[file.relative] = file_state(file.path, old.get(file.relative, {}))
            except OSError as error:
                self.skipped.append(f"{file.relative}: cannot be read: {error.strerror or error}")

    def add(self, result: FileResult) -> None:
        """Note the errors of a file; it will be read again next time, whether or not it changes."""
        if result.errors:
            self.read_again(result.file.relative)
            self.skipped += [f"{result.file.relative}: {_said(error)}" for error in result.errors]

    def read_again(self, name: str) -> None:
        """Have the next `sync` read a file whether or not it changes."""
        self.known[name] = {"bytes": 0, "mtime_ns": 0, "sha256": ""}


def _said(error: UserError) -> str:
    """The problem; where a package is missing also how to get it."""
    return f"{error.problem} ({error.hint})" if isinstance(error, MissingDependency) else error.problem


def file_state(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Size, time and hash of a file; hashed only where size or time are not as before."""
    found = os.stat(path)
    # a file written just now may change again within one tick of its clock: next time it is hashed
    is_fresh = found.st_mtime_ns > time.time_ns() - _FRESH_NS
    state = {"bytes": found.st_size, "mtime_ns": 0 if is_fresh else found.st_mtime_ns}
    if not is_fresh and all(before.get(key) == value for key, value in state.items()) and "sha256" in before:
        return {**state, "sha256": before["sha256"]}
    with open(path, "rb") as file:
        return {**state, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def documents_of(table: Table, wanted: Set[str], all_files: Set[str]) -> tuple[dict[str, set[str]], int]:
    """The ids of the live documents of each wanted file, and how many documents the other files have."""
    owned: dict[str, set[str]] = {name: set() for name in wanted}
    num_others = 0
    for part, live in zip(table.parts, live_documents(table)):
        column = part.fields.columns.get("file")
        if column is None:
            continue
        names = [value if isinstance(value, str) else "" for value in column.values]
        # -1, a name too long for the column, takes the last place: read the document
        is_wanted = np.array([*(name in owned for name in names), True])[column.codes]
        is_other = np.array([*(name in all_files and name not in owned for name in names), False])[column.codes]
        is_live = np.isin(column.documents, live)
        num_others += int(np.count_nonzero(is_other & is_live))
        for document in part.read_documents(column.documents[is_wanted & is_live].tolist()):
            name = document.metadata.get("file")
            if name in owned:
                owned[name].add(document.id)
            elif name in all_files:
                num_others += 1
    return owned, num_others


def documents_from(
    paths: str | Path | Sequence[str | Path], sources: Sources, skipped: list[str], *, limit: int | None = None,
    progress: Progress = None, **options: Any,
) -> Iterator[Document]:
    """The documents of files and folders, for `KnowledgeBase.build(..., sources=sources)`, so that `sync` knows them.

    Fills `sources`, and `skipped` with what could not be read. options: those of `read_files`. After a `limit` the next
    `sync` reads what is left.
    """
    files = find_files(paths)
    notes = Notes(files, {})
    readable = [file for file in files if file.relative in notes.known]
    num_files = num_documents = 0
    for result in read_files(readable, limit=limit, progress=progress, **options):
        notes.add(result)
        num_files += 1
        num_documents += len(result.documents)
        yield from result.documents
    if num_documents == limit:
        # the last file may hold more
        for file in readable[num_files - 1 :]:
            notes.read_again(file.relative)
    sources.update(notes.known)
    skipped += notes.skipped

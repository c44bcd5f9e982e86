"""Files in, documents out: the table of readers and the checks that hold for all of them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nanochat.errors import DocumentError, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.bulk import read_files
from nanochat.retrieval.readers.files import FileResult, SourceFile, find_files, no_reader
from nanochat.retrieval.readers.table import ISOLATED, READERS, Entry, kind_of

__all__ = ["READERS", "Entry", "FileResult", "SourceFile", "find_files", "load_documents", "read_documents",
           "read_files", "scan_all", "scan_documents"]

log = logging.getLogger(__name__)


def scan_documents(path: str | Path, limit: int | None = None) -> Iterator[Entry]:
    """Documents and errors of one file in order, at most `limit` documents; a repeated id is an error, too."""
    path = Path(path)
    lines: dict[str, int] = {}
    for line, entry in _entries(path):
        if isinstance(entry, Document):
            if limit is not None and len(lines) >= limit:
                return
            first = lines.setdefault(entry.id, line)
            if first != line:
                entry = DocumentError(
                    f"{path}:{line}: duplicate id {entry.id!r}, first used in line {first}",
                    hint="give every document its own id",
                )
        yield line, entry


def _entries(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        raise DocumentError(f"{path}: is a folder, not a file", hint="name a file: --documents my_documents.jsonl")
    [file] = find_files(path)
    if not file.kind:
        raise no_reader(path)
    if file.problem:
        raise file.problem
    if file.kind not in ISOLATED:
        yield from READERS[file.kind](path, file.relative)
        return
    for result in read_files([file]):
        yield from enumerate([*result.errors, *result.documents], start=1)


def scan_all(
    paths: Sequence[str | Path], limit: int | None = None, *, progress: Callable[[str], None] | None = None
) -> Iterator[Document | UserError]:
    """Documents of files and folders in order, and errors in the place of what cannot be read."""
    if len(paths) == 1 and not Path(paths[0]).is_dir():
        yield from (entry for _, entry in scan_documents(paths[0], limit))
        return
    for result in read_files(find_files(paths), limit=limit, progress=progress):
        yield from result.errors
        yield from result.documents


def read_documents(
    paths: str | Path | Sequence[str | Path],
    limit: int | None = None,
    *,
    strict: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Document]:
    """All documents of files and folders, or the first `limit`. Raises DocumentError where there are none.

    With `strict` the first error is raised; otherwise what cannot be read is left out and named in a line of progress
    (without `progress`, of the log). By default one file given by its name is read strictly, all else is not.
    `progress` also gets a line now and then.
    """
    alone = _alone(paths)
    if alone is None or kind_of(alone.name) in ISOLATED:
        documents, errors = load_documents(paths, limit=limit, strict=strict, progress=progress)
    else:
        documents, errors = [], []
        for _, entry in scan_documents(alone, limit):
            if isinstance(entry, Document):
                documents.append(entry)
                if progress and len(documents) % 20_000 == 0:
                    progress(f"read {len(documents):,} documents")
            elif strict is not False:
                raise entry
            else:
                errors.append(entry)
        _check_some(documents, paths)
    for error in errors:
        (progress or log.warning)(f"skipped {error.problem}")
    return documents


def load_documents(
    paths: str | Path | Sequence[str | Path],
    *,
    limit: int | None = None,
    strict: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Document], list[UserError]]:
    """All documents of files and folders, and what could not be read; every document knows its file (`read_files`).

    With `strict` (by default for one file given by its name) the first error is raised. Raises DocumentError where
    there are no documents.
    """
    strict = _alone(paths) is not None if strict is None else strict
    documents: list[Document] = []
    errors: list[UserError] = []
    for result in read_files(find_files(paths), limit=limit, progress=progress):
        if strict and result.errors:
            raise result.errors[0]
        documents += result.documents
        errors += result.errors
    _check_some(documents, paths)
    return documents, errors


def _alone(paths: str | Path | Sequence[str | Path]) -> Path | None:
    """The one file that is meant, None for a folder and for several."""
    paths = [paths] if isinstance(paths, str | Path) else paths
    return Path(paths[0]) if len(paths) == 1 and not Path(paths[0]).is_dir() else None


def _check_some(documents: Sequence[Document], paths: str | Path | Sequence[str | Path]) -> None:
    if not documents:
        name = str(paths) if isinstance(paths, str | Path) else ", ".join(map(str, paths))
        raise DocumentError(f"{name}: holds no documents", hint="write one JSON object per line: id, title, content")

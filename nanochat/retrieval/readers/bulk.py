"""Many files into documents, in order: foreign formats in worker processes with limits, text right here."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from nanochat.errors import DocumentError, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.files import FileResult, SourceFile
from nanochat.retrieval.readers.table import ISOLATED, READERS, STREAMED
from nanochat.retrieval.readers.worker import Limits, Worker

# a text file above this many bytes is parsed by a worker, too
LARGE_BYTES = 4_000_000
_SECONDS_BETWEEN_LINES = 5.0


def read_files(
    files: Sequence[SourceFile],
    *,
    workers: int | None = None,
    timeout_s: float = 60,
    memory_mb: int = 1024,
    limit: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[FileResult]:
    """What each file holds, in the order of the files; a file that cannot be read is an error in its result.

    HTML, PDF, DOCX and large text files are parsed by `workers` processes (by default one per core, at most 8; none
    are started without such files; 0 parses everything here, without limits). A file that takes more than `timeout_s`
    seconds or `memory_mb` MiB, or brings its parser down, is skipped, and the others go on.

    Every document has metadata["file"], the relative path of its file (a record's own "file" moves to "record_file").
    A document whose id came before is left out as an error. Reading stops after `limit` documents.
    """
    first: dict[str, str] = {}
    started = told = time.monotonic()
    results = _results(files, _num_workers(files, workers), Limits(timeout_s, memory_mb))
    try:
        for number, result in enumerate(results, start=1):
            result = _checked(result, first, limit)
            yield result
            if progress and time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                progress(f"read {number:,} of {len(files):,} files, {len(first):,} documents, {told - started:.0f} s")
            if limit is not None and len(first) >= limit:
                return
    finally:
        results.close()


def _num_workers(files: Sequence[SourceFile], workers: int | None) -> int:
    needed = sum(_is_isolated(file) for file in files)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(needed, min(cores, 8) if workers is None else workers)


def _is_isolated(file: SourceFile) -> bool:
    if file.problem or file.kind in STREAMED:
        return False
    try:
        return file.kind in ISOLATED or file.path.stat().st_size > LARGE_BYTES
    except OSError:
        return False


def _results(files: Sequence[SourceFile], num_workers: int, limits: Limits) -> Iterator[FileResult]:
    if not num_workers:
        yield from map(_read_here, files)
        return
    pool = [Worker(limits) for _ in range(num_workers)]
    idle = deque(pool)

    def read_there(file: SourceFile) -> FileResult:
        # as many threads as workers: there is always an idle one
        worker = idle.popleft()
        try:
            return worker.read(file)
        finally:
            idle.append(worker)

    threads = ThreadPoolExecutor(num_workers, thread_name_prefix="reader")
    pending: deque[tuple[SourceFile, Future[FileResult] | None]] = deque()
    ahead = iter(files)
    try:
        while True:
            # a few results wait at most: a fast reader must not fill the memory before a slow writer
            while len(pending) < 4 * num_workers and (file := next(ahead, None)):
                pending.append((file, threads.submit(read_there, file) if _is_isolated(file) else None))
            if not pending:
                return
            file, future = pending.popleft()
            yield future.result() if future else _read_here(file)
    finally:
        for worker in pool:
            worker.stop()
        threads.shutdown(cancel_futures=True)
        for worker in pool:
            worker.clear()


def _read_here(file: SourceFile) -> FileResult:
    if file.problem:
        return FileResult(file, [], [file.problem])
    documents: list[Document] = []
    errors: list[UserError] = []
    try:
        for _, entry in READERS[file.kind](file.path, file.relative):
            (documents if isinstance(entry, Document) else errors).append(entry)
    except UserError as error:
        errors.append(error)
    if not documents and not errors:
        errors.append(DocumentError(f"{file.path}: holds no documents", hint="remove it, or write something into it"))
    return FileResult(file, documents, errors)


def _checked(result: FileResult, first: dict[str, str], limit: int | None) -> FileResult:
    """The result without documents whose id was seen and those above the limit; `first`: id -> relative path."""
    documents: list[Document] = []
    errors = list(result.errors)
    relative = result.file.relative
    for document in result.documents:
        if limit is not None and len(first) >= limit:
            break
        if document.id in first:
            errors.append(DocumentError(
                f"{result.file.path}: duplicate id {document.id!r}, first used in {first[document.id]}",
                hint="give every document its own id",
            ))
            continue
        first[document.id] = relative
        documents.append(named(document, relative))
    return FileResult(result.file, documents, errors)


def named(document: Document, relative: str) -> Document:
    """The document with metadata["file"], the relative path of its file; its own "file" moves to "record_file"."""
    if document.metadata.get("file") == relative:
        return document
    metadata = dict(document.metadata)
    if "file" in metadata:
        metadata["record_file"] = metadata["file"]
    return Document(id=document.id, title=document.title, content=document.content, source=document.source,
                    metadata={**metadata, "file": relative})

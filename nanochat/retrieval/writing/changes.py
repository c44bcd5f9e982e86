"""What a command changes in a knowledge base: build, add, update, delete, rollback, compact, add a missing index."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.errors import ConfigError, DocumentError, KnowledgeBaseError
from nanochat.retrieval.chunking import Chunking
from nanochat.retrieval.document import Document
from nanochat.retrieval.storage.indexes import check_index, check_settings, load_index, stored_types
from nanochat.retrieval.storage.manifest import damaged
from nanochat.retrieval.storage.snapshot import read_sources
from nanochat.retrieval.storage.versions import append_log, drop_versions, remove_unneeded, version_numbers
from nanochat.retrieval.table import Table, document_hash
from nanochat.retrieval.writing.place import writing
from nanochat.retrieval.writing.writer import Draft, Writer, chunk_spans, join_rows

log = logging.getLogger(__name__)

# a write that adds documents leaves out the deleted rows when they are more than this share
COMPACT_ABOVE = 0.2
_SHOWN = 3
Progress = Callable[[str], None] | None


@dataclass(frozen=True)
class Change:
    """What a command did; `version` is the current one afterwards. Counts are of whole documents."""

    version: int
    action: str
    added: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    skipped: list[str] = field(default_factory=list)  # what was left out, and why
    seconds: float = 0.0


@dataclass
class Tally:
    """Counts while documents stream by, and the rows that they replace."""

    added: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    rows: list[int] = field(default_factory=list)


def build(
    path: Path, documents: Iterable[Document], retriever_type: str, *, chunking: Chunking,
    settings: Mapping[str, Any], sources: Mapping[str, Any] | None = None, progress: Progress = None,
) -> Change:
    """A version with these documents and nothing else, in a new folder or in that of a knowledge base."""
    check_settings(retriever_type, settings)
    started = time.perf_counter()
    with writing(path, "build", create=True, progress=progress) as writer:
        tokenizer = None
        recipe = chunking.to_dict()
        if chunking.tokenizer:
            file = Path(chunking.tokenizer)
            file = file / "tokenizer.json" if file.is_dir() else file
            # a copy inside: the path of this machine must not be stored
            tokenizer = writer.save_file("tokenizer", ".json", file.read_bytes())
            recipe["tokenizer"] = tokenizer["name"]
        spans = chunk_spans(path, {"chunking": recipe, "tokenizer": tokenizer})
        parts = writer.write_parts(documents, spans)
        types = stored_types(retriever_type, settings)
        draft = Draft(retriever_type, settings, recipe, types, parts, tokenizer=tokenizer, sources=sources or {})
        manifest = writer.commit(draft)
        return finish(writer, Tally(added=manifest["num_documents"]), started)


def finish(writer: Writer, tally: Tally, started: float, *, skipped: Sequence[str] = (), **more: Any) -> Change:
    """Write the line of the log and return what was done."""
    change = Change(writer.version, writer.action, tally.added, tally.updated, tally.deleted, tally.unchanged,
                    list(skipped), time.perf_counter() - started)
    try:
        append_log(writer.path, version=change.version, action=change.action, added=change.added,
                   updated=change.updated, deleted=change.deleted, unchanged=change.unchanged,
                   skipped=len(change.skipped), seconds=round(change.seconds, 3), **more)
    except OSError as error:
        # the version is committed: that the log has no line of it must not pass for a failure
        log.warning("%s: version %d is written, but not its line in log.jsonl: %s", writer.path, change.version, error)
    return change


def commit_changes(
    writer: Writer, documents: Iterable[Document], tally: Tally, *,
    sources: Callable[[], Mapping[str, Any]] | None = None,
) -> bool:
    """Append documents and delete the rows of the tally, complete once they are read; False if nothing changes.

    `sources` is asked once the documents are read; by default what `sync` knows of files stays.
    """
    base, manifest = writer.base, writer.base.manifest
    old = read_sources(writer.path, manifest)
    parts = writer.write_parts(documents, chunk_spans(writer.path, manifest))
    new = old if sources is None else sources()
    if not (parts or tally.rows or new != old):
        return False
    deleted = join_rows(base.table.deleted, tally.rows)
    all_parts = [*(part.record for part in base.table.parts), *parts]
    if parts and len(deleted) > COMPACT_ABOVE * sum(part.num_passages for part in all_parts):
        table = Table([*base.table.parts, *writer.opened(parts)], deleted)
        commit_compacted(writer, table, sources=new)
    else:
        writer.commit(writer.draft(parts=all_parts, deleted=deleted, sources=new))
    return True


def commit_compacted(
    writer: Writer, table: Table, *, without: frozenset[str] = frozenset(), sources: Mapping[str, Any],
    reuse: Mapping[str, Any] | None = None,
) -> None:
    """A version with the live documents of a table, less some, in new parts, with rows and indexes counted anew."""
    kept = (document for document in _read(writer.path, table) if document.id not in without)
    writer.forget_names()
    parts = writer.write_parts(kept, chunk_spans(writer.path, writer.base.manifest))
    reuse = writer.base.manifest["indexes"] if reuse is None else reuse
    writer.commit(writer.draft(parts=parts, deleted=np.zeros(0, np.int64), sources=sources, indexes={},
                               indexed_rows=0, reuse=reuse))


def _read(path: Path, table: Table) -> Iterator[Document]:
    documents = iter(table.whole_documents)
    while True:
        try:
            document = next(documents)
        except StopIteration:
            return
        except (ValueError, OSError) as error:
            raise damaged(path, f"a document cannot be read: {error}") from error
        yield document


def add(path: Path, documents: Iterable[Document], *, replace: bool = False, progress: Progress = None) -> Change:
    """Append documents. One that is there already, word for word, is left alone; one with the id of another is
    refused, or takes its place if `replace`."""
    started, tally = time.perf_counter(), Tally()
    with writing(path, "update" if replace else "add", progress=progress) as writer:
        fresh = fresh_documents(writer.base.table, documents, tally, replace=replace)
        if commit_changes(writer, fresh, tally):
            return finish(writer, tally, started)
        return Change(writer.base.version, writer.action, unchanged=tally.unchanged,
                      seconds=time.perf_counter() - started)


def fresh_documents(
    table: Table, documents: Iterable[Document], tally: Tally, *, replace: bool
) -> Iterator[Document]:
    """Those that are not in the table as they are; the tally gets the rows of those that they replace."""
    seen: set[str] = set()
    for document in documents:
        known = None if document.id in seen else table.hash_of(document.id)
        seen.add(document.id)
        if known is None:
            # a second one of an id is refused when it is written
            tally.added += 1
        elif known == document_hash(document):
            tally.unchanged += 1
            continue
        elif not replace:
            raise DocumentError(
                f"The id {document.id!r} is in the knowledge base already, with other content",
                hint="nanochat kb update replaces documents; nothing was changed",
            )
        else:
            tally.updated += 1
            tally.rows += table.find(document.id)
        yield document


def delete(path: Path, ids: Iterable[str]) -> Change:
    """Delete documents by their ids. They are found no more; their bytes go with `compact` and `prune`, or `purge`."""
    started, tally = time.perf_counter(), Tally()
    with writing(path, "delete") as writer:
        for identifier in check_ids(path, writer.base.table, ids):
            tally.rows += writer.base.table.find(identifier)
            tally.deleted += 1
        if not commit_changes(writer, (), tally):
            raise KnowledgeBaseError("No ids were given", hint=f"nanochat kb delete {path} ID ...")
        return finish(writer, tally, started)


def check_ids(path: Path, table: Table, ids: Iterable[str]) -> list[str]:
    """The ids, each once; KnowledgeBaseError where one is not that of a live document."""
    ids = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
    unknown = [identifier for identifier in ids if table.hash_of(identifier) is None]
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        parents = [identifier.rpartition("#")[0] for identifier in unknown if table.find(identifier)]
        raise KnowledgeBaseError(
            f"Knowledge base {path} has no document {shown}",
            hint=f"{unknown[0]!r} is a passage: name its document, {parents[0]!r}" if parents else
            "check the ids; nothing was changed",
        )
    return ids


def rollback(path: Path, version: int) -> Change:
    """Make the content of an older version current again, as a new version. Copies nothing."""
    started = time.perf_counter()
    with writing(path, "rollback", base=version) as writer:
        for name in writer.base.manifest["indexes"]:
            check_index(path, writer.base.manifest, name)
        writer.commit_again()
        return finish(writer, Tally(), started, to_version=version)


def compact(path: Path, *, progress: Progress = None) -> Change:
    """Leave out the deleted rows, and merge all parts. The documents stay as they are."""
    started = time.perf_counter()
    with writing(path, "compact", progress=progress) as writer:
        commit_compacted(writer, writer.base.table, sources=read_sources(path, writer.base.manifest))
        return finish(writer, Tally(unchanged=writer.base.manifest["num_documents"]), started)


def add_index(path: Path, name: str, settings: Mapping[str, Any], manifest: Mapping[str, Any]) -> int | None:
    """A version that also has the index of a type; its number, or None where the rows are others than in `manifest`.

    Waits for other writers: of several processes that ask at once, one builds it.
    """
    started = time.perf_counter()
    with writing(path, "index", wait=True) as writer:
        base = writer.base.manifest
        if any(base[key] != manifest[key] for key in ("fingerprint", "num_rows", "deleted")):
            return None
        if load_index(path, base, name, settings) is not None:
            return base["version"]
        log.warning("%s has no usable %s index: building it from its documents", path, name)
        draft = writer.draft(sources=read_sources(path, base))
        draft.types = {**draft.types, name: settings}
        draft.indexes = {kind: record for kind, record in draft.indexes.items() if kind != name}
        writer.commit(draft)
        return finish(writer, Tally(), started, type=name).version


@dataclass(frozen=True)
class Pruned:
    """What `prune` did."""

    removed: list[int]  # versions
    in_use: list[int]   # versions that stay because a program has them open
    freed_bytes: int


def prune(path: Path, keep: int = 1) -> Pruned:
    """Remove the versions before the newest `keep`, but none that is in use, and all that no version needs."""
    if keep < 1:
        raise ConfigError(f"keep is {keep}", hint="the current version always stays: give 1 or more")
    with writing(path, "prune") as writer:
        writer.base.close()
        current = writer.base.version
        old = [version for version in version_numbers(path) if version <= current][:-keep]
        removed = drop_versions(path, old)
        freed = remove_unneeded(path)
        append_log(path, version=current, action="prune", removed=removed, freed_bytes=freed)
    return Pruned(removed, sorted(set(old) - set(removed)), freed)

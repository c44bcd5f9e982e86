"""Remove documents for good: out of every file, every version and the backups, with a proof in the log."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.storage.locking import unused
from nanochat.retrieval.storage.snapshot import Snapshot, read_sources
from nanochat.retrieval.storage.versions import (
    drop_versions,
    read_current,
    remove_unneeded,
    version_name,
    version_numbers,
)
from nanochat.retrieval.writing.changes import Change, Tally, commit_compacted, finish
from nanochat.retrieval.writing.place import writing
from nanochat.retrieval.writing.scanning import scan
from nanochat.retrieval.writing.writer import Writer

_WAIT_S = 5.0  # for programs that open a version in the very moment it is dropped


@dataclass
class Held:
    """What the files of a knowledge base hold of the documents to be purged."""

    versions: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)   # contents, and those of passages


def purge(path: Path, ids: Iterable[str], backups: Sequence[str | Path] = ()) -> Change:
    """Delete documents by id and remove their bytes: parts and indexes are written anew without them, every version
    that holds them is dropped, in the knowledge base and in the backups. Then all files are searched byte for byte for
    what was removed, and log.jsonl gets a line with hashes of ids and contents and what the search found.

    Raises KnowledgeBaseError, with nothing changed, for an id that no version has, for a version that another program
    has open, and for a purge that would leave no document; and, after the removal, where text is still found.
    """
    wanted = frozenset([ids] if isinstance(ids, str) else ids)
    places = [path, *map(Path, backups)]
    found = {place: _search(place, wanted) for place in places}
    unknown = sorted(wanted - set().union(*(held.ids for held in found.values())))
    if unknown or not wanted:
        raise KnowledgeBaseError(
            f"No version of {path} has a document {', '.join(map(repr, unknown[:3])) or '(no id was given)'}",
            hint="check the ids: a passage such as guide#2 goes with its document; nothing was changed",
        )
    for place, held in found.items():
        _refuse_in_use(place, held.versions)
        _check_place(place, wanted)
    # texts may differ between the knowledge base and an old backup: each is searched for all of them
    texts = set().union(*(held.texts for held in found.values()))
    changes = [_purge_one(place, wanted, found[place], texts) for place in places]
    return changes[0]


def _search(path: Path, ids: frozenset[str]) -> Held:
    """Look into all versions, also at deleted rows: their bytes are in the files."""
    held = Held()
    current, _ = read_current(path)
    # files above it are left by a crash, and removed before anything is written
    for version in (number for number in version_numbers(path) if number <= current):
        snapshot = Snapshot.open(path, version)
        for part in snapshot.table.parts:
            for index in (index for name in sorted(ids) for index in part.find_all(name)):
                document = part.document(index)
                held.ids.add(document.id)
                held.texts |= {document.content, *(part.passage(row).content for row in part.rows_of(index))}
                held.versions += [version] if version not in held.versions else []
        snapshot.close()
    return held


def _refuse_in_use(path: Path, versions: Sequence[int]) -> None:
    files = [path / version_name(version) for version in versions]
    with unused(files) as free:
        used = [int(file.stem) for file in files if file not in free]
    if used:
        raise KnowledgeBaseError(
            f"Version {', '.join(map(str, used))} of {path} is open in another program",
            hint="stop the programs that use this knowledge base, then purge again; nothing was changed",
        )


def _check_place(path: Path, ids: frozenset[str]) -> None:
    """Refuse, before anything is changed anywhere, what would fail in the middle."""
    snapshot = Snapshot.open(path)
    num_live = sum(snapshot.table.hash_of(name) is not None for name in ids)
    num_documents = snapshot.manifest["num_documents"]
    snapshot.close()
    if num_live == num_documents:
        raise KnowledgeBaseError(f"A knowledge base needs at least one document: this purge would leave none in {path}",
                                 hint="to be rid of all, remove the folder; nothing was changed")
    try:
        open(path / "log.jsonl", "ab").close()
    except OSError as error:
        raise KnowledgeBaseError(f"The proof cannot be written to {path / 'log.jsonl'}: {error.strerror or error}",
                                 hint="make it writable, then purge again; nothing was changed") from error


def _purge_one(path: Path, ids: frozenset[str], held: Held, texts: set[str]) -> Change:
    started = time.perf_counter()
    with writing(path, "purge") as writer:
        tally = Tally(deleted=sum(writer.base.table.hash_of(name) is not None for name in ids))
        if writer.base.version in held.versions:
            _write_without(writer, ids)
        else:
            writer.version = writer.base.version
        writer.base.close()
        dropped = _drop(path, held.versions)
        remove_unneeded(path)
        proof = scan(path, ids, texts)
        change = finish(
            writer, tally, started,
            purged_ids_sha256=sorted(map(_sha256, held.ids)), purged_texts_sha256=sorted(map(_sha256, held.texts)),
            versions_dropped=dropped, files_scanned=proof.files, bytes_scanned=proof.bytes,
            occurrences=len(proof.found), other_documents_with_the_text=len(proof.shared),
        )
    if proof.found:
        raise KnowledgeBaseError(
            f"{path} still holds text of a purged document: {proof.found[0]} (and {len(proof.found) - 1} more places)",
            hint=f"remove what was made of it by other commands, such as {path / 'encoders'}, and purge again",
        )
    kept = [f"document {name!r} holds the same text, and stays" for name in sorted(proof.shared)]
    return replace(change, skipped=kept)


def _write_without(writer: Writer, ids: frozenset[str]) -> None:
    manifest = writer.base.manifest
    # the entry of a file that is one document has its id; one of many documents tells nothing
    sources = {name: state for name, state in read_sources(writer.path, manifest).items() if name not in ids}
    # what an encoder has learned from the documents goes with them
    reuse = {name: record for name, record in manifest["indexes"].items() if not _learns(record)}
    commit_compacted(writer, writer.base.table, without=ids, sources=sources, reuse=reuse)


def _learns(record: dict[str, Any]) -> bool:
    encoder = record["made_by"].get("encoder")
    # a tuned encoder has another inside
    return isinstance(encoder, dict) and encoder.get("base", encoder.get("encoder")) == "lsa"


def _drop(path: Path, versions: Sequence[int]) -> list[int]:
    """Drop the versions; a reader that has just opened one is given a moment."""
    remaining, deadline = list(versions), time.monotonic() + _WAIT_S
    while True:
        dropped = drop_versions(path, remaining)
        remaining = [version for version in remaining if version not in dropped]
        if not remaining:
            return list(versions)
        if time.monotonic() > deadline:
            raise KnowledgeBaseError(
                f"Version {remaining[0]} of {path} was opened by another program during the purge, and is still there",
                hint="stop that program and give the same command again",
            )
        time.sleep(0.05)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Copies of a knowledge base that are knowledge bases themselves, and what one holds and takes up."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.common import write_folder
from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.storage.manifest import damaged, files_of, index_files
from nanochat.retrieval.storage.snapshot import Snapshot
from nanochat.retrieval.storage.versions import commit_version, version_numbers
from nanochat.retrieval.writing.place import check_place

_COPY_BYTES = 1 << 20


def backup(snapshot: Snapshot, target: Path) -> Path:
    """Copy the version into `target`, replacing a knowledge base that is there; whole or not at all.

    Every file is hashed on the way: a damaged knowledge base is not copied over a good backup. Returns `target`.
    """
    check_place(target)
    here, there = snapshot.path.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise KnowledgeBaseError(f"Cannot back up {snapshot.path} into {target}: one is inside the other",
                                 hint="choose a folder beside it, or better on another disk")
    with write_folder(target) as folder:
        for name, record in all_files(snapshot):
            _copy(snapshot.path, name, folder / name, record["sha256"])
        (folder / "indexes").mkdir(exist_ok=True)
        (folder / "versions").mkdir()
        commit_version(folder, snapshot.manifest)
    return target


def all_files(snapshot: Snapshot) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path inside the knowledge base, size and hash) of every file of a version."""
    yield from files_of(snapshot.manifest)
    for name in snapshot.manifest["indexes"]:
        yield from index_files(snapshot.manifest, name)


def _copy(path: Path, name: str, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        source = open(os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        raise damaged(path, f"{name} cannot be read: {error.strerror or error}") from error
    with source, open(target, "wb") as copy:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != sha256:
        raise damaged(path, f"{name} is not what was written (its hash differs)")


def stats(snapshot: Snapshot) -> dict[str, Any]:
    """Counts, bytes and what made the indexes."""
    manifest, path = snapshot.manifest, snapshot.path
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    on_disk = {(found.st_dev, found.st_ino): found.st_size for found in map(os.lstat, files)}
    return {
        "version": snapshot.version,
        "versions": len(version_numbers(path)),
        "retriever_type": manifest["retriever_type"],
        "chunking": manifest["chunking"],
        "num_documents": manifest["num_documents"],
        "num_passages": manifest["num_passages"],
        "num_deleted_rows": manifest["num_rows"] - manifest["num_passages"],
        "num_parts": len(manifest["parts"]),
        "fingerprint": manifest["fingerprint"],
        "bytes_of_documents": sum(record["bytes"] for _, record in files_of(manifest)),
        "bytes_of_indexes": {name: sum(file["bytes"] for _, file in index_files(manifest, name))
                             for name in manifest["indexes"]},
        "bytes_on_disk": sum(on_disk.values()),
        "indexes": {name: record["made_by"] for name, record in manifest["indexes"].items()},
    }

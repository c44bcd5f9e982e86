"""The versions of a knowledge base: which there are, which is current, committing one, removing what none needs.

Only the file CURRENT is ever replaced, by rename, after everything that it leads to is on the disk.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanochat.common import sync_path
from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.storage.locking import read_lock, unused
from nanochat.retrieval.storage.manifest import damaged, decode_manifest, encode_manifest, names_of, not_found

log = logging.getLogger(__name__)

_CURRENT = re.compile(r"(\d{6,}) ([0-9a-f]{64})\n")
_VERSION_FILE = re.compile(r"\d{6,}\.json")
_ATTEMPTS = 50


@dataclass(frozen=True)
class VersionInfo:
    """One line of the list of versions."""

    version: int
    action: str                    # the command that made it
    time: str                      # local time, ISO 8601; "" where the log does not know
    num_documents: int
    num_passages: int
    retriever_types: tuple[str, ...]
    is_current: bool
    is_in_use: bool                # a program, maybe this one, has it open


def version_name(version: int) -> str:
    """The path of a version file inside the knowledge base."""
    return f"versions/{version:06d}.json"


def write_whole(path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Write a file beside its place and rename it. Unless `sync_folder`, the caller puts its name on the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if sync_folder:
        sync_path(path.parent)


def read_current(path: Path) -> tuple[int, str]:
    """Number and hash of the current version. Raises KnowledgeBaseNotFound where there is no knowledge base."""
    if (path / "CURRENT").is_symlink():
        raise damaged(path, "CURRENT is a link")
    try:
        data = (path / "CURRENT").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise not_found(path) from missing
    except OSError as error:
        raise KnowledgeBaseError(
            f"Knowledge base {path} cannot be read: {error.strerror or error}",
            hint="check the permissions of the folder",
        ) from error
    found = _CURRENT.fullmatch(data.decode("ascii", "replace"))
    if found is None:
        raise damaged(path, "CURRENT does not name a version")
    return int(found[1]), found[2]


def read_version(path: Path, version: int, sha256: str | None = None) -> dict[str, Any]:
    """The manifest of a version; `sha256` is what its file must hash to."""
    manifest, file = hold_version(path, version, sha256)
    file.close()
    return manifest


def hold_version(path: Path, version: int, sha256: str | None = None) -> tuple[dict[str, Any], IO[bytes]]:
    """The manifest of a version, and its open file: while that is open, the version is not pruned.

    Raises FileNotFoundError for a version that is not there.
    """
    name = version_name(version)
    if (path / name).is_symlink():
        raise damaged(path, f"{name} is a link")
    if (path / name).exists() and not (path / name).is_file():
        raise damaged(path, f"{name} is not a file")
    file = open(path / name, "rb")
    try:
        if not read_lock(file):
            raise FileNotFoundError(name)
        data = file.read()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise damaged(path, f"{name} is not what was written (its hash differs)")
        manifest = decode_manifest(path, name, data)
        if manifest["version"] != version:
            raise damaged(path, f"{name} is that of version {manifest['version']}")
    except BaseException:
        file.close()
        raise
    return manifest, file


def hold_current(path: Path) -> tuple[dict[str, Any], IO[bytes]]:
    """`hold_version` of the current version, whatever a writer does meanwhile."""
    for _ in range(_ATTEMPTS):
        version, sha256 = read_current(path)
        try:
            return hold_version(path, version, sha256)
        except FileNotFoundError:
            if read_current(path) == (version, sha256):
                break
            time.sleep(0.01)
    raise damaged(path, f"{version_name(version)} is missing")


def version_numbers(path: Path) -> list[int]:
    """The numbers of all version files, ascending."""
    try:
        names = os.listdir(path / "versions")
    except FileNotFoundError:
        return []
    return sorted(int(name[:-5]) for name in names if _VERSION_FILE.fullmatch(name))


def commit_version(path: Path, manifest: Mapping[str, Any]) -> None:
    """Make a manifest the current version. What it names must be on the disk already."""
    data = encode_manifest(manifest)
    version = manifest["version"]
    write_whole(path / version_name(version), data)
    write_whole(path / "CURRENT", f"{version:06d} {hashlib.sha256(data).hexdigest()}\n".encode())


def list_versions(path: Path) -> list[VersionInfo]:
    """All versions up to the current one, ascending; damaged ones are left out with a warning."""
    current, _ = read_current(path)
    times = {line.get("version"): line.get("time", "") for line in read_log(path)}
    found = []
    for version in (number for number in version_numbers(path) if number <= current):
        try:
            manifest = read_version(path, version)
            with unused([path / version_name(version)]) as free:
                is_in_use = not free
        except (KnowledgeBaseError, FileNotFoundError) as error:
            log.warning("version %d cannot be read: %s", version, error)
            continue
        found.append(VersionInfo(
            version, manifest.get("action", ""), times.get(version, ""), manifest["num_documents"],
            manifest["num_passages"], tuple(manifest["indexes"]), version == current, is_in_use,
        ))
    return found


def append_log(path: Path, **entry: Any) -> None:
    """One line in log.jsonl, with the time."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}, ensure_ascii=False) + "\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with open(os.open(path / "log.jsonl", flags, 0o644), "r+b") as file:
        # a line that a crash cut short must not take the next one with it
        torn = file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
        file.write(b"\n" * bool(torn) + line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl; a line cut short by a crash is left out."""
    entries = []
    # what is no plain file, such as a pipe, would never end
    with contextlib.suppress(FileNotFoundError):
        for line in () if not (path / "log.jsonl").is_file() else (path / "log.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def drop_versions(path: Path, versions: Sequence[int]) -> list[int]:
    """Remove the files of these versions, except those in use; returns the versions removed."""
    with unused([path / version_name(version) for version in versions]) as free:
        for file in free:
            file.unlink()
        if free:
            sync_path(path / "versions")
    return [int(file.stem) for file in free]


def remove_unneeded(path: Path) -> int:
    """Remove everything that no committed version names: what a dead writer left, and parts of pruned versions.

    Only for the holder of the write lock. Returns the number of bytes set free, hard links not counted.
    """
    versions = version_numbers(path)
    # without CURRENT nothing tells which are committed; each is complete, and one of them may be gone back to
    committed = read_current(path)[0] if (path / "CURRENT").is_file() else max(versions, default=0)
    needed: set[str] = set()
    for version in versions:
        if version > committed:
            (path / version_name(version)).unlink()
            continue
        try:
            needed |= names_of(read_version(path, version))
        except KnowledgeBaseError as error:
            # what it needs is not known, so nothing can be removed
            log.warning("nothing is removed: %s", error.problem)
            return 0
    freed = 0
    for name in ("parts", "indexes"):
        for entry in (path / name).iterdir() if (path / name).is_dir() else ():
            # indexes/bm25 without a number belongs to a knowledge base of format 1
            if entry.name not in needed and (name == "parts" or "-" in entry.name):
                freed += remove(entry)
    for entry in [path / "CURRENT.tmp", *(path / "versions").glob("*.tmp")]:
        if entry.is_file():
            freed += remove(entry)
    return freed


def remove(entry: Path) -> int:
    """Remove a file or a folder; returns the bytes of the files that had no other name."""
    is_folder = entry.is_dir() and not entry.is_symlink()
    files = [file for file in entry.rglob("*") if file.is_file()] if is_folder else [entry]
    stats = [os.lstat(file) for file in files]
    shutil.rmtree(entry) if is_folder else entry.unlink()
    return sum(found.st_size for found in stats if found.st_nlink == 1)

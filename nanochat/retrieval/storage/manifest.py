"""The manifest of one version of a knowledge base: what belongs to it, and whether that is what was written.

A manifest names files only by plain names inside the knowledge base, and holds no time and no machine: the same
documents give the same manifest anywhere.
"""

import hashlib
import json
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.errors import KnowledgeBaseError, KnowledgeBaseNotFound
from nanochat.retrieval.base import RETRIEVERS
from nanochat.retrieval.table.records import file_record

FORMAT = "nanochat-knowledge-base"
FORMAT_VERSION = 2
# files up to this size are hashed whenever they are opened; `KnowledgeBase.verify` hashes all
HASHED_ON_OPEN_BYTES = 1_000_000
PLAIN_NAME = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_BUILD = "python -m nanochat.retrieval --documents"
_COUNTS = ("version", "num_documents", "num_passages", "num_rows")


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a version file; its last entry is a checksum over the others."""
    return _json({**manifest, "checksum": _checksum(manifest)})


def decode_manifest(path: Path, name: str, data: bytes) -> dict[str, Any]:
    """The manifest in the bytes of the version file `name`; KnowledgeBaseError where it is damaged or too new."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{name} is not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise damaged(path, f"{name} is not a manifest of a knowledge base")
    check_format(path, manifest.get("format_version"))
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise damaged(path, f"{name} is not what was written (its checksum differs)")
    if not _has_form(manifest):
        raise damaged(path, f"{name} is incomplete")
    return manifest


def check_format(path: Path, version: Any) -> None:
    """Refuse a knowledge base of a newer program."""
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise KnowledgeBaseError(
            f"Knowledge base {path} has format version {version}, this program reads up to {FORMAT_VERSION}",
            hint="update nanochat-rag, or build the knowledge base again",
        )


def files_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path inside the knowledge base, size and hash) of the files with the documents; `index_files` gives the rest."""
    for part in manifest["parts"]:
        yield from ((f"parts/{part['name']}/{name}", record) for name, record in part["files"].items())
    for key in ("deleted", "sources", "tokenizer"):
        if manifest[key] is not None:
            yield f"parts/{manifest[key]['name']}", manifest[key]


def index_files(manifest: Mapping[str, Any], retriever_type: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path inside the knowledge base, size and hash) of the files of one index."""
    record = manifest["indexes"][retriever_type]
    yield from ((f"indexes/{record['folder']}/{name}", file) for name, file in record["files"].items())


def names_of(manifest: Mapping[str, Any]) -> set[str]:
    """What the version needs, by the names directly inside parts/ and indexes/."""
    found = {name.split("/")[1] for name, _ in files_of(manifest)} | {part["name"] for part in manifest["parts"]}
    return found | {record["folder"] for record in manifest["indexes"].values()}


def check_file(path: Path, name: str, record: Mapping[str, Any], *, always_hash: bool) -> None:
    """Raise KnowledgeBaseError unless the file of the knowledge base at `path` is as recorded, and no link."""
    file = path / name
    try:
        found = os.lstat(file)
    except OSError as error:
        raise damaged(path, f"{name} is missing") from error
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, f"{name} is not a plain file (links and folders are refused)")
    if found.st_size != record["bytes"]:
        raise damaged(path, f"{name} has {found.st_size} bytes instead of {record['bytes']}")
    if not (always_hash or record["bytes"] <= HASHED_ON_OPEN_BYTES):
        return
    try:
        is_same = file_record(file)["sha256"] == record["sha256"]
    except OSError as error:
        raise damaged(path, f"{name} cannot be read: {error.strerror or error}") from error
    if not is_same:
        raise damaged(path, f"{name} is not what was written (its hash differs)")


def check_folder(path: Path, name: str) -> None:
    """Raise KnowledgeBaseError unless this is a folder of the knowledge base, and not a link to elsewhere."""
    try:
        mode = os.lstat(path / name).st_mode
    except OSError as error:
        raise damaged(path, f"{name} is missing") from error
    if not stat.S_ISDIR(mode):
        raise damaged(path, f"{name} is not a folder (links are refused)")


def not_found(path: Path) -> KnowledgeBaseError:
    """The error for a place that holds no knowledge base, an interrupted one, or one of the first format."""
    problem = f"Knowledge base not found: {path}"
    if path.is_file():
        hint = f"build it: {_BUILD} {path} --output data/my_kb --type simple"
        return KnowledgeBaseNotFound(f"{problem} (it is a file)", hint=hint)
    if (path / "knowledge_base" / "CURRENT").is_file():
        # prepare_rag_dataset writes its knowledge base inside the output folder
        return KnowledgeBaseNotFound(f"{problem} (the folder has no file CURRENT)",
                                     hint=f"it is inside: --knowledge_base {path / 'knowledge_base'}")
    old_type = first_format_type(path)
    if old_type is not None:
        return KnowledgeBaseError(
            f"Knowledge base {path} has the old format 1, this program reads format {FORMAT_VERSION}",
            hint=f"build it again: {_BUILD} {path / 'documents.jsonl'} --output {path}{_type_flag(old_type)}",
        )
    kept = _whole_version(path, "CURRENT")
    if kept is not None:
        return KnowledgeBaseNotFound(f"{problem} (the file CURRENT is missing; its versions are there)",
                                     hint=f"go back: {_rollback(path, kept)}")
    if (path / "parts").is_dir() or (path / "work").is_dir():
        return KnowledgeBaseNotFound(f"{problem} (an interrupted build is in its place)",
                                     hint="run the same build command again")
    if path.is_dir():
        problem += " (the folder has no file CURRENT)"
    return KnowledgeBaseNotFound(
        problem, hint=f"build it: {_BUILD} my_documents.jsonl --output {shlex.quote(str(path))} --type simple")


def first_format_type(path: Path) -> str | None:
    """The retriever type of a knowledge base of the first format, which had one manifest.json; None if there is none.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    check_format(path, manifest.get("version"))
    return str(manifest.get("retriever_type", ""))


def damaged(path: Path, problem: str) -> KnowledgeBaseError:
    """The error for a knowledge base that is not as it was written. `problem` starts with the name of the file where it
    is one; the hint names the newest version that does without it."""
    kept = _whole_version(path, problem.split()[0])
    quoted = shlex.quote(str(path))
    hint = f"build it again: {_BUILD} my_documents.jsonl --output {quoted}{_type_flag(_newest_type(path))}"
    if kept is not None:
        hint = f"go back: {_rollback(path, kept)}; or {hint}"
    return KnowledgeBaseError(f"Knowledge base {path} is damaged: {problem}", hint=hint)


def _rollback(path: Path, version: int) -> str:
    return f"nanochat kb rollback {version} --knowledge_base {shlex.quote(str(path))}"


def _whole_version(path: Path, name: str) -> int | None:
    """The newest version whose manifest can be read and does not name the damaged file or its folder; None if there is
    none. Where the damage is in no file of a version, the newest one counts as damaged, but not for CURRENT."""
    owner = name.split("/")[1] if "/" in name else ""
    files = sorted(file for file in (path / "versions").glob("*.json") if file.stem.isdecimal())
    for file in reversed(files if owner or name == "CURRENT" else files[:-1]):
        if file.is_symlink() or not file.is_file() or file.name == owner:
            continue
        try:
            data = file.read_bytes()
            manifest = json.loads(data)
        except (OSError, ValueError, RecursionError):
            continue
        is_whole = isinstance(manifest, dict) and manifest.pop("checksum", None) == _checksum(manifest)
        if is_whole and _has_form(manifest) and not (owner and f'"{owner}"'.encode() in data):
            return int(file.stem)
    return None


def _newest_type(path: Path) -> str:
    """The type that a damaged folder was built with, as far as its newest manifest can still be read."""
    for file in sorted((path / "versions").glob("[0-9]*.json"), reverse=True):
        try:
            return str(json.loads(file.read_text(encoding="utf-8")).get("retriever_type", ""))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    return ""


def _type_flag(name: str) -> str:
    return f" --type {name}" if name in RETRIEVERS else ""


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _has_form(manifest: Mapping[str, Any]) -> bool:
    indexes, parts = manifest.get("indexes"), manifest.get("parts")
    return (
        manifest.get("format_version") == FORMAT_VERSION
        and isinstance(manifest.get("retriever_type"), str)
        and isinstance(manifest.get("fingerprint"), str)
        and all(type(manifest.get(key)) is int for key in _COUNTS)
        and all(isinstance(manifest.get(key), dict) for key in ("settings", "chunking"))
        and isinstance(parts, list) and all(_has_files(part, "name") for part in parts)
        and all(_is_optional_file(manifest.get(key)) for key in ("deleted", "sources", "tokenizer"))
        and isinstance(indexes, dict)
        and all(_has_files(record, "folder") and isinstance(record.get("made_by"), dict) for record in indexes.values())
    )


def _has_files(record: Any, name: str) -> bool:
    return (
        isinstance(record, dict)
        and _is_plain(record.get(name))
        and isinstance(record.get("files"), dict)
        # plain names only: a manifest must not lead out of its folder
        and all(all(map(_is_plain, key.split("/"))) and _is_file(file) for key, file in record["files"].items())
    )


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None


def _is_optional_file(record: Any) -> bool:
    return record is None or (_is_file(record) and _is_plain(record.get("name")))


def _is_file(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("bytes")) is int and isinstance(record.get("sha256"), str)

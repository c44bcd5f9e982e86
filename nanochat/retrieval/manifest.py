"""manifest.json of a knowledge base: what is in the folder, and whether it is what was written."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nanochat
from nanochat.errors import KnowledgeBaseError, KnowledgeBaseNotFound
from nanochat.retrieval.base import RETRIEVERS

FORMAT = "nanochat-knowledge-base"
VERSION = 1
# files up to this size are hashed whenever they are opened; `KnowledgeBase.verify` hashes all
HASHED_ON_OPEN_BYTES = 16_000_000
_PLAIN_NAME = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9_.-]*")


def make_manifest(
    folder: Path, retriever_type: str, num_documents: int, indexes: Mapping[str, Any], *, chunk_words: int = 0
) -> dict[str, Any]:
    """The manifest of a folder whose documents.jsonl and indexes are written. It holds no time and no machine."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"nanochat-rag {nanochat.__version__}",
        "retriever_type": retriever_type,
        "num_documents": num_documents,
        "chunk_words": chunk_words,
        "documents": file_record(folder / "documents.jsonl"),
        "indexes": dict(indexes),
    }


def index_record(description: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the manifest says about one index: what it was made by, and its files."""
    return {"made_by": dict(description), "files": {path.name: file_record(path) for path in sorted(folder.iterdir())}}


def file_record(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check_file(path: Path, name: str, record: Mapping[str, Any], *, always_hash: bool) -> None:
    """Raise KnowledgeBaseError unless the file of the knowledge base at `path` is as recorded."""
    file = path / name
    if not file.is_file():
        raise damaged(path, f"{name} is missing")
    if file.stat().st_size != record["bytes"]:
        raise damaged(path, f"{name} has {file.stat().st_size} bytes instead of {record['bytes']}")
    if (always_hash or record["bytes"] <= HASHED_ON_OPEN_BYTES) and file_record(file) != record:
        raise damaged(path, f"{name} is not what was written (its hash differs)")


def _not_found(path: Path) -> KnowledgeBaseNotFound:
    problem = f"Knowledge base not found: {path}"
    build = "build it: python -m nanochat.retrieval --documents"
    if path.is_file():
        hint = f"{build} {path} --output data/my_kb --type simple"
        return KnowledgeBaseNotFound(f"{problem} (it is a file)", hint=hint)
    if (path / "knowledge_base" / "manifest.json").is_file():
        # prepare_rag_dataset writes its knowledge base inside the output folder
        return KnowledgeBaseNotFound(f"{problem} (the folder has no manifest.json)",
                                     hint=f"it is inside: --knowledge_base {path / 'knowledge_base'}")
    problem += " (the folder has no manifest.json)" if path.is_dir() else ""
    return KnowledgeBaseNotFound(problem, hint=f"{build} my_documents.jsonl --output {path} --type simple")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the knowledge base at `path`, its form checked."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise _not_found(path) from missing
    except OSError as error:
        raise KnowledgeBaseError(
            f"Knowledge base {path} cannot be read: {error.strerror or error}",
            hint="check the permissions of the folder",
        ) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"manifest.json is not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise KnowledgeBaseNotFound(
            f"Knowledge base not found: {path} (its manifest.json belongs to something else)",
            hint="name the folder that python -m nanochat.retrieval wrote",
        )
    version = manifest.get("version")
    if isinstance(version, int) and version > VERSION:
        raise KnowledgeBaseError(
            f"Knowledge base {path} has format version {version}, this program reads up to {VERSION}",
            hint="update nanochat-rag, or build the knowledge base again",
        )
    if not _has_form(manifest):
        raise damaged(path, "manifest.json is incomplete")
    return manifest


def _has_form(manifest: Mapping[str, Any]) -> bool:
    indexes = manifest.get("indexes")
    return (
        manifest.get("version") == VERSION
        and isinstance(manifest.get("retriever_type"), str)
        and isinstance(manifest.get("num_documents"), int)
        and _is_file_record(manifest.get("documents"))
        and isinstance(indexes, dict)
        and all(_PLAIN_NAME.fullmatch(name) and _is_index_record(record) for name, record in indexes.items())
    )


def _is_index_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("made_by"), dict)
        and isinstance(record.get("files"), dict)
        # plain names only: a manifest must not lead out of its folder
        and all(_PLAIN_NAME.fullmatch(name) and _is_file_record(file) for name, file in record["files"].items())
    )


def _is_file_record(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("bytes")) is int and isinstance(record.get("sha256"), str)


def damaged(path: Path, problem: str) -> KnowledgeBaseError:
    """The error for a knowledge base that is not as it was written."""
    source = "my_documents.jsonl" if "documents.jsonl" in problem else path / "documents.jsonl"
    return KnowledgeBaseError(
        f"Knowledge base {path} is damaged: {problem}",
        hint=f"build it again: python -m nanochat.retrieval --documents {source} --output {path}{_type_flag(path)}",
    )


def _type_flag(path: Path) -> str:
    """The flag for the type that a damaged folder was built with, as far as its manifest can still be read."""
    try:
        name = json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("retriever_type", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" --type {name}" if name in RETRIEVERS else ""

"""Folders and files into a list of files to read, each with the relative path that names its documents."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanochat.errors import DocumentError, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.table import READERS, kind_of

# what programs put beside their sources
_GENERATED = frozenset({"__pycache__", "node_modules"})
_NO_READER = "no reader for this kind of file"
# a folder with these names in it is a knowledge base, not documents
_KNOWLEDGE_BASES = ({"CURRENT", "versions", "parts"}, {"manifest.json", "documents.jsonl", "indexes"})


@dataclass(frozen=True)
class SourceFile:
    path: Path                            # where it is
    relative: str                         # its name in ids and metadata: relative to the folder given, with /
    kind: str = ""                        # its entry in READERS; empty where there is none
    problem: DocumentError | None = None  # why it will not be read


@dataclass(frozen=True)
class FileResult:
    file: SourceFile
    documents: list[Document]             # those that could be read, in order
    errors: list[UserError]               # what was skipped and why: DocumentError or MissingDependency


def find_files(paths: str | Path | Sequence[str | Path]) -> list[SourceFile]:
    """All files of the given files and folders: in the order given, those of a folder sorted by relative path.

    A file is named relative to the folder that was given, or by its name alone. Hidden files and folders, links out of
    the folder, links to folders, __pycache__, node_modules and knowledge bases are left out; a file that cannot be read
    as documents is listed with its problem. Raises DocumentError where a given path does not exist.
    """
    found: list[SourceFile] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if not path.exists():
            raise DocumentError(
                f"{path}: file not found",
                hint="check the path, or make an example file: "
                "python -m scripts.prepare_rag_dataset --mode example --output data/rag_examples",
            )
        if path.is_dir():
            found += sorted((_source(file, file.relative_to(path).as_posix()) for file in _walk(path, path.resolve())),
                            key=lambda file: file.relative)
        else:
            found.append(_source(path, path.name))
    return _without_clashes(found)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".") and entry.name not in _GENERATED]
    except OSError as error:
        raise DocumentError(
            f"{folder}: cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error
    names = {entry.name for entry in entries}
    if any(names >= marks for marks in _KNOWLEDGE_BASES):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root)
        elif not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root) and not entry.is_dir():
            yield Path(entry.path)


def _source(path: Path, relative: str) -> SourceFile:
    kind, problem = kind_of(path.name), None
    try:
        relative.encode("utf-8")
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except UnicodeEncodeError:
        relative = os.fsencode(relative).decode("utf-8", "replace")
        problem = DocumentError(f"{relative}: the file name is not UTF-8", hint="rename the file")
    except OSError as error:
        problem = DocumentError(f"{path}: cannot be read: {error.strerror or error}", hint="check its permissions")
    else:
        if not is_regular:
            problem = DocumentError(f"{path}: is not a regular file", hint="save it as a file first")
        elif not kind:
            problem = no_reader(path)
    return SourceFile(path, relative, kind, problem)


def skip_lines(skipped: Sequence[str], most: int = 10) -> list[str]:
    """What to print of the problems of a read: the first of those worth a look, the files of other kinds as a number.

    A folder holds many files that are no documents; a broken one must not be lost among them.
    """
    broken = [problem for problem in skipped if not problem.endswith(_NO_READER)]
    lines = [f"skipped {problem}" for problem in broken[:most]]
    if len(broken) > most:
        lines.append(f"and {len(broken) - most:,} more were skipped")
    if others := [problem for problem in skipped if problem.endswith(_NO_READER)]:
        lines.append(f"skipped {len(others):,} files without a reader, such as {others[0]}")
    return lines


def no_reader(path: Path) -> DocumentError:
    """The error for a file whose ending is not in READERS."""
    return DocumentError(
        f"{path}: {_NO_READER}",
        hint=f"readable endings, text also with .gz: {', '.join(READERS)}",
    )


def _without_clashes(files: list[SourceFile]) -> list[SourceFile]:
    """The same file once; of two files with one relative name, the second with that as its problem."""
    first: dict[str, SourceFile] = {}
    kept = []
    for file in files:
        other = first.setdefault(file.relative, file)
        if other is not file:
            if other.path.resolve() == file.path.resolve():
                continue
            problem = DocumentError(
                f"{file.path}: has the same relative name as {other.path}", hint="name the folder that holds both"
            )
            file = replace(file, problem=problem)
        kept.append(file)
    return kept

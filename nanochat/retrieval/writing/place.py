"""The folder of a knowledge base: made for a build, taken for a write, tidied up when one fails."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nanochat.errors import KnowledgeBaseError, UserError
from nanochat.retrieval.base import RETRIEVERS
from nanochat.retrieval.storage.locking import write_lock
from nanochat.retrieval.storage.manifest import damaged, first_format_type
from nanochat.retrieval.storage.snapshot import Snapshot
from nanochat.retrieval.storage.versions import read_current, remove_unneeded, version_numbers
from nanochat.retrieval.writing.writer import Writer

log = logging.getLogger(__name__)

OWN_NAMES = {"CURRENT", "CURRENT.tmp", "versions", "parts", "indexes", "encoders", "log.jsonl", "work", ".lock"}
_FIRST_FORMAT_NAMES = {"manifest.json", "documents.jsonl"}
Progress = Callable[[str], None] | None


def check_place(path: Path) -> None:
    """Refuse to build where anything but a knowledge base is."""
    if path.is_dir():
        found = set(os.listdir(path))
        own = OWN_NAMES | (_FIRST_FORMAT_NAMES if first_format_type(path) is not None else set())
        others = sorted(found - own)
        if not others and found and not found & {"CURRENT", ".lock", *_FIRST_FORMAT_NAMES}:
            # folders that are called like ours, but no writer of ours was ever here
            others = sorted(found)
        if others:
            raise KnowledgeBaseError(
                f"Refusing to replace {path}: it holds what is not part of a knowledge base, such as {others[0]}",
                hint=f"choose a new folder, e.g. --output {path / 'knowledge_base'}",
            )
    elif path.exists() or path.is_symlink():
        raise KnowledgeBaseError(f"Refusing to replace {path}: it is a file", hint="choose a new folder for --output")


@contextlib.contextmanager
def writing(
    path: Path, action: str, *, base: int | None = None, create: bool = False, wait: bool = False,
    progress: Progress = None,
) -> Iterator[Writer]:
    """Hold the lock and yield a Writer; on failure remove what it wrote. An OSError becomes a UserError.

    The write starts from the current version, from version `base`, or, with `create`, from nothing.
    """
    made: list[Path] = []
    try:
        if create:
            made = _make_folder(path)
        else:
            _newest(path, tolerant=base is not None)
        _refuse_links(path)
        with write_lock(path, action, wait=wait) as was_interrupted, contextlib.ExitStack() as stack:
            if create:
                # while the lock is held: what is there may else be another writer's
                stack.callback(_unmake, path, made)
            if was_interrupted or create or _has_uncommitted(path):
                _clean(path)
            newest = _newest(path, tolerant=create or base is not None)
            snapshot = None if create else Snapshot.open(path, base)
            if snapshot is not None:
                stack.callback(snapshot.close)
            try:
                yield Writer(path, action, snapshot, newest + 1, progress)
            except BaseException:
                _clean(path)
                raise
            _remove_first_format(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}",
            hint="choose a folder you may write to, with free space, e.g. --output data/my_kb; nothing was changed",
        ) from error
    finally:
        # the folder was made, but the lock not taken
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _make_folder(path: Path) -> list[Path]:
    """Make the folder and those above it that are missing; returns them, innermost first."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return made


def _unmake(path: Path, made: Sequence[Path]) -> None:
    """After a build that failed, and was tidied up: leave nothing behind but a journal to go on from."""
    if (path / "CURRENT").exists() or (path / "work").is_dir() and any((path / "work").iterdir()):
        return
    for folder in (path / "work", path / "parts", path / "indexes", path / "versions"):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        (path / ".lock").unlink()
        for folder in made:
            folder.rmdir()


def _newest(path: Path, *, tolerant: bool) -> int:
    """The highest version number that was ever given out; a damaged CURRENT is passed over if `tolerant`."""
    numbers = [0, *version_numbers(path)]
    if (path / "CURRENT").exists() or not tolerant:
        try:
            numbers.append(read_current(path)[0])
        except KnowledgeBaseError:
            if not tolerant:
                raise
    return max(numbers)


def _has_uncommitted(path: Path) -> bool:
    """Whether there is a version above the current one: the lock's text may not have outlived a power loss."""
    try:
        current, _ = read_current(path)
    except KnowledgeBaseError:
        return False
    return any(number > current for number in version_numbers(path))


def _clean(path: Path) -> None:
    # failing to tidy up must not hide why a write failed, nor stop a new one
    with contextlib.suppress(OSError, UserError):
        remove_unneeded(path)


def _remove_first_format(path: Path) -> None:
    """The files of a knowledge base of format 1 in whose place a new one was built."""
    if (path / "CURRENT").exists() and first_format_type(path) is not None:
        for name in _FIRST_FORMAT_NAMES:
            (path / name).unlink(missing_ok=True)
        for name in RETRIEVERS:
            shutil.rmtree(path / "indexes" / name, ignore_errors=True)


def _refuse_links(path: Path) -> None:
    for name in sorted(OWN_NAMES):
        if (path / name).is_symlink():
            raise damaged(path, f"{name} is a link, and might lead out of the folder")

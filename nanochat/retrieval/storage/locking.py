"""Locks of a knowledge base: one writer at a time, and versions that a reader has open are not pruned.

All are locks of the operating system on open files (flock): they end with their process, also when it is killed.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nanochat.errors import KnowledgeBaseError

# file systems that know no locks: there, writers must not meet and old versions are pruned at once
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def write_lock(path: Path, action: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the right to write; yields whether the last writer died before its end.

    A second writer gets a KnowledgeBaseError at once that names the first, or waits for it.
    """
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as busy:
            raise KnowledgeBaseError(
                f"Knowledge base {path} is being written{_holder(file)}",
                hint="wait for it to end, or stop that process; reading goes on as ever",
            ) from busy
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        # a writer empties the file at its end: text in it was left by one that died
        was_interrupted = os.fstat(file.fileno()).st_size > 0
        holder = {"pid": os.getpid(), "action": action, "since": time.strftime("%H:%M:%S")}
        _replace_text(file, json.dumps(holder))
        try:
            yield was_interrupted
        finally:
            with contextlib.suppress(OSError):
                _replace_text(file, "")
            with contextlib.suppress(OSError):
                # closing is not enough: a process forked meanwhile has the file open, too
                fcntl.flock(file, fcntl.LOCK_UN)


def _replace_text(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        holder = json.loads(file.read(1000))
        return f" by process {holder['pid']} (kb {holder['action']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        # the other one has not written its name yet
        return " by another process"


def read_lock(file: IO[bytes]) -> bool:
    """Mark an open version file as in use until it is closed; False if the version has just been pruned."""
    try:
        # waits for an instant where someone prunes, or asks which versions are in use
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return os.fstat(file.fileno()).st_nlink > 0


@contextlib.contextmanager
def unused(files: list[Path]) -> Iterator[list[Path]]:
    """Yield those of the version files that nobody reads; nobody can begin to until the end."""
    with contextlib.ExitStack() as held:
        free = []
        for name in files:
            file = held.enter_context(open(name, "rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            free.append(name)
        yield free

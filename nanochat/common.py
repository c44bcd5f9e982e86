"""What every room needs: where files live, whole-or-nothing writes, printing on rank 0, running a script's main."""

import contextlib
import ctypes
import glob
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.errors import UserError

ABANDONED_S = 86_400.0  # age of what killed processes left


def base_dir() -> Path:
    """Folder for checkpoints and tokenizers: $NANOCHAT_BASE_DIR, or ~/.cache/nanochat-rag."""
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat-rag")


def rank() -> int:
    """This process's number under torchrun, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun started, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print0(*parts: object) -> None:
    """Print on rank 0 only, at once."""
    if rank() == 0:
        print(*parts, flush=True)


def return_memory() -> bool:
    """Give what was freed back to the system, where the C library keeps it (glibc); whether there was any.

    It keeps holes between blocks that are in use: with tensors of changing size they grow for hours.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False


def sync_path(path: Path) -> None:
    """Put a file's content, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders of one file system in a single step (renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def unwritable(path: Path, error: OSError) -> UserError:
    """What to raise for a path that cannot be written, such as on a full disk."""
    blocking = next((parent for parent in path.parents if parent.is_file()), None)
    reason = f"{blocking} is a file, not a folder" if blocking else error.strerror or error
    return UserError(f"Cannot write {path}: {reason}", hint="choose a folder you may write to, with free space")


def check_output(path: str | Path, *, flag: str, is_folder: bool = False) -> None:
    """Refuse a file, or a folder, that could not be written, before the work is done. Raises UserError naming why."""
    path = Path(path)
    places = [path, *path.parents] if is_folder else list(path.parents)
    for place in places:
        if place.is_file():
            instead = Path(f"{place}_new") / path.relative_to(place)
            raise UserError(f"Cannot write {path}: {place} is a file, not a folder",
                            hint=f"name another place: {flag} {instead}")
    if not is_folder and path.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder", hint=f"name a file in it: {flag} {path / 'NAME.json'}")
    nearest = next(place for place in places if place.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write {path}: {nearest} may not be written to",
                        hint=f"choose a folder you may write to: {flag} ...")


@contextlib.contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder; on success it replaces `path` by rename, on failure nothing changes.

    An existing folder at `path` changes places with the new one in a single step where the system can do that (Linux),
    so that a crash leaves one of them complete; elsewhere it is moved aside first. Raises UserError when the parent
    cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        for name in temporary.rglob("*"):
            # some writers, such as safetensors, make files that only the owner can read
            os.chmod(name, 0o755 if name.is_dir() else 0o644)
            sync_path(name)
        sync_path(temporary)
        os.chmod(temporary, 0o755)
        if not path.exists():
            os.rename(temporary, path)
        elif not _exchange(temporary, path):
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.rename(path, old / path.name)
            os.rename(temporary, path)
            shutil.rmtree(old)
        sync_path(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of `path`: temporary folders in which nothing has changed for a day."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            latest = max(one.lstat().st_mtime for one in (left, *left.rglob("*")))
            if latest < time.time() - ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file beside `path` and rename it into place. Raises UserError when the folder cannot be written."""
    write_lines(path, [text])


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """`write_text` for texts that come one after another and need not fit into memory."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, whole or not at all."""
    write_lines(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def run_main(main: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Run a script's main: a UserError becomes two lines on standard error and exit code 2, Ctrl-C becomes 130."""
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        if rank() == 0:
            print(f"Error: {error.problem}", file=sys.stderr)
            if error.hint:
                print(f"  hint: {error.hint}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader, such as head, has seen enough; what Python still holds for it goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

"""Compiling native.c for this machine on first use; without a working compiler there is no library, and no harm."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import base_dir

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")
# the first that works: with threads, for exactly this processor
CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
TIMEOUT_S = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """The compiled functions, or why there are none."""

    functions: ctypes.CDLL | None
    reason: str


def library() -> Library:
    """The library of this machine, compiled if it is not there yet (some seconds, once per machine and version).

    Failures are remembered in a file beside it: a broken compiler is not tried again by every process.
    """
    if os.environ.get("NANOCHAT_NATIVE") == "0":
        return Library(None, "switched off by NANOCHAT_NATIVE=0")
    return _found()


@functools.cache
def _found() -> Library:
    try:
        return _load(_cached())
    except (OSError, subprocess.SubprocessError, AttributeError, ValueError) as error:
        log.debug("no native path: %s", error)
        return Library(None, f"{type(error).__name__}: {error}")


def _cached() -> Path:
    """The path of the library, made whole or not at all. Raises OSError or SubprocessError when it cannot be."""
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("no C compiler found (cc, gcc or clang, or the one that CC names)")
    folder = base_dir() / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{_key(compiler)}.so"
    failure = path.with_suffix(".failed")
    if path.exists():
        return path
    if failure.exists():
        raise OSError(f"{failure.read_text(encoding='utf-8')} (delete {failure} to try again)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build") as temporary:
        made = Path(temporary) / path.name
        try:
            _compile(compiler, made)
        except (OSError, subprocess.SubprocessError) as error:
            note = Path(temporary) / failure.name
            note.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            os.replace(note, failure)
            raise
        os.chmod(made, 0o700)
        # two processes may build at once: each puts a whole file in place
        os.replace(made, path)
    return path


def find_compiler() -> list[str] | None:
    """The command that compiles C: what CC says, else cc, gcc or clang; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _compile(compiler: list[str], target: Path) -> None:
    problem = ""
    for choice in CHOICES:
        command = [*compiler, *FLAGS, *choice, str(SOURCE), "-o", str(target), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        if done.returncode == 0 and target.exists():
            return
        problem = problem or f"{shlex.join(command[:-4])} failed: {done.stderr.strip()[-300:]}"
        log.debug("%s: %s", shlex.join(command), done.stderr)
    raise subprocess.SubprocessError(problem)


def _key(compiler: list[str]) -> str:
    """A name for what the result depends on: sources, flags, compiler and processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=TIMEOUT_S,
                             stdin=subprocess.DEVNULL).stdout
    digest = hashlib.sha256()
    sources = sorted(SOURCE.parent.glob("native*.[ch]"))
    for part in (*(path.read_bytes() for path in sources), repr((compiler, FLAGS, CHOICES)).encode(), version,
                 _processor().encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"native-{digest.hexdigest()[:24]}"


def _processor() -> str:
    """What distinguishes processors that need code of their own."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return "\n".join([platform.machine(), platform.processor(), *(line for line in lines if line.startswith(names))])


def _load(path: Path) -> Library:
    """Raises OSError for a file that others could have written, or that is no library."""
    if hasattr(os, "getuid"):
        status = path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise OSError(f"{path} is not this user's alone")
    functions = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.native_scratch.argtypes = [pointer, number, number, number]
    functions.native_forward.argtypes = [*5 * [pointer], number, number, pointer, pointer, number]
    functions.native_linear.argtypes = [pointer, number, pointer, number, number, pointer, number]
    functions.native_linear.restype = None
    for name in ("native_scratch", "native_forward", "native_most_tokens", "native_has_threads"):
        getattr(functions, name).restype = number
    return Library(functions, f"{path}, {'' if functions.native_has_threads() else 'without '}threads")

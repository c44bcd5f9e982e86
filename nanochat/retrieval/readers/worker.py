"""A process that parses foreign files, so that a hang, a crash or a memory bomb costs one file and nothing else.

Parent and worker speak JSON lines over pipes. The worker is a plain command (`python -m`), not a copy of the caller: it
never runs the caller's main module, and what it holds cannot leak into it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanochat.errors import DocumentError, MissingDependency, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.files import FileResult, SourceFile

_ERRORS = {"MissingDependency": MissingDependency}
OUT_OF_MEMORY = 77  # exit code of a worker that met its memory limit


@dataclass(frozen=True)
class Limits:
    timeout_s: float = 60   # for one file
    memory_mb: int = 1024   # address space of the worker; not enforced where the system has no setrlimit


class Worker:
    """One process, started with the first file and again after it failed. One thread reads; any may stop it."""

    def __init__(self, limits: Limits, command: Sequence[str] = ()) -> None:
        self.limits = limits
        self.command = command or (
            sys.executable, "-m", "nanochat.retrieval.readers.child", str(limits.memory_mb), str(limits.timeout_s)
        )
        self.process: subprocess.Popen[str] | None = None
        self.complaints: IO[bytes] | None = None
        self.is_stopped = False
        self.lock = threading.Lock()

    def read(self, file: SourceFile) -> FileResult:
        """The documents and errors of a file; a parser that fails or exceeds its limits is an error of the file."""
        documents: list[Document] = []
        errors: list[UserError] = []
        expired = threading.Event()
        process = self._running()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(self.limits.timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            is_complete = _exchange(process, file, documents, errors)
        finally:
            timer.cancel()
        if is_complete and not expired.is_set():
            return FileResult(file, documents, errors)
        if not expired.is_set():
            # it went away by itself: its exit code says why
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        complaint = self.clear()
        if is_complete:
            return FileResult(file, documents, errors)
        problem = self._explain(process, expired.is_set(), complaint)
        errors.append(DocumentError(f"{file.path}: {problem}", hint="open it in its program and save it again"))
        return FileResult(file, [], errors)

    def stop(self) -> None:
        """End the process now and for good; a file that is being read ends in an error."""
        with self.lock:
            self.is_stopped = True
            if self.process:
                self.process.kill()

    def clear(self) -> str:
        """Forget the process, which must not live on; returns the last line it wrote to standard error."""
        process, complaints = self.process, self.complaints
        self.process = self.complaints = None
        last = ""
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        if complaints:
            complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 2000))
            lines = complaints.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            complaints.close()
        return last

    def _running(self) -> subprocess.Popen[str]:
        with self.lock:
            assert not self.is_stopped, "a stopped worker was asked to read"
            if self.process:
                return self.process
            # the caller's nanochat, wherever it was imported from
            home = str(Path(__file__).parents[3])
            paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
            self.complaints = tempfile.TemporaryFile()
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True,
                encoding="ascii", env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            return self.process

    def _explain(self, process: subprocess.Popen[str], is_expired: bool, complaint: str) -> str:
        if is_expired:
            return f"not read within {self.limits.timeout_s:g} seconds"
        code = process.returncode
        if code == OUT_OF_MEMORY or "MemoryError" in complaint:
            return f"needs more than {self.limits.memory_mb:,} MB of memory"
        return f"its parser failed ({complaint[:200] or (f'signal {-code}' if code < 0 else f'exit code {code}')})"


def _exchange(
    process: subprocess.Popen[str], file: SourceFile, documents: list[Document], errors: list[UserError]
) -> bool:
    """Ask the worker for a file and collect its answers; False where it went away before the last one."""
    with contextlib.suppress(BrokenPipeError, ValueError):
        process.stdin.write(json.dumps({"path": str(file.path), "relative": file.relative, "kind": file.kind}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "document" in answer:
                documents.append(Document(**answer["document"]))
            elif "error" in answer:
                name, problem, hint = answer["error"]
                errors.append(_ERRORS.get(name, DocumentError)(problem, hint=hint))
            else:
                return True
    return False

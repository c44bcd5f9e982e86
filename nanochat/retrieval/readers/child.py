"""The other end of `worker`: reads files by name until its input ends, within limits of memory (MiB) and time (s).

    python -m nanochat.retrieval.readers.child 1024 60
"""

import json
import logging
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError, UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.files import SourceFile
from nanochat.retrieval.readers.table import READERS
from nanochat.retrieval.readers.worker import OUT_OF_MEMORY


def main(memory_mb: int, timeout_s: float) -> int:
    _limit_memory(memory_mb)
    # parsers have much to say about bad files; we say it once
    logging.disable()
    # what a parser prints must not end up between our lines
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    for line in sys.stdin:
        task = json.loads(line)
        if hasattr(signal, "alarm"):
            # the parent keeps time; this is for the case that it was killed
            signal.alarm(math.ceil(timeout_s) + 10)
        try:
            _read(SourceFile(Path(task["path"]), task["relative"], task["kind"]), say)
        except MemoryError:
            # at once: there is no room to clean up
            os._exit(OUT_OF_MEMORY)
        answers.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return 0


def _read(file: SourceFile, say: Any) -> None:
    count = 0
    try:
        for _, entry in READERS[file.kind](file.path, file.relative):
            count += 1
            if isinstance(entry, Document):
                say(document=entry.to_dict())
            else:
                say(error=[type(entry).__name__, entry.problem, entry.hint])
    except UserError as error:
        count += 1
        say(error=[type(error).__name__, error.problem, error.hint])
    if not count:
        missing = DocumentError(f"{file.path}: holds no documents", hint="remove it, or write something into it")
        say(error=["DocumentError", missing.problem, missing.hint])
    say(done=True)


def _limit_memory(memory_mb: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:
        return
    size = memory_mb << 20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > size:
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), float(sys.argv[2])))

"""Conversations from a local file: one {"messages": [...]} per line, .jsonl or .jsonl.gz."""

import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.conversation import check_conversation
from nanochat.errors import ConfigError, ConversationError, DocumentError
from tasks.reading import PLAIN, Reading

_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_UTF8 = "give plain text; other encodings become UTF-8 with: iconv -f latin1 -t utf-8 FILE"


class JsonlTask(Sequence):
    """Conversations of one file, in file order."""

    def __init__(self, conversations: Sequence[Mapping[str, Any]]) -> None:
        self._conversations = conversations

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "JsonlTask":
        """At most `samples` conversations of the file (0: all), chosen by the seed; only those chosen are parsed.

        Raises DocumentError or ConversationError, starting with file:line, and DocumentError for a file without any.
        """
        if not path:
            raise ConfigError("The task Jsonl needs a file", hint="name it after a colon: Jsonl:data/chats.jsonl")
        chosen = sample(read_lines(path), samples, seed)
        conversations = [parse_conversation(line, where=where) for where, line in chosen]
        if not conversations:
            raise DocumentError(f"{path} is empty", hint=f"each line needs {_FORM}")
        return cls(conversations)

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index):
        return self._conversations[index]


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:line", line) of every line that is not blank; .gz is unpacked. Raises DocumentError with file:line."""
    path = Path(path)
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                # a byte order mark may open the file
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield f"{path}:{number}", text
    except FileNotFoundError as error:
        raise DocumentError(f"File not found: {path}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}:{number}: not UTF-8 ({error.reason})", hint=_UTF8) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DocumentError(f"{path}:{number + 1}: damaged ({error})", hint=f"try: gzip -t {path}") from error
    except OSError as error:
        raise DocumentError(f"Cannot read {path}: {error.strerror or error}", hint="name one text file") from error


def parse_record(line: str, *, where: str) -> dict[str, Any]:
    """The JSON object of one line. Raises DocumentError starting with `where`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not valid JSON ({error})", hint="each line is one JSON object") from error
    if not isinstance(record, dict):
        raise DocumentError(f"{where}: not a JSON object but {record!r:.40}", hint="each line is one JSON object")
    return record


def parse_conversation(line: str, *, where: str) -> dict[str, Any]:
    """The legal conversation of one line. Raises DocumentError or ConversationError starting with `where`."""
    record = parse_record(line, where=where)
    try:
        check_conversation(record)
    except ConversationError as error:
        raise ConversationError(f"{where}: {error.problem}", hint=error.hint or f"each line needs {_FORM}") from error
    return record


def sample(lines: Iterable[Any], samples: int, seed: int) -> list[Any]:
    """At most `samples` of the lines (0: all), each as likely as any other, in file order (reservoir sampling)."""
    if samples == 0:
        return list(lines)
    generator = random.Random(seed)
    chosen: list[tuple[int, Any]] = []
    for i, line in enumerate(lines):
        if i < samples:
            chosen.append((i, line))
        elif (place := generator.randrange(i + 1)) < samples:
            chosen[place] = (i, line)
    return [line for _, line in sorted(chosen)]

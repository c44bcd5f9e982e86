"""Answers kept on disk cell by cell while a suite runs, so that one that was interrupted goes on where it stopped."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.common import write_jsonl
from nanochat.errors import UserError
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite.prompts import Prompt

CELLS = "cells"          # folder beside the report
SCHEMA = "nanochat-rag-cell"
_FILES = "[0-9][0-9][0-9][0-9]_*.jsonl"
_HALF_WRITTEN = "tmp*.tmp"   # what kill -9 leaves of a file
# what judging reads of an engine's info, beside documents and citations
_INFO = ("answer", "abstained", "answer_probability", "dropped", "num_prompt_tokens", "num_tokens")

Answer = tuple[str, Mapping[str, Any]]


class Kept:
    """The finished cells of one run, a file each: who was asked, and by a digest of the prompt, what was answered.

    run: all that answers depend on, as JSON values; cells of other runs are removed. Raises UserError for a file that
    cannot be read.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._run = _sha256(run)
        self._answers: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.num_taken_up = self.num_removed = 0
        for path, (header, *records) in _cells(self.folder):
            if header["run"] != self._run:
                path.unlink()
                self.num_removed += 1
                continue
            self._answers |= {(header["asker"], record["prompt"]): record for record in records}
            self.num_taken_up += 1
        self._num_files = self.num_taken_up

    def find(self, asker: str, prompt: Prompt) -> Answer | None:
        """What an engine answered to a prompt, as `judge` takes it; None where it was not asked."""
        record = self._answers.get((asker, _sha256(prompt.key)))
        if record is None:
            return None
        documents = [one if isinstance(one, Mapping) else prompt.documents[one] for one in record["documents"]]
        return record["text"], {**record["info"], "documents": documents}

    def keep(self, asker: str, cell: str, answers: Sequence[tuple[Prompt, Answer]]) -> None:
        """Write the answers of a cell, whole or not at all. Raises UserError where that is not possible."""
        self._num_files += 1
        name = re.sub(r"\W+", "_", f"{asker} {cell}").strip("_")[:100]
        header = {"schema": SCHEMA, "run": self._run, "asker": asker, "cell": cell}
        write_jsonl(self.folder / f"{self._num_files:04d}_{name}.jsonl",
                    [header, *(_record(prompt, *answer) for prompt, answer in answers)])


def remove_kept(folder: str | Path) -> None:
    """Remove all cells, and the folder if nothing else is in it."""
    for path in [*Path(folder).glob(_HALF_WRITTEN), *(path for path, _ in _cells(Path(folder)))]:
        path.unlink()
    # somebody else's files stay
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def digest_of(questions: Sequence[EvalQuestion]) -> str:
    """SHA-256 of all that questions say."""
    return _sha256([vars(one) for one in questions])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _record(prompt: Prompt, text: str, info: Mapping[str, Any]) -> dict[str, Any]:
    given = list(prompt.documents or ())
    # most were shown as they are: their place says it all
    documents = [given.index(one) if one in given else dict(one) for one in info["documents"]]
    kept = {name: info[name] for name in _INFO if name in info}
    citations = [{"number": one["number"], "id": one["id"]} for one in info["citations"]]
    return {"prompt": _sha256(prompt.key), "text": text, "info": {**kept, "citations": citations},
            "documents": documents}


def _cells(folder: Path) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Files of cells in a folder, in the order of their making, with their lines."""
    found = []
    for path in sorted(folder.glob(_FILES)):
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}", hint=f"remove it: rm {path}") from error
        if lines and isinstance(lines[0], Mapping) and lines[0].get("schema") == SCHEMA:
            found.append((path, lines))
    return found

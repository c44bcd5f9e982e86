"""What a model must reach, from a file written before the run, and whether it does."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import UserError
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.suite.names import is_number, nearest_number

SCHEMA = "nanochat-rag-thresholds"
DEFAULT = Path(__file__).with_name("thresholds.json")
_HINT = f"copy {DEFAULT.name} of nanochat/evaluation/suite and change it"


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One line of the file."""

    number: str                  # as in results.json: "fresh.retrieved.exact_match"
    at_least: float | None = None
    at_most: float | None = None
    says: str = ""               # what passing means, in words

    @property
    def bound(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def holds(self, value: float) -> bool:
        # sums of thirds and tenths must not decide
        if self.at_least is not None:
            return value >= self.at_least - 1e-9
        return value <= self.at_most + 1e-9


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    lines: Sequence[Threshold]
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One threshold held against one number."""

    threshold: Threshold
    estimate: Estimate | None    # None: not measured in this run

    @property
    def outcome(self) -> str:
        """"pass", "fail" or "not measured"."""
        if self.estimate is None:
            return "not measured"
        return "pass" if self.threshold.holds(self.estimate.value) else "fail"

    @property
    def is_clear(self) -> bool:
        """The whole interval lies on the same side of the threshold as the value.

        Where nothing less than all, or nothing at all, will do, one case decides, and no interval can.
        """
        if self.estimate is None:
            return False
        if self.threshold.at_least == 1 or self.threshold.at_most == 0:
            return True
        sides = {self.threshold.holds(value) for value in (self.estimate.low, self.estimate.value, self.estimate.high)}
        return len(sides) == 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "number": self.threshold.number, "says": self.threshold.says, "bound": self.threshold.bound,
            "outcome": self.outcome, "is_clear": self.is_clear,
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
        }


def read_thresholds(path: str | Path = "") -> Thresholds:
    """The thresholds of a file, or those of this project. Raises UserError that names the file and what is wrong."""
    path = Path(path) if path else DEFAULT
    try:
        data = path.read_bytes()
        record = json.loads(data)
    except FileNotFoundError as error:
        raise UserError(f"Thresholds not found: {path}", hint=_HINT) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}", hint=_HINT) from error
    lines = record.get("lines") if isinstance(record, Mapping) and record.get("schema") == SCHEMA else None
    if not isinstance(lines, list) or not lines:
        raise UserError(f'{path}: it needs "schema": "{SCHEMA}" and a list of "lines"', hint=_HINT)
    return Thresholds(lines=[_line(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)],
                      path=path.name if path == DEFAULT else str(path), sha256=hashlib.sha256(data).hexdigest())


def _line(line: Any, where: str) -> Threshold:
    if not isinstance(line, Mapping) or not isinstance(line.get("number"), str):
        raise UserError(f'{where}: "number" is missing', hint='for example "number": "fresh.lift"')
    bounds = {name: line[name] for name in ("at_least", "at_most") if name in line}
    if len(bounds) != 1 or not all(type(value) in (int, float) and math.isfinite(value) for value in bounds.values()):
        raise UserError(f'{where}: one of "at_least" and "at_most" is needed, as a number', hint='"at_least": 0.9')
    if not is_number(line["number"]):
        raise UserError(f"{where}: there is no number {line['number']!r}; the nearest is "
                        f"{nearest_number(line['number'])!r}", hint="results.json of any run lists the numbers, "
                        "docs/evaluation.md says what they are")
    return Threshold(number=line["number"], says=str(line.get("says", "")), **bounds)


def judge_numbers(thresholds: Thresholds, numbers: Mapping[str, Estimate | None]) -> list[Verdict]:
    """Every line of the file held against the numbers of a run."""
    return [Verdict(threshold=line, estimate=numbers.get(line.number)) for line in thresholds.lines]

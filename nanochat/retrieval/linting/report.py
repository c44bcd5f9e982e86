"""The report of a linting run: findings per check, as a table, as JSON, as an HTML page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat.retrieval.linting.findings import SEVERITIES, Finding, LintLimits, Severity

_SHOWN_IDS = 3


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """What linting found. Counts are documents, but for "unreadable", which counts lines or files."""

    findings: tuple[Finding, ...]     # one per check, also those that found nothing
    num_documents: int
    num_words: int
    lengths: tuple[int, int, int]     # words of the shortest, the middle and the longest document
    limits: LintLimits
    seconds: float

    @property
    def worst(self) -> Severity | None:
        """The highest severity of what was found, None when nothing was."""
        found = {finding.severity for finding in self.findings if finding.count}
        return max(found, key=SEVERITIES.index, default=None)

    @property
    def found(self) -> list[Finding]:
        """The findings there are, worst and most frequent first."""
        return sorted((finding for finding in self.findings if finding.count),
                      key=lambda finding: (-SEVERITIES.index(finding.severity), -finding.count, finding.name))

    @property
    def not_run(self) -> list[Finding]:
        """The checks that could not run; `note` says why."""
        return [finding for finding in self.findings if finding.note]

    @property
    def is_clean(self) -> bool:
        """Nothing worse than info was found."""
        return self.worst in (None, "info")

    def __getitem__(self, name: str) -> Finding:
        """The result of one check."""
        return next(finding for finding in self.findings if finding.name == name)

    def count(self, severity: Severity) -> int:
        """How many findings of a severity there are; a document may have several."""
        return sum(finding.count for finding in self.findings if finding.severity == severity)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "documents": self.num_documents,
            "words": {"total": self.num_words, **dict(zip(("least", "median", "most"), self.lengths, strict=True))},
            "worst": self.worst,
            "counts": {severity: self.count(severity) for severity in reversed(SEVERITIES)},
            "findings": [
                {"name": finding.name, "severity": finding.severity, "meaning": finding.meaning,
                 "advice": finding.advice, "count": finding.count, "ids": list(finding.ids),
                 "examples": [{"id": name, "text": text} for name, text in finding.examples]}
                for finding in self.found
            ],
            "passed": [finding.name for finding in self.findings if not finding.count and not finding.note],
            "not_run": {finding.name: finding.note for finding in self.not_run},
            "limits": asdict(self.limits),
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> str:
        """The report as lines of text."""
        least, median, most = self.lengths
        lines = [f"{self.num_documents:,} documents, {self.num_words:,} words "
                 f"(least {least:,}, median {median:,}, most {most:,})"]
        rows = [(finding.severity, finding.name, f"{finding.count:,}", finding.meaning, _first_ids(finding.ids))
                for finding in self.found]
        if rows:
            lines.append(_aligned([("severity", "check", "count", "meaning", "first ids"), *rows]))
        passed = sum(not finding.count and not finding.note for finding in self.findings)
        lines.append(f"{passed} of {len(self.findings)} checks found nothing")
        lines += [f"not run: {finding.name}: {finding.note}" for finding in self.not_run]
        return "\n".join(lines)

    def html(self, title: str = "Documents") -> str:
        """One page without scripts and other files."""
        from nanochat.retrieval.linting.page import render_page

        return render_page(self, title)


def _first_ids(ids: Sequence[str]) -> str:
    shown = [_plain(name) for name in ids[:_SHOWN_IDS]]
    return ", ".join(shown) + (", ..." if len(ids) > _SHOWN_IDS else "")


def _plain(name: str) -> str:
    # an id may hold what a terminal would obey
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= 40 else text[:37] + "..."


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) if place == 2 else cell.ljust(width)
                         for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )

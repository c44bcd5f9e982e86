"""What base_eval measures of one checkpoint, as a table for people and a record for files; paired with another one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from nanochat.errors import DocumentError
from nanochat.evaluation.cloze import ClozeItem, cloze_scores
from nanochat.evaluation.probes import PROBES, make_examples
from nanochat.evaluation.sequences import TextBits, ratio, score, text_bits
from nanochat.evaluation.statistics import Estimate, bootstrap_mean, paired_difference


class LanguageReport:
    """Measures one model; results lie in `texts`, `probes` and `cloze`."""

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, *, row_len: int, context: int, seed: int = 0
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.row_len, self.context, self.seed = row_len, context, seed
        self.texts: dict[str, TextBits] = {}
        self.probes: dict[str, list[float]] = {}  # "probe, case" -> share of right tokens of each example
        self.cloze: dict[str, list[float]] = {}  # file -> 1.0 for each right item
        self.skipped: list[str] = []  # probes that this model cannot do

    def read_texts(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Bits per byte of each named list of documents. Raises DocumentError for one without text."""
        for path, documents in texts.items():
            if not any(documents):
                raise DocumentError(f"No text in {path}: the file is empty", hint="each line needs content or text")
            self.texts[path] = text_bits(self.model, self.tokenizer, documents, row_len=self.row_len,
                                         context=self.context)

    def run_probes(self, names: Sequence[str], num_examples: int) -> None:
        """Each named probe at each of its difficulties that the model can read."""
        for name in names:
            for case in PROBES[name].cases:
                label = f"{name}, {PROBES[name].label(*case)}"
                examples = make_examples(name, case, self.tokenizer, count=num_examples, max_len=self.row_len,
                                         seed=self.seed)
                if not examples:
                    self.skipped.append(label)
                    continue
                results = score(self.model, examples, group=self.tokenizer.doc_ids)
                self.probes[label] = [float(scores.is_right.mean()) for scores in results]

    def answer_cloze(self, sets: Mapping[str, Sequence[ClozeItem]]) -> None:
        """Each named set of prompts and answers."""
        for path, items in sets.items():
            self.cloze[path] = cloze_scores(self.model, self.tokenizer, items, max_len=self.row_len)

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Kind -> name -> number with its interval."""
        means = {kind: {name: bootstrap_mean(values, seed=self.seed) for name, values in results.items()}
                 for kind, results in (("probes", self.probes), ("cloze", self.cloze))}
        return {"bits_per_byte": {path: bits.bits_per_byte(seed=self.seed) for path, bits in self.texts.items()},
                **means}

    def differences(self, other: "LanguageReport") -> dict[str, dict[str, Estimate]]:
        """This less the other, on the same documents and examples, as in `estimates`."""
        texts = {path: ratio(bits.bits - other.texts[path].bits, bits.num_bytes, seed=self.seed)
                 for path, bits in self.texts.items()}
        pairs = {kind: {name: paired_difference(values, theirs[name], seed=self.seed) for name, values in mine.items()
                        if len(theirs.get(name, ())) == len(values)}
                 for kind, mine, theirs in (("probes", self.probes, other.probes), ("cloze", self.cloze, other.cloze))}
        return {"bits_per_byte": texts, **pairs}

    def to_dict(self, other: "LanguageReport | None" = None) -> dict[str, Any]:
        """A record for JSON; with the other checkpoint and the differences when there is one."""
        record = {
            "checkpoint": self.name, "row_len": self.row_len, "context": self.context,
            "texts": {path: {"documents": len(bits.bits), "bytes": int(bits.num_bytes.sum()),
                             "tokens": bits.num_tokens} for path, bits in self.texts.items()},
            **_plain(self.estimates()), "not_run": self.skipped,
        }
        if other is not None:
            record |= {"other": other.to_dict(), "differences": _plain(self.differences(other))}
        return record


def _plain(table: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    return {kind: {name: estimate.to_dict() for name, estimate in row.items()} for kind, row in table.items()}


def console_table(report: LanguageReport, other: LanguageReport | None = None) -> str:
    """Every number with its 95 % interval; with another checkpoint its numbers, and the difference of each pair."""
    rows = [["", report.name, *([other.name, "difference"] if other else [])]]
    mine, theirs = report.estimates(), other.estimates() if other else {}
    gaps = report.differences(other) if other else {}
    titles = {"bits_per_byte": "bits per byte", "probes": "share of right tokens", "cloze": "share of right answers"}
    for kind, title in titles.items():
        if mine[kind]:
            rows.append([title])
        for name, estimate in mine[kind].items():
            cells = [_cell(theirs[kind].get(name)), _cell(gaps[kind].get(name), signed=True)] if other else []
            rows.append([f"  {name}", _cell(estimate), *cells])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    if report.skipped:
        lines.append(f"not run, too long for rows of {report.row_len} tokens: {'; '.join(report.skipped)}")
    return "\n".join(lines)


def _cell(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None or not np.isfinite(estimate.value):
        return "-"
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"

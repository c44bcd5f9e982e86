"""The report of an evaluation: console table, JSON, Markdown, a page and a plot, all from the same numbers."""

import html
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat.common import write_json, write_jsonl, write_text
from nanochat.evaluation.conditions import UNANSWERABLE
from nanochat.evaluation.page import render_page
from nanochat.evaluation.plot import Bars, bar_chart
from nanochat.evaluation.samples import choose_samples, describe_outcome, expected_answer
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.summary import METRICS, EvaluationResult

SCHEMA = "nanochat-rag-evaluation"
VERSION = 1
# condition -> (name in tables, what success looks like)
LABELS: dict[str, tuple[str, str]] = {
    "closed_book": ("closed book", "no documents: low exact match, or the answers leaked into the model"),
    "retrieved": ("retrieved", "the retriever's documents: high exact match; this is the product"),
    "oracle": ("oracle", "supporting documents only: the reader at its best"),
    "wrong": ("wrong documents", "supporting documents taken away: high abstention"),
    UNANSWERABLE: ("unanswerable", "nothing to find, retrieved documents: high abstention"),
}
_SHORT = {
    "exact_match": "EM",
    "f1": "F1",
    "recall": "recall",
    "abstention": "abstains",
    "cited": "cited",
    "citation_validity": "cit. valid",
    "citation_support": "cit. support",
    "citation_precision": "cit. precision",
    "citation_recall": "cit. recall",
}


def make_report(
    result: EvaluationResult,
    *,
    checkpoint: Mapping[str, Any],
    questions: Mapping[str, Any],
    knowledge_base: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a reader needs to repeat and compare the run, as plain JSON values."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "checkpoint": dict(checkpoint),
        "questions": dict(questions),
        "knowledge_base": dict(knowledge_base),
        "config": dict(config),
        "environment": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            **(environment or {}),
        },
        **result.to_dict(),
    }


def write_report(folder: str | Path, result: EvaluationResult, report: Mapping[str, Any]) -> list[Path]:
    """Write records.jsonl, plot.svg, report.md, report.html and, last, results.json; each whole or not at all."""
    folder = Path(folder)
    plot = make_plot(result)
    write_jsonl(folder / "records.jsonl", [record.to_dict() for record in result.records])
    write_text(folder / "plot.svg", plot + "\n")
    write_text(folder / "report.md", markdown(result, report))
    page = render_page(
        result,
        report,
        plot=plot,
        table=full_table(result),
        overall=overall_lines(result),
        labels=LABELS,
        short=_SHORT,
    )
    write_text(folder / "report.html", page)
    write_json(folder / "results.json", report)
    return [folder / name for name in ("results.json", "records.jsonl", "report.md", "report.html", "plot.svg")]


def format_estimate(estimate: Estimate | None, *, interval: bool = True, sign: bool = False) -> str:
    """'0.91 [0.87, 0.94]', or '-' where there is nothing to say."""
    if estimate is None:
        return "-"
    form = "+.2f" if sign else ".2f"
    value, low, high = (format(number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" if interval else value


def console_table(result: EvaluationResult, *, top_k: int) -> str:
    """The short table: one row per condition, intervals for the two numbers that decide."""
    rows = [["condition", "n", "EM [95 %]", "F1", f"recall@{top_k}", "abstains [95 %]", "cited", "valid", "support"]]
    for name, summary in result.conditions.items():
        metrics = summary.metrics
        short = [
            format_estimate(metrics[key], interval=key in ("exact_match", "abstention"))
            for key in ("exact_match", "f1", "recall", "abstention", "cited", "citation_validity", "citation_support")
        ]
        rows.append([LABELS[name][0], str(summary.num_questions), *short])
    lines = align(rows)
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *overall_lines(result), *(f"note: {note}" for note in result.notes)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def overall_lines(result: EvaluationResult) -> list[str]:
    """Abstention and differences in sentences; those that were not measured are left out."""
    named = [
        ("abstention precision", result.abstention_precision, False),
        ("abstention recall", result.abstention_recall, False),
        ("retrieval lift (retrieved - closed book, EM)", result.differences["retrieval_lift"], True),
        ("retriever gap (oracle - retrieved, EM)", result.differences["retriever_gap"], True),
    ]
    return [
        f"{name}: {format_estimate(value, sign=sign)}, n = {value.num}"
        for name, value, sign in named
        if value is not None
    ]


def full_table(result: EvaluationResult) -> list[list[str]]:
    """Every metric with its interval; the first row is the header, one column per condition."""
    summaries = list(result.conditions.values())
    rows = [["", *(LABELS[summary.condition][0] for summary in summaries)]]
    rows.append(["questions", *(str(summary.num_questions) for summary in summaries)])
    for key in METRICS:
        rows.append([_SHORT[key], *(format_estimate(summary.metrics[key]) for summary in summaries)])
    rows.append(["answer in documents", *(format_estimate(summary.answer_shown) for summary in summaries)])
    rows.append(["documents cut", *(str(summary.num_dropped) for summary in summaries)])
    return rows


def make_plot(result: EvaluationResult) -> str:
    """Exact match and abstention per condition, with intervals."""
    rows = [
        Bars(
            name=LABELS[name][0],
            note=f"{summary.num_questions} questions",
            values={
                "exact match": summary.metrics["exact_match"],
                "abstention": summary.metrics["abstention"],
            },
        )
        for name, summary in result.conditions.items()
    ]
    return bar_chart(rows, ["exact match", "abstention"], title="Exact match and abstention per condition")


def markdown(result: EvaluationResult, report: Mapping[str, Any]) -> str:
    """The report as Markdown, with the plot as a file beside it."""
    table = full_table(result)
    lines = [f"# Evaluation of {_checkpoint_name(report)}", "", *_run_lines(report), ""]
    lines += ["![Exact match and abstention](plot.svg)", ""]
    lines += ["| " + " | ".join(table[0]) + " |", "|" + " --- |" * len(table[0])]
    lines += ["| " + " | ".join(row) + " |" for row in table[1:]]
    lines += ["", *(f"- {line}" for line in overall_lines(result)), *(f"- note: {note}" for note in result.notes)]
    lines += ["", "## Conditions", "", *(f"- **{name}**: {wanted}" for name, wanted in LABELS.values())]
    lines += ["", "## Metrics", "", *(f"- **{_SHORT[key]}**: {meaning}" for key, meaning in METRICS.items())]
    lines += ["", "## Sample answers", ""]
    for record in choose_samples(result.records):
        expected = _plain(expected_answer(record))
        lines += [
            f"- **{_plain(record.question)}** ({LABELS[record.condition][0]}, expected: {expected})  ",
            f"  {_plain(record.text)}  ",
            f"  {describe_outcome(record)}; shown: {_plain(', '.join(record.shown_ids) or 'nothing')}",
        ]
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", text)


def _checkpoint_name(report: Mapping[str, Any]) -> str:
    return _plain(f"{report['checkpoint'].get('source')}/{report['checkpoint'].get('tag')}")


def _run_lines(report: Mapping[str, Any]) -> list[str]:
    questions, kb = report["questions"], report["knowledge_base"]
    return [
        f"- step {report['checkpoint'].get('step')}",
        f"- knowledge base: {_plain(str(kb.get('path')))}, {kb.get('num_documents')} documents, "
        f"{_plain(str(kb.get('retriever_type')))}",
        f"- questions: {_plain(str(questions.get('path')))}, {questions.get('num_questions')} asked, "
        f"{questions.get('num_unanswerable')} of them unanswerable",
        f"- finished: {report['environment'].get('finished')}",
    ]

"""The report as one HTML file: no scripts, no other files, light and dark; every text from outside is escaped."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nanochat.evaluation.records import Record
from nanochat.evaluation.samples import choose_samples, describe_outcome, expected_answer
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.summary import METRICS, EvaluationResult

_SNIPPET = 320     # characters of a document shown beside an answer, unless more are wanted
STYLE = """
:root{color-scheme:light dark;--bg:#fff;--panel:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;
--good:#1d6b43;--bad:#a3322b}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--panel:#1c222a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;
--good:#7fd0a3;--bad:#f0968f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:940px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px}
h2{font-size:18px;margin:40px 0 12px}
p{margin:0 0 10px}
.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:24px 0 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:28px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid var(--line)}
tbody th{font-weight:500}
svg{width:100%;min-width:620px;height:auto;display:block}
article{border:1px solid var(--line);border-left-width:4px;border-radius:6px;padding:12px 16px;margin:0 0 12px}
article.right{border-left-color:var(--good)}
article.failed{border-left-color:var(--bad)}
article h3{font-size:15px;margin:0 0 6px;overflow-wrap:anywhere}
article p,article li{overflow-wrap:anywhere}
article p{margin:0 0 4px}
.right .verdict{color:var(--good);font-weight:600}
.failed .verdict{color:var(--bad);font-weight:600}
summary{cursor:pointer;color:var(--soft);font-size:13px}
details ol{margin:8px 0 0;padding-left:24px;font-size:13px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:0;font-size:14px}
dt{font-weight:600}
dd{margin:0}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:12px;overflow:auto;font-size:12px}
@media (max-width:560px){dl{grid-template-columns:1fr}dd{margin-bottom:8px}}
"""


def render_page(
    result: EvaluationResult,
    report: Mapping[str, Any],
    *,
    plot: str,
    table: Sequence[Sequence[str]],
    overall: Sequence[str],
    labels: Mapping[str, tuple[str, str]],
    short: Mapping[str, str],
) -> str:
    """The whole page. `table` has a header row; `labels` names the conditions, `short` the metrics."""
    samples = "\n".join(_sample(record, labels[record.condition][0]) for record in choose_samples(result.records))
    name = _text(f"{report['checkpoint'].get('source')}/{report['checkpoint'].get('tag')}")
    details = {part: report[part] for part in ("checkpoint", "questions", "knowledge_base", "config", "environment")}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {name}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Evaluation of {name}</h1>
{_heading(report)}
<div class="tiles">{_tiles(result)}</div>
<h2>Exact match and abstention</h2>
<div class="scroll" role="region" aria-label="Chart" tabindex="0">{plot}</div>
<h2>All numbers, with 95 % intervals</h2>
<div class="scroll" role="region" aria-label="Table of all numbers" tabindex="0">{_table(table)}</div>
<ul>{"".join(f"<li>{_text(line)}</li>" for line in [*overall, *(f"note: {note}" for note in result.notes)])}</ul>
<h2>Sample answers</h2>
<p class="soft">Failures first, then successes, the first of each condition in turn. Closed book is left out.</p>
{samples or "<p>None.</p>"}
<h2>Conditions</h2>
{definitions({name: meaning for name, meaning in labels.values()})}
<h2>Metrics</h2>
{definitions({short[key]: meaning for key, meaning in METRICS.items()})}
<h2>Run</h2>
<pre>{_text(json.dumps(details, indent=2, ensure_ascii=False))}</pre>
</main>
</body>
</html>
"""


def _text(value: object) -> str:
    return escape(str(value))


def _heading(report: Mapping[str, Any]) -> str:
    checkpoint, questions, kb = report["checkpoint"], report["questions"], report["knowledge_base"]
    words = (
        f"Step {checkpoint.get('step')}. "
        f"{questions.get('num_questions')} questions, {questions.get('num_unanswerable')} of them unanswerable, on a "
        f"knowledge base of {kb.get('num_documents')} documents ({kb.get('retriever_type')}). "
        f"Finished {report['environment'].get('finished')}."
    )
    return f'<p class="soft">{_text(words)}</p>'


def _tiles(result: EvaluationResult) -> str:
    wanted = [
        ("retrieved", "exact_match", "exact match, retrieved documents"),
        ("closed_book", "exact_match", "exact match, closed book"),
        ("wrong", "abstention", "abstains on wrong documents"),
        ("retrieved", "citation_validity", "citations that resolve"),
    ]
    return "".join(
        tile(result.conditions[condition].metrics[metric], label)
        for condition, metric, label in wanted
        if condition in result.conditions
    )


def tile(estimate: Estimate | None, label: str) -> str:
    """One number, large, with what it is and its interval."""
    value = "-" if estimate is None else f"{estimate.value:.2f}"
    interval = "not measured"
    if estimate is not None:
        interval = f"95 %: {estimate.low:.2f} to {estimate.high:.2f}, n = {estimate.num}"
    return f'<div class="tile"><b>{value}</b><span>{_text(label)}</span><span class="soft">{interval}</span></div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def definitions(entries: Mapping[str, str]) -> str:
    """Names and what they mean."""
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(meaning)}</dd>" for name, meaning in entries.items())
    return f"<dl>{rows}</dl>"


def _sample(record: Record, condition: str) -> str:
    documents = "".join(shown_document(document) for document in record.documents)
    count = f"{len(record.documents)} document{'' if len(record.documents) == 1 else 's'} shown"
    shown = f"<details><summary>{count}</summary><ol>{documents}</ol></details>"
    return (
        f'<article class="{"right" if record.correct else "failed"}">'
        f"<h3>{_text(record.question)}</h3>"
        f"<p>{_text(record.text)}</p>"
        f'<p><span class="verdict">{_text(describe_outcome(record))}</span> '
        f'<span class="soft">{_text(condition)}; expected: {_text(expected_answer(record))}</span></p>'
        f"{shown if record.documents else ''}</article>"
    )


def shown_document(document: Mapping[str, Any], *, marks: str = "", num_chars: int = _SNIPPET) -> str:
    """An item of a list: title, id, marks (HTML), and the first characters of the content."""
    text = str(document.get("content", ""))
    text = text if len(text) <= num_chars else text[:num_chars].rstrip() + " ..."
    return (f"<li><b>{_text(document.get('title', ''))}</b> <span class=\"soft\">{_text(document['id'])}</span>{marks}"
            f"<br>{_text(text)}</li>")

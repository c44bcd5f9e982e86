"""The card as one HTML file: no scripts, no network, light and dark; every text from outside is escaped."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nanochat.evaluation.page import STYLE, definitions
from nanochat.evaluation.suite.conditions import CONDITIONS
from nanochat.evaluation.suite.measures import CELL_METRICS, COMBINED
from nanochat.evaluation.suite.page_parts import charts, episodes, key_numbers

Results = Mapping[str, Any]
MATERIALS = {
    "fresh": "Generated documents about invented people, places and things, none of whose names was trained on.",
    "trained": "Worlds that training practised on, made again.",
    "altered": "The same worlds with another value for every fact.",
    "wordings": "Fresh worlds whose sentences and questions are worded as training never saw them.",
    "unseen": "The fresh documents again, with more questions, to be held against those of training.",
    "chains": "Fresh worlds; questions of one to three hops, whose later documents the question does not find.",
    "yours": "Your knowledge base, with the questions of your file.",
}
_SHOWN = ("exact_match", "f1", "abstention", "declined", "utilisation", "recall", "mrr", "citation_precision",
          "citation_recall", "citation_f1", "citation_support")
_RUN = ("checkpoint", "settings", "materials", "cost", "environment")
_STYLE = STYLE + """
.below{margin-top:10px;overflow-wrap:anywhere}
.pass{color:var(--good);font-weight:600}.fail{color:var(--bad);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(360px,1fr));gap:20px 28px}
.plots svg{min-width:0}
td.words,th.words{text-align:left;white-space:normal}
mark{background:none;color:var(--good);font-weight:600}
details.episode{border:1px solid var(--line);border-left-width:4px;border-radius:6px;padding:10px 16px;margin:0 0 10px}
details.episode.right{border-left-color:var(--good)}
details.episode.failed{border-left-color:var(--bad)}
details.episode>summary{color:var(--ink);font-size:14px}
"""


def render_page(results: Results) -> str:
    """The whole page from the content of results.json."""
    checkpoint, environment = results["checkpoint"], results["environment"]
    name = _text(f"{checkpoint['source']}/{checkpoint['tag']}")
    passed = sum(line["outcome"] == "pass" for line in results["thresholds"]["lines"])
    total = len(results["thresholds"]["lines"])
    parts = [
        f"<h1>RAG card of {name}</h1>",
        f'<p class="soft">Step {_text(checkpoint["step"])}, suite {_text(results["suite"])}, top '
        f'{_text(results["settings"]["top_k"])}, finished {_text(environment["finished"])}.</p>',
        key_numbers(results),
        f"<h2>{passed} of {total} thresholds reached</h2>", _verdicts(results),
        "<h2>Conditions at a glance</h2>", *charts(results),
    ]
    if len(results["numbers"]) > 1:
        parts += ["<h2>Beside other checkpoints</h2>", _columns(results)]
    parts += [
        "<h2>Compared on the same questions</h2>",
        '<p class="soft">Exact match, second taken from first; p by McNemar\'s exact test, then corrected by Holm for '
        "all rows together.</p>", _comparisons(results),
        "<h2>When it answers</h2>", _answering(results),
        f"<h2>{len(results['episodes'])} answers</h2>",
        f'<p class="soft">Failures first, the conditions in turn, from: {_text(MATERIALS[results["episodes_of"]])} '
        "Evidence is marked.</p>", *episodes(results),
    ]
    for material in results["materials"]:
        parts += [f"<h2>All cells: {_text(material)}</h2>",
                  f'<p class="soft">{_text(MATERIALS[material] + _left_out(results["materials"][material]))}</p>',
                  _cells(results, material), "<h3>Made of several cells</h3>", _combined(results, material)]
    parts += [
        "<h2>What the conditions are</h2>",
        definitions({key: f"{one.title}: a good model {one.wanted}" for key, one in CONDITIONS.items()}),
        "<h2>What the numbers are</h2>", definitions(CELL_METRICS | COMBINED),
        "<h2>Notes</h2>", "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in results["notes"]) + "</ul>",
        "<h2>Run</h2>",
        f"<pre>{_text(json.dumps({key: results[key] for key in _RUN}, indent=2, ensure_ascii=False))}</pre>",
    ]
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>RAG card of {name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _text(value: object) -> str:
    return escape(str(value))


def _left_out(material: Mapping[str, Any]) -> str:
    """A sentence about distractors that were not shown; "" where there was none."""
    left_out = material["left_out"]
    if not left_out["documents"]:
        return ""
    return (f" Left out of the distractors, because they state an accepted answer: {left_out['documents']} in all, "
            f"for {left_out['questions']} of the questions.")


def number(estimate: Mapping[str, Any] | None, *, interval: bool = True) -> str:
    """'0.912 [0.871, 0.944]', or '-' where nothing was measured."""
    if estimate is None:
        return "-"
    value = f"{estimate['value']:.3f}"
    return f"{value} [{estimate['low']:.3f}, {estimate['high']:.3f}]" if interval else value


def table(rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; the first row is the header. words: columns of running text."""
    def line(row: Sequence[str], first: str, rest: str) -> str:
        cells = []
        for place, cell in enumerate(row):
            kind = first if place == 0 else rest
            style = ' class="words"' if place in words else ""
            scope = f' scope="{"col" if rest == "th" else "row"}"' if kind == "th" else ""
            cells.append(f"<{kind}{scope}{style}>{cell}</{kind}>")
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "th", "td") for row in rows[1:])
    return (f'<div class="scroll" role="region" tabindex="0"><table><thead>{line(rows[0], "th", "th")}</thead>'
            f"<tbody>{body}</tbody></table></div>")


def _verdicts(results: Results) -> str:
    rows = [["", "reached", "measured, with 95 % interval", "wanted", ""]]
    for line in results["thresholds"]["lines"]:
        outcome = f'<span class="{"pass" if line["outcome"] == "pass" else "fail"}">{_text(line["outcome"])}</span>'
        unclear = "" if line["is_clear"] or line["estimate"] is None else "the interval reaches across"
        rows.append([_text(line["says"] or line["number"]), outcome, number(line["estimate"]), _text(line["bound"]),
                     f'<span class="soft">{unclear}</span>'])
    thresholds = results["thresholds"]
    return table(rows, words=(0, 4)) + (
        f'<p class="soft below">Thresholds: {_text(thresholds["path"])}, written before the run, sha256 '
        f'{_text(thresholds["sha256"])}</p>')


def _columns(results: Results) -> str:
    names = list(results["numbers"])
    rows = [["", *(_text(name) for name in names)]]
    wanted = [f"{material}.{key}" for material in ("fresh", "yours") for key in (
        "closed_book.exact_match", "retrieved.exact_match", "retrieved.f1", "oracle.exact_match", "oracle.f1",
        "edited.exact_match", "lift", "abstention_f1", "answered_at_wrong", "retrieved.citation_f1", "prior")]
    for key in wanted:
        row = [number(results["numbers"][name].get(key)) for name in names]
        if any(cell != "-" for cell in row):
            rows.append([_text(key), *row])
    return table(rows)


def _comparisons(results: Results) -> str:
    rows = [["", "difference", "questions", "p", "p (Holm)"]]
    rows += [[_text(one["says"]), number(one["difference"]), str(one["difference"]["num"]), f"{one['p']:.2g}",
              f"{one['p_holm']:.2g}"] for one in results["comparisons"]]
    return table(rows, words=(0,))


def _answering(results: Results) -> str:
    cost = results["cost"]
    words = "".join(f"<p>{_text(_threshold_words(name, one))}</p>" for name, one in results["calibrations"].items())
    seconds = cost.get("answer") or {}
    times = f", {seconds['median_s']:.3f} s to an answer in the median, {seconds['p95_s']:.3f} s for 95 % of them" \
        if seconds else ""
    spent = (f"A question with its documents has {cost.get('prompt_tokens')} tokens, an answer "
             f"{cost.get('answer_tokens')}{times}; {cost['prompts_asked']:,} prompts were asked, at most "
             f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB of memory were in use.")
    return f"{words}<p>{_text(spent)}</p>"


def _threshold_words(name: str, calibration: Mapping[str, Any]) -> str:
    threshold = calibration["threshold"]
    if calibration["best"] is None:
        return f"{name}: no threshold, {calibration['why']}."
    chosen = "no threshold" if threshold is None else f"below a probability of answering of {threshold:.3f} it abstains"
    return (f"{name}: {chosen}: {calibration['why']}; "
            f"{calibration['num_answerable']} to answer and {calibration['num_to_abstain']} to refuse, of which it "
            f"answers {calibration['num_answered']}, {calibration['num_right']} rightly.")


def _cells(results: Results, material: str) -> str:
    numbers = results["numbers"][results["name"]]
    mine = [key.split(".") for key in numbers if key.startswith(f"{material}.")]
    names = dict.fromkeys(parts[1] for parts in mine if len(parts) == 3)
    rows = [["", "n", *(_text(metric.replace("_", " ")) for metric in _SHOWN)]]
    for name in names:
        row = [numbers.get(f"{material}.{name}.{metric}") for metric in _SHOWN]
        count = numbers.get(f"{material}.{name}.right", {}).get("num", "-")
        rows.append([_text(name), str(count), *(f'<span title="{number(one)}">{number(one, interval=False)}</span>'
                                                for one in row)])
    return table(rows)


def _combined(results: Results, material: str) -> str:
    numbers = results["numbers"][results["name"]]
    rows = [["", "with 95 % interval", "n"]]
    rows += [[_text(key.split(".")[1]), number(one), str(one["num"])] for key, one in numbers.items()
             if key.startswith(f"{material}.") and key.count(".") == 1]
    return table(rows)

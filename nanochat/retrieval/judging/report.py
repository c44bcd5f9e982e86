"""What retrieval found for each judged query, as records and as a page to browse: failures first.

The page is one HTML file without scripts or other files, light and dark; every text from outside is escaped.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from nanochat.retrieval.document import Document
from nanochat.retrieval.judging.metrics import relevant
from nanochat.retrieval.judging.rankings import Found
from nanochat.retrieval.words.analysis import analyze

MAX_SHOWN = 300     # queries on the page; the records hold all
_HITS_SHOWN = 5
_SNIPPET = 240      # characters
_LOOKED_AT = 50_000  # characters of a document in which words are marked
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class QueryRecord:
    """One query: what was judged, what was found, and how good that is."""

    id: str
    text: str
    grades: Mapping[str, int]
    found: Sequence[Found]                  # best first, as deep as was searched
    scores: Mapping[str, float]
    other_found: Sequence[Found] = ()       # of the ranker it is compared with
    other_scores: Mapping[str, float] = field(default_factory=dict)

    def places(self, found: Sequence[Found]) -> dict[str, int | None]:
        """The place (from 1) of every relevant document in a ranking, None where it is missing; best grades first."""
        places = {item.id: place for place, item in enumerate(found, 1)}
        wanted = sorted(relevant(self.grades), key=lambda name: (-self.grades[name], name))
        return {name: places.get(name) for name in wanted}

    def to_dict(self, max_found: int = 10) -> dict[str, Any]:
        """A JSON-ready record; of what was found, the first so many."""
        expected = self.places(self.found)
        record: dict[str, Any] = {
            "id": self.id, "text": self.text, "scores": dict(self.scores),
            "expected": [{"id": name, "grade": self.grades[name], "place": place} for name, place in expected.items()],
            "found": [{"id": item.id, "score": item.score, "grade": self.grades.get(item.id, 0)}
                      for item in self.found[:max_found]],
        }
        if self.other_scores:
            record["compared"] = {"scores": dict(self.other_scores), "places": self.places(self.other_found),
                                  "found": [item.id for item in self.other_found[:max_found]]}
        return record


def group_records(
    records: Sequence[QueryRecord], metric: str, k: int, other: str = ""
) -> dict[str, list[QueryRecord]]:
    """The records by what went wrong, worst kinds first, and in each group the worst first; `metric` decides.

    `other` names the ranker that this one is compared with.
    """
    groups: dict[str, list[QueryRecord]] = {
        name: [] for name in (f"worse than {other}", "not found", f"first found after place {k}", "found in part",
                              "all found")
    }
    worse, missing, late, partly, fine = groups
    for record in records:
        places = [place for place in record.places(record.found).values() if place is not None]
        near = [place for place in places if place <= k]
        if record.other_scores and record.scores[metric] < record.other_scores[metric]:
            name = worse
        elif not places:
            name = missing
        elif not near:
            name = late
        else:
            name = fine if len(near) >= min(len(relevant(record.grades)), k) else partly
        groups[name].append(record)
    for group in groups.values():
        group.sort(key=lambda record: (record.scores[metric] - record.other_scores.get(metric, 0.0),
                                       record.scores[metric], record.id))
    return {name: group for name, group in groups.items() if group}


def snippet(text: str, query: str, width: int = _SNIPPET) -> str:
    """The stretch of a text that holds the most words of the query, as HTML with those words marked."""
    terms = set(analyze(query))
    hits = [word.span() for word in _WORD.finditer(text, 0, _LOOKED_AT) if terms.intersection(analyze(word[0]))]
    # some words before the first match, from the beginning of a word
    first = _best_start(text, hits, width)
    earliest = first - width // 6
    start = next((place for place in range(earliest, first) if text[place - 1].isspace()), first) if earliest > 0 else 0
    end = min(len(text), start + width)
    pieces, done = ["... " if start else ""], start
    for begin, stop in hits:
        if done <= begin and stop <= end:
            pieces += [_text(text[done:begin]), "<mark>", _text(text[begin:stop]), "</mark>"]
            done = stop
    return "".join([*pieces, _text(text[done:end]), " ..." if end < len(text) else ""])


def _best_start(text: str, hits: Sequence[tuple[int, int]], width: int) -> int:
    """The hit that most different words of the query follow within `width` characters."""
    words = [text[begin:end].lower() for begin, end in hits]

    def worth(place: int) -> tuple[int, int]:
        last = place
        while last < len(hits) and hits[last][0] < hits[place][0] + width:
            last += 1
        return len(set(words[place:last])), last - place

    return hits[max(range(len(hits)), key=worth)][0] if hits else 0


def _text(value: object) -> str:
    return escape(str(value))


def render_page(
    title: str, lines: Sequence[str], table: Sequence[Sequence[str]], groups: Mapping[str, Sequence[QueryRecord]],
    *, metric: str, other: str = "", passage: Callable[[int], Document], document: Callable[[str], Document | None],
) -> str:
    """The page. `lines` say what was measured, `table` has a header row; `passage` gives the document of a row.

    `other` names the ranker that this one is compared with.
    """
    left = MAX_SHOWN
    sections, links = [], []
    for number, (name, group) in enumerate(groups.items()):
        shown = group[: max(left, 0)]
        left -= len(shown)
        cut = "" if len(shown) == len(group) else f" ({len(shown)} shown; queries.jsonl has all)"
        links.append(f'<a href="#group-{number}">{_text(name)}: {len(group)}</a>')
        articles = "\n".join(_article(record, metric, other, passage, document) for record in shown)
        sections.append(f'<h2 id="group-{number}">{_text(name)}: {len(group)}{cut}</h2>\n{articles}')
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{_text(title)}</h1>
{"".join(f"<p>{_text(line)}</p>" for line in lines)}
<div class="scroll" role="region" aria-label="All numbers" tabindex="0">{_table(table)}</div>
<nav aria-label="Groups of queries">{" ".join(links)}</nav>
{"".join(sections)}
</main>
</body>
</html>
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in rows[0])
    body = "".join(f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}'
                   "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _article(record: QueryRecord, metric: str, other: str, passage: Callable[[int], Document],
             document: Callable[[str], Document | None]) -> str:
    other_places = record.places(record.other_found)
    expected = []
    for name, place in record.places(record.found).items():
        where = f"place {place}" if place else f"not in the first {len(record.found)}"
        if record.other_scores:
            before = other_places[name]
            where += f", by {other}: {f'place {before}' if before else 'not found'}"
        expected.append(_item(document(name), name, f"grade {record.grades[name]}, {where}", record.text))
    wanted = relevant(record.grades)
    found = [_item(passage(item.position), item.id,
                   f"score {item.score:.3f}{', relevant' if item.id in wanted else ''}", record.text,
                   good=item.id in wanted) for item in record.found[:_HITS_SHOWN]]
    scores = f"{metric} {record.scores[metric]:.3f}"
    if record.other_scores:
        scores += f", by {other} {record.other_scores[metric]:.3f}"
    return (
        f'<details><summary><b>{_text(record.text)}</b> <span class="soft">{_text(record.id)} · {_text(scores)}</span>'
        f'</summary><div class="pair"><section><h3>Expected</h3><ul>{"".join(expected)}</ul></section>'
        f'<section><h3>Found</h3><ol>{"".join(found) or "<li>nothing</li>"}</ol></section></div></details>'
    )


def _item(document: Document | None, name: str, note: str, query: str, *, good: bool = False) -> str:
    kind = ' class="good"' if good else ""
    if document is None:
        return f'<li{kind}><code>{_text(name)}</code> <span class="soft">{_text(note)}; not in here</span></li>'
    return (f'<li{kind}><b>{_text(document.title)}</b> <code>{_text(name)}</code> <span class="soft">{_text(note)}'
            f"</span><br>{snippet(document.content, query)}</li>")


_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--panel:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--good:#1d6b43;
--mark:#fff1b8}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--panel:#1c222a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;
--good:#7fd0a3;--mark:#5a4a12}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:24px;margin:0 0 8px}h2{font-size:18px;margin:36px 0 10px}h3{font-size:13px;margin:8px 0 4px}
p{margin:0 0 6px}.soft,p{color:var(--soft);font-size:13px}
nav{display:flex;flex-wrap:wrap;gap:8px 20px;margin:20px 0}a{color:inherit}
.scroll{overflow-x:auto;margin-top:16px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:6px 12px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child{text-align:left}tbody th{font-weight:500}
details{border:1px solid var(--line);border-radius:6px;margin:0 0 8px;background:var(--panel)}
summary{cursor:pointer;padding:8px 12px;overflow-wrap:anywhere}summary b{font-weight:500}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:20px;padding:0 14px 10px;border-top:1px solid var(--line)}
.pair ul,.pair ol{margin:0;padding-left:20px;font-size:13px}li{margin:0 0 8px;overflow-wrap:anywhere}
li.good{color:var(--good)}code{font-size:12px}mark{background:var(--mark);color:inherit}
@media (max-width:700px){.pair{grid-template-columns:1fr}}
"""

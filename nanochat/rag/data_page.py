"""What training data looks like in numbers, as JSON and as one page without scripts or other files."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from nanochat.rag.filters import REASONS
from nanochat.rag.library import Record
from nanochat.rag.training_data import TrainingData, iter_episodes

NUM_SAMPLES = 10
FIFTHS = 5  # that places of cited documents are counted in
SNIPPET = 280  # characters of a document on the page
MEANINGS = {
    "answer": "the evidence is shown, among distractors",
    "edited": "a value in the evidence was replaced by another; the answer is the new one",
    "contradiction": "a second document states another value; the answer names both and cites both",
    "injected": "a stranger's sentence stands in a distractor, mostly an order; the answer stays",
    "evidence_removed": "the evidence is not shown; the target is to abstain",
    "entity_absent": "asked about a thing that is in no document; abstain",
    "relation_absent": "asked what no document says about the thing; abstain",
    "bridge_broken": "of two documents that are needed one is missing; abstain",
}
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--panel:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--bar:#3b6fb5;
--good:#1d6b43}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--panel:#1c222a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;
--bar:#7fa9e6;--good:#7fd0a3}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:940px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 10px}
.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:5px 8px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}td.b{width:34%}
td.b i{display:block;height:11px;margin-top:6px;border-radius:2px;background:var(--bar)}
article{border:1px solid var(--line);border-radius:6px;padding:12px 16px;margin:0 0 12px;overflow-wrap:anywhere}
article h3{font-size:15px;margin:0 0 6px}article p{margin:0 0 6px}
ol{margin:6px 0 0;padding-left:24px;font-size:13px}li.cited{color:var(--good);font-weight:500}
summary{cursor:pointer;color:var(--soft);font-size:13px}
"""


def statistics_of(data: TrainingData, **more: Any) -> dict[str, Any]:
    """JSON-ready counts of questions, filters and episodes, and `more` as it is. The same data, the same record."""
    episodes = list(iter_episodes(data))
    present = [episode for episode in episodes if "abstain" not in episode["messages"][-1]]
    lengths = [len(document["content"].split()) for episode in episodes
               for document in episode["messages"][0]["documents"]]
    asked = [question for questions in data.questions.values() for question in questions]
    answers = [len(question["answers"][0].split()) for question in asked if question["answers"]]
    return {
        **more,
        "documents": dict(data.num_documents),
        "questions": {name: len(questions) for name, questions in data.questions.items()},
        "questions_by_kind": _counts(question["kind"] for question in asked),
        "made_by_kind": _counts(data.made.elements()),
        "filters": {reason: data.taken[reason] for reason in REASONS},
        "episodes": {name: len(found) for name, found in data.episodes.items()},
        "episodes_by_kind": _counts(episode["kind"] for episode in episodes),
        "episodes_left_out": data.left_out,
        "present_share": round(len(present) / len(episodes), 4) if episodes else 0.0,
        "documents_shown": _numbers(len(episode["messages"][0]["documents"]) for episode in episodes),
        "evidence_position": _numbers(min(episode["messages"][-1]["citations"]) + 1 for episode in present),
        "evidence_position_share": position_share(present),
        "distractors": _counts(data.distractors.elements()),
        "document_words": _quantiles(lengths),
        "answer_words": _quantiles(answers),
    }


def position_share(episodes: Iterable[Record]) -> dict[str, float]:
    """Share of the cited documents in each fifth of those shown, "1" ... "5"; only of five documents and more.

    Each document takes as much of the fifths as it takes of all, so that places drawn evenly give .2 each.
    """
    parts = [0.0] * FIFTHS
    for episode in episodes:
        count = len(episode["messages"][0]["documents"])
        for slot in episode["messages"][-1]["citations"] if count >= FIFTHS else ():
            first, past = slot * FIFTHS / count, (slot + 1) * FIFTHS / count
            for fifth in range(FIFTHS):
                parts[fifth] += max(0.0, min(past, fifth + 1) - max(first, fifth)) / (past - first)
    return {str(number): round(part / (sum(parts) or 1.0), 4) for number, part in enumerate(parts, start=1)}


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0])))


def _numbers(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    places = {"least": 0.0, "tenth": 0.1, "median": 0.5, "nine_tenths": 0.9, "most": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(place * len(ordered)))] for name, place in places.items()}


def render_page(statistics: Mapping[str, Any], data: TrainingData) -> str:
    """The page: counts with bars, then samples of every kind in turn. Every text from outside is escaped."""
    splits = "".join(
        f"<tr><td>{name}</td><td class=n>{statistics['documents'][name]:,}</td><td class=n>{count:,}</td>"
        f"<td class=n>{statistics['episodes'][name]:,}</td></tr>" for name, count in statistics["questions"].items())
    samples = "\n".join(map(_sample, choose_samples(list(iter_episodes(data)))))
    made, kept = sum(statistics["made_by_kind"].values()), statistics["made_by_kind"].keys()
    left = {kind: statistics["questions_by_kind"].get(kind, 0) for kind in kept}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training data</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Training data</h1>
<p class="soft">{sum(statistics["questions"].values()):,} questions and
{sum(statistics["episodes"].values()):,} episodes from {sum(statistics["documents"].values()):,}
documents, seed {escape(str(statistics.get("seed", 0)))}. In
{statistics["present_share"]:.0%} of the episodes the documents answer.</p>
<h2>Splits</h2>
<table><tr><th>split</th><th class=n>documents</th><th class=n>questions</th><th class=n>episodes</th></tr>
{splits}</table>
<h2>Questions that were kept, by kind</h2>{_bars(left, {})}
<h2>What the filters took, of {made:,} questions</h2>{_bars(statistics["filters"], REASONS)}
<h2>Episodes by kind</h2>{_bars(statistics["episodes_by_kind"], MEANINGS)}
<h2>Documents shown</h2>{_bars(statistics["documents_shown"], {})}
<h2>Place of the first cited document</h2>{_bars(statistics["evidence_position"], {})}
<p class="soft">Low numbers come more often because they are there whatever the number of documents. Among five
documents and more, share of the cited ones by fifths: {escape(json.dumps(statistics["evidence_position_share"]))}; .2
each is even.</p>
<h2>Distractors</h2>{_bars(statistics["distractors"], {})}
<h2>Lengths in words</h2>
<p>Documents: {escape(json.dumps(statistics["document_words"]))}</p>
<p>Answers: {escape(json.dumps(statistics["answer_words"]))}</p>
<h2>Samples</h2>
{samples or "<p>None.</p>"}
<h2>Settings</h2>
<p>{escape(json.dumps(statistics.get("settings", {}), ensure_ascii=False))}</p>
</main>
</body>
</html>
"""


def _bars(counts: Mapping[str, int], meanings: Mapping[str, str]) -> str:
    top = max(counts.values(), default=0) or 1
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{count:,}</td>"
        f"<td class=b><i style=\"width:{100 * count / top:.1f}%\"></i></td>"
        f"<td class=soft>{escape(meanings.get(name, ''))}</td></tr>" for name, count in counts.items())
    return f"<table>{rows or '<tr><td>none</td></tr>'}</table>"


def choose_samples(episodes: Sequence[Record], limit: int = NUM_SAMPLES) -> list[Record]:
    """Episodes of every kind in turn, drawn with a fixed seed."""
    rng = random.Random(0)
    by_kind: dict[str, list[Record]] = {kind: [] for kind in MEANINGS}
    for episode in rng.sample(episodes, len(episodes)):
        by_kind[episode["kind"]].append(episode)
    chosen: list[Record] = []
    while len(chosen) < min(limit, len(episodes)):
        for group in by_kind.values():
            if group and len(chosen) < limit:
                chosen.append(group.pop())
    return chosen


def _sample(episode: Record) -> str:
    shown, asked, answer = episode["messages"]
    said = escape(answer["content"]) or "<em>abstains</em>"
    cited = set(answer.get("citations", ()))
    documents = "".join(
        f"<li{' class=cited' if slot in cited else ''}>{escape(document['title'])}: "
        f"{escape(_snippet(document, answer))}</li>"
        for slot, document in enumerate(shown["documents"]))
    numbers = "".join(f" [{slot + 1}]" for slot in sorted(cited))
    return (f"<article><h3>{escape(asked['content'])}</h3><p>{said}{numbers}</p>"
            f"<p class=soft>{escape(episode['kind'])}: {escape(MEANINGS[episode['kind']])}</p>"
            f"<details><summary>{len(shown['documents'])} documents</summary><ol>{documents}</ol></details></article>")


def _snippet(document: Mapping[str, str], answer: Mapping[str, Any]) -> str:
    """The part of a document around the answer, or its beginning."""
    content = " ".join(document["content"].split())
    place = content.find(answer["content"]) if answer["content"] else -1
    start = max(0, place - SNIPPET // 2) if place > SNIPPET // 2 else 0
    end = start + SNIPPET
    return f"{'... ' if start else ''}{content[start:end]}{' ...' if end < len(content) else ''}"

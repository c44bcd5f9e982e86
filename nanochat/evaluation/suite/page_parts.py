"""Parts of the card's page: tiles, plots and episodes."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nanochat.evaluation.page import shown_document, tile
from nanochat.evaluation.plot import Bars, bar_chart
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.suite.charts import curve_chart, steps_chart

Results = Mapping[str, Any]
TILES = {
    "retrieved.exact_match": "exact match, retrieved documents",
    "closed_book.exact_match": "exact match, closed book",
    "abstention_f1": "F1 of abstaining",
    "follow_rate": "edited facts followed",
}
BARS = {
    "closed_book": "closed book", "empty": "empty result", "retrieved": "retrieved", "oracle": "evidence only",
    "hard_4": "4 hard distractors", "random_4": "4 random ones", "wrong": "evidence removed",
    "edited": "edited fact", "contradiction": "contradiction", "asked_wording": "other wording", "asked_typo": "typo",
    "asked_mended": "typo, mended",
    "no_question": "no question", "deleted": "evidence deleted",
}
_SNIPPET = 700       # characters of a document


def _own(results: Results) -> Mapping[str, Mapping[str, Any]]:
    return results["numbers"][results["name"]]


def materials_of(results: Results) -> list[str]:
    """The materials that answered every condition."""
    return [name for name in ("yours", "fresh") if name in results["materials"]]


def key_numbers(results: Results) -> str:
    """Four numbers per material, large."""
    tiles = []
    for material in materials_of(results):
        tiles += [tile(_estimate(_own(results).get(f"{material}.{key}")), f"{label}, {material}")
                  for key, label in TILES.items()]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def charts(results: Results) -> list[str]:
    """Bars over conditions, then lines over every sweep, per material."""
    parts = []
    for material in materials_of(results):
        bars = _bars(results, material)
        parts.append(f"<h3>{escape(material)}</h3>")
        parts.append(f'<div class="scroll" role="region" aria-label="Chart" tabindex="0">{bars}</div>')
        plots = [plot for plot in _lines(results, material) if plot]
        parts.append(f'<div class="plots">{"".join(f"<div>{plot}</div>" for plot in plots)}</div>')
    return parts


def _bars(results: Results, material: str) -> str:
    numbers = _own(results)
    rows = []
    for cell, label in BARS.items():
        found = {metric: numbers.get(f"{material}.{cell}.{metric}")
                 for metric in ("exact_match", "abstention", "right")}
        if found["right"] is not None:
            rows.append(Bars(name=label, note=f"{found['right']['num']} questions", values={
                "exact match": _estimate(found["exact_match"]),
                "refused, where nothing answers": _estimate(found["abstention"])}))
    return bar_chart(rows, ["exact match", "refused, where nothing answers"], title=f"Conditions, {material}")


def _estimate(record: Mapping[str, Any] | None) -> Estimate | None:
    return None if record is None else Estimate(**record)


def _lines(results: Results, material: str) -> list[str]:
    numbers = _own(results)

    def sweep(prefix: str, metric: str = "exact_match") -> list[tuple[str, Mapping[str, Any]]]:
        names = dict.fromkeys(key.split(".")[1] for key in numbers if key.startswith(f"{material}.{prefix}"))
        found = [(name.removeprefix(prefix), numbers.get(f"{material}.{name}.{metric}")) for name in names]
        return [(label, estimate) for label, estimate in found if estimate is not None]

    alone = numbers.get(f"{material}.oracle.exact_match")
    start = [("0", alone)] if alone is not None else []
    swaps = [(name, numbers[f"{name}.retrieved.exact_match"]) for name in ("trained", "unseen", "altered", "wordings")
             if f"{name}.retrieved.exact_match" in numbers]
    chains = "chains" if material == "fresh" else material
    hops = {label: [(key.rpartition("_")[2], numbers[key]) for key in numbers if key.startswith(f"{chains}.{name}_")]
            for label, name in (("one search", "hops"), ("own searches", "own_hops"))}
    return [
        steps_chart({"hard": [*start, *sweep("hard_")], "random": [*start, *sweep("random_")]},
                    title="Exact match beside distractors", below="documents beside the evidence"),
        steps_chart({"exact match": sweep("top_"), "recall": sweep("top_", "recall"),
                     "refused if no answer": sweep("top_", "abstention")},
                    title="Documents shown", below="top k of the retriever"),
        steps_chart({"exact match": sweep("position_")}, title="Exact match by place of the evidence",
                    below="place among the documents"),
        steps_chart({"exact match": sweep("length_")}, title="Exact match by document length",
                    below="words, against the usual"),
        steps_chart({"exact match": sweep("retriever_"), "recall": sweep("retriever_", "recall")},
                    title="Retrievers swapped", below="retriever"),
        steps_chart({"exact match": swaps}, title="Knowledge bases swapped", below="see below for what each is")
        if material == "fresh" else "",
        steps_chart(hops, title="Exact match by hops", below=f"hops of the questions of {chains}"),
        curve_chart({"risk": results["risk_curves"].get(material, [])},
                    title="Share of wrong answers, most certain first", below="share of the questions answered"),
    ]


def episodes(results: Results) -> Sequence[str]:
    """One block per episode, closed but for the first."""
    return [_episode(one, is_open=place == 0) for place, one in enumerate(results["episodes"])]


def _episode(one: Mapping[str, Any], *, is_open: bool) -> str:
    documents = "".join(
        shown_document(document, num_chars=_SNIPPET, marks=(" <mark>evidence</mark>" if document["is_evidence"] else "")
                       + (" <b>cited</b>" if document["is_cited"] else ""))
        for document in one["documents"])
    expected = " / ".join(one["expected"]) or "abstain"
    chance = "" if one["probability"] is None else f", probability of answering {one['probability']:.2f}"
    cited = ", ".join(f"[{citation['number']}] {citation['id'] or 'nothing'}" for citation in one["citations"])
    return (
        f'<details class="episode {"right" if one["is_right"] else "failed"}"{" open" if is_open else ""}>'
        f"<summary><b>{escape(one['question'])}</b> <span class=\"soft\">{escape(one['cell'])}</span></summary>"
        f"<p>{escape(one['text'])}</p>"
        f'<p><span class="verdict">{escape(one["verdict"])}</span> <span class="soft">expected: {escape(expected)}'
        f"{chance}; cites: {escape(cited) or 'nothing'}</span></p><ol>{documents}</ol>"
        f"{'' if documents else '<p class=soft>No document was shown.</p>'}</details>"
    )

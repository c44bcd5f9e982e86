"""From a checkpoint to its card: run the suite, write page and numbers, and put card.json beside the weights."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint_files import META_FILE
from nanochat.common import base_dir, write_json, write_jsonl, write_text
from nanochat.evaluation.card import verdict_lines, weights_of, write_card
from nanochat.evaluation.runner import Answerer
from nanochat.evaluation.suite.keeping import CELLS, remove_kept
from nanochat.evaluation.suite.page import render_page
from nanochat.evaluation.suite.results import answer_records, make_card_record, make_results
from nanochat.evaluation.suite.running import run_suite
from nanochat.evaluation.suite.thresholds import read_thresholds
from nanochat.retrieval import RetrievalManager


@dataclass(frozen=True, kw_only=True)
class CardOutcome:
    """What a run left behind."""

    results: Mapping[str, Any]     # content of results.json
    card: Mapping[str, Any]        # content of card.json
    paths: Sequence[Path]          # card.html, results.json, answers.jsonl, and card.json where it was written
    lines: Sequence[str]           # for a terminal


def make_card(
    engine: Answerer,
    meta: Mapping[str, Any],
    *,
    knowledge_base: RetrievalManager | None = None,
    thresholds: str | Path = "",
    output: str | Path | None = None,
    environment: Mapping[str, Any] | None = None,
    **asked: Any,
) -> CardOutcome:
    """Run a suite and write its card; asked: what `run_suite` takes beside, such as suite, questions and columns.

    meta: as `load_model` returns it; with "path", card.json goes into that checkpoint's folder. output: the folder of
    page and numbers, by default reports/cards/... in the base folder. While the suite runs, finished cells are kept in
    its folder "cells", from which the same call goes on if it was interrupted, and which is gone with the last file
    written. Raises UserError for an unknown suite, a bad file of thresholds, and folders that cannot be written.
    """
    limits = read_thresholds(thresholds)
    started = time.monotonic()
    checkpoint = {key: meta.get(key) for key in ("source", "tag", "step")} | {"weights": weights_of(meta)}
    folder = Path(output) if output else _folder(checkpoint)
    result = run_suite(engine, name=f"{meta.get('source')}/{meta.get('tag')}", meta=meta, knowledge_base=knowledge_base,
                       keep_in=folder / CELLS, **asked)
    results = make_results(result, limits, checkpoint=checkpoint, environment={
        **(environment or {}), "evaluation_s": round(time.monotonic() - started, 1)})
    write_jsonl(folder / "answers.jsonl", answer_records(result))
    write_text(folder / "card.html", render_page(results))
    write_json(folder / "results.json", results)
    paths = [folder / name for name in ("card.html", "results.json", "answers.jsonl")]
    card = make_card_record(results, report=str((folder / "card.html").resolve()),
                            knowledge_base=_measured(meta, knowledge_base if "yours" in result.materials else None))
    # a published folder is not ours to write into
    if (Path(meta.get("path") or "") / META_FILE).is_file():
        paths.append(write_card(meta["path"], card))
    remove_kept(folder / CELLS)
    return CardOutcome(results=results, card=card, paths=paths, lines=[
        *verdict_lines(results["thresholds"]["lines"]),
        f"thresholds: {limits.path}, sha256 {limits.sha256[:16]}",
        *_threshold_line(results["calibration"]),
    ])


def _threshold_line(calibration: Mapping[str, Any]) -> list[str]:
    threshold = calibration["threshold"]
    if calibration["best"] is None:
        return [f"answer_threshold: not measured: {calibration['why']}"]
    kept = calibration["num_answerable"] + calibration["num_to_abstain"]
    chosen = "none" if threshold is None else f"{threshold:.3f}"
    return [f"answer_threshold: {chosen}: {calibration['why']}; of {kept} it answers "
            f"{calibration['num_answered']}, {calibration['num_right']} of them rightly"]


def _measured(meta: Mapping[str, Any], manager: RetrievalManager | None) -> dict[str, Any]:
    """The knowledge base that the card speaks for: the one asked about, else the one of training."""
    if manager is not None:
        knowledge_base = manager.knowledge_base
        path = str(Path(knowledge_base.path).resolve())
        return {"path": path, "fingerprint": knowledge_base.fingerprint, "was_asked": True}
    known = meta.get("knowledge_base")
    return {"path": "", "fingerprint": known if isinstance(known, str) else "", "was_asked": False}


def _folder(checkpoint: Mapping[str, Any]) -> Path:
    source = str(checkpoint["source"]).replace("/", "-").replace(":", "-")
    tag = str(checkpoint["tag"]).replace("/", "-")
    return base_dir() / "reports" / "cards" / source / tag / f"step_{checkpoint['step'] or 0:06d}"

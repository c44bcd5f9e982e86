"""The card of a checkpoint: what it reached, on which knowledge base, and whether that still holds."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import write_json
from nanochat.errors import CheckpointError

CARD_FILE = "card.json"
SCHEMA = "nanochat-rag-card"
VERSION = 1


def write_card(folder: str | Path, card: Mapping[str, Any]) -> Path:
    """Put card.json beside the checkpoint's meta.json; whole or not at all."""
    path = Path(folder) / CARD_FILE
    write_json(path, {"schema": SCHEMA, "version": VERSION, **card})
    return path


def read_card(folder: str | Path) -> dict[str, Any] | None:
    """The card of a checkpoint's folder (meta["path"]), None where none was made.

    Its "answer_threshold" is the calibrated probability below which the model abstains, None where its own decision is
    no worse or nothing was measured.
    Raises CheckpointError for a file that is no card.
    """
    path = Path(folder) / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(card, dict) or card.get("schema") != SCHEMA or card.get("version") != VERSION:
        raise _damaged(path, f"it is no {SCHEMA} of version {VERSION}")
    for name in ("checkpoint", "knowledge_base", "thresholds"):
        if not isinstance(card.get(name, {}), dict):
            raise _damaged(path, f"{name} is {card[name]!r}, not an object")
    threshold = card.get("answer_threshold")
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise _damaged(path, f"answer_threshold is {threshold!r}, not between 0 and 1")
    return card


def stale_reason(
    card: Mapping[str, Any], *, fingerprint: str | None = None, meta: Mapping[str, Any] | None = None
) -> str:
    """Why the card no longer speaks for what is used, in one sentence; "" while it does.

    fingerprint: of the knowledge base in use; it is held against the one that was measured, or, where only generated
    ones were, the one of training. meta: of the checkpoint in use, whose weights may be others than those measured.
    """
    if meta is not None and are_other_weights(card, meta):
        return "the weights were changed after they were measured"
    measured = card.get("knowledge_base", {}).get("fingerprint")
    if fingerprint is not None and measured and fingerprint != measured:
        known = "that was measured" if card["knowledge_base"].get("was_asked", True) else "of its training"
        return f"the knowledge base is not the one {known}, or has changed since"
    return ""


def are_other_weights(card: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
    """Whether the weights of a checkpoint are known to be others than those measured; its threshold is theirs."""
    weights = card.get("checkpoint", {}).get("weights")
    return bool(weights) and weights_of(meta) not in ("", weights)


def threshold_of(card: Mapping[str, Any] | None, meta: Mapping[str, Any], *, second_look: bool) -> tuple[
        float | None, str]:
    """The card's answer_threshold where it holds for these weights and this way of reading, and why it does not.

    second_look: answers are read twice (nanochat.engine.second_look), so that their probability is another one.
    """
    if card is None or card.get("answer_threshold") is None or are_other_weights(card, meta):
        return None, ""
    if card.get("settings", {}).get("second_look", False) != second_look:
        way = "with" if second_look else "without"
        return None, (f"the card's answer_threshold was not chosen {way} a second look and is left out; measure again: "
                      f"{measuring_again(meta)} --second_look {str(second_look).lower()}")
    return card["answer_threshold"], ""


def measuring_again(checkpoint: Mapping[str, Any], *, suite: str = "quick", knowledge_base: str | Path = "") -> str:
    """The commands that measure a checkpoint (with source and tag), with questions made of the knowledge base."""
    measure = f"python -m scripts.rag_eval --suite {suite} --source {checkpoint['source']} --tag " \
              + shlex.quote(str(checkpoint["tag"]))
    if not str(knowledge_base):
        return measure
    place = shlex.quote(str(knowledge_base))
    return (f"python -m scripts.prepare_rag_dataset --mode synthesize --knowledge_base {place} --output data/measuring"
            f" && {measure} --knowledge_base {place} --questions data/measuring/queries_test.jsonl")


def is_stale(
    card: Mapping[str, Any], *, fingerprint: str | None = None, meta: Mapping[str, Any] | None = None
) -> bool:
    """Whether there is a `stale_reason`."""
    return bool(stale_reason(card, fingerprint=fingerprint, meta=meta))


def weights_of(meta: Mapping[str, Any]) -> str:
    """The hash of a checkpoint's weights, adapters included; "" where the record has none."""
    files = meta.get("files", {})
    hashes = [files[name]["sha256"] for name in ("model.safetensors", "adapters.safetensors") if name in files]
    return "-".join(hashes)


def card_lines(card: Mapping[str, Any], *, stale: str = "", knowledge_base: str = "") -> list[str]:
    """The card for a terminal: verdicts, the threshold, and first of all whether it is stale.

    knowledge_base: the one in use, for the advice to a stale card.
    """
    checkpoint, thresholds = card["checkpoint"], card["thresholds"]
    lines = [f"RAG card of {checkpoint['source']}/{checkpoint['tag']} step {checkpoint['step']}, "
             f"suite {card['suite']}, {card['finished']}"]
    if stale:
        lines.append(f"STALE: {stale}; measure again: "
                     + measuring_again(checkpoint, suite=card["suite"], knowledge_base=knowledge_base))
    lines += verdict_lines(thresholds["lines"])
    lines.append(f"thresholds: {thresholds['path']}, sha256 {thresholds['sha256'][:16]}")
    threshold = card.get("answer_threshold")
    lines.append(f"answer_threshold: {'none' if threshold is None else f'{threshold:.3f}'}")
    if page := card.get("report"):
        lines.append(f"page: {page}" + ("" if Path(page).exists() else " is gone; measuring again writes it anew"))
    return lines


def verdict_lines(verdicts: list[Mapping[str, Any]]) -> list[str]:
    """One line per threshold: outcome, what it says, the number with its interval, the bound."""
    lines = []
    for one in verdicts:
        estimate = one["estimate"]
        value = "-"
        if estimate is not None:
            value = f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
        unclear = "" if estimate is None or one["is_clear"] else "  (the interval reaches across)"
        name = one["says"] or one["number"]
        lines.append(f"{one['outcome']:<12} {name:<58} {value:>24}  {one['bound']}{unclear}")
    return lines


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be used: {what}", hint="remove it and measure again: "
                           "python -m scripts.rag_eval --suite quick --tag TAG")

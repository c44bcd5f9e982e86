"""What tells the text of a run from another, so that a run that is resumed over other text says so."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.common import print0
from scripts.text_input import parse_inputs

PIECES, PIECE_BYTES = 16, 2**16  # of a file that are hashed, spread over it


def fingerprint(*names: str) -> list[dict[str, Any]]:
    """What tells the files of --input and the like from others: size, and a hash of pieces spread over the file."""
    records = []
    for name, _ in (one for listed in names for one in parse_inputs(listed)):
        size, digest = Path(name).stat().st_size, hashlib.sha256()
        with open(name, "rb") as file:
            for number in range(PIECES):
                file.seek(max(0, size - PIECE_BYTES) * number // (PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
        records.append({"file": name, "bytes": size, "sha256": digest.hexdigest()})
    return records


def say_other_text(before: Sequence[Mapping[str, Any]] | None, now: Sequence[Mapping[str, Any]]) -> None:
    """A warning where a resumed run reads other text than until now; a file may have moved."""
    def content(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        return [(record["bytes"], record["sha256"]) for record in records]

    if before is None or content(before) == content(now):
        return
    then, here = (", ".join(f"{record['file']} ({record['bytes']:,} bytes)" for record in records) or "none"
                  for records in (before, now))
    changed = f"{then} -> {here}" if then != here else f"{here}, changed inside"
    print0(f"Warning: the text is not the one this run was begun with: {changed}. Rows may come twice or not at all, "
           "and documents held out now may have been trained on, so that val_loss looks too good. To be exact: give "
           "the old files, or begin another run with --tag NAME, without --resume")

"""Search all files of a folder, byte for byte, for text that must not be there any more."""

import json
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# shorter texts may be anywhere by chance: they are not looked for
TELLING_CHARS = 24


@dataclass
class Proof:
    """What a scan has found."""

    files: int = 0
    bytes: int = 0
    found: list[str] = field(default_factory=list)  # "file, byte 123", one for each place
    shared: set[str] = field(default_factory=set)   # ids of other documents that hold one of the texts


def scan(path: Path, ids: Iterable[str], texts: Iterable[str]) -> Proof:
    """Look for ids (as JSON has them) and texts (as they are, and as JSON has them) in every file below `path`.

    A text in a document with another id, or in an index of such a document, is not a find: that document holds it.
    """
    ids, proof = set(ids), Proof()
    patterns = {f'{{"id": {json.dumps(name, ensure_ascii=False)}, '.encode(): None for name in ids}
    for text in texts:
        if len(text) >= TELLING_CHARS:
            forms = text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
            patterns |= {form.encode(): text for form in forms}
    # of each place: the text, whether it is in a document that should be gone, where it is
    places: list[tuple[str | None, bool, str]] = []
    held: set[str | None] = set()
    for file in sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink()):
        is_table = file.name == "documents.jsonl"
        for pattern, place, owner in _search(file, patterns, is_table, proof):
            if is_table and owner is not None and owner not in ids:
                proof.shared.add(owner)
                held.add(patterns[pattern])
            else:
                places.append((patterns[pattern], is_table, f"{file.relative_to(path)}, byte {place}"))
    proof.found = [where for text, is_table, where in places if is_table or text not in held]
    return proof


def _search(
    file: Path, patterns: Iterable[bytes], is_table: bool, proof: Proof
) -> Iterator[tuple[bytes, int, str | None]]:
    """(pattern, place, id of the document there) of everything found in a file."""
    proof.files += 1
    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        proof.bytes += size
        if not size:
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for pattern in patterns:
                for place in _places(content, pattern):
                    yield pattern, place, _document_at(content, place) if is_table else None


def _places(content: mmap.mmap, pattern: bytes) -> Iterator[int]:
    place = content.find(pattern)
    while place >= 0:
        yield place
        place = content.find(pattern, place + 1)


def _document_at(content: mmap.mmap, place: int) -> str | None:
    """The id of the document whose line this byte is in; None where the line cannot be read."""
    start, end = content.rfind(b"\n", 0, place) + 1, content.find(b"\n", place)
    try:
        return json.loads(content[start : end if end >= 0 else len(content)])["id"]
    except (ValueError, KeyError, TypeError):
        return None

"""Checks of repetition: equal ids, equal contents, and contents that are nearly equal."""

import hashlib
from array import array

from nanochat.retrieval.linting.findings import Look, NotRun, Setup, View, excerpt
from nanochat.retrieval.words.analysis import spaced_words

_PERMUTATIONS, _BANDS, _SEED = 128, 16, 42
_SHINGLE_WORDS = 3


def content_digest(content: str) -> bytes:
    """Equal for contents that differ in white space and case only."""
    return hashlib.blake2b(" ".join(content.casefold().split()).encode("utf-8", "replace"), digest_size=16).digest()


def repeated_id(setup: Setup) -> Look:
    seen: set[str] = set()

    def look(view: View) -> str:
        if view.id in seen:
            return excerpt(view.content, around=80)
        seen.add(view.id)
        return ""
    return look


def duplicate(setup: Setup) -> Look:
    """Names every document whose content an earlier one has; some 150 bytes of memory a document."""
    first: dict[bytes, str] = {}

    def look(view: View) -> str:
        digest = content_digest(view.content)
        if digest not in first:
            first[digest] = view.id
            return ""
        return f"as {first[digest]}: {excerpt(view.content, around=80)}"
    return look


def near_duplicate(setup: Setup) -> Look:
    """Names every document that is nearly an earlier one: MinHash over three-word sequences, then locality-sensitive
    hashing (Broder 1997). Equal documents are left to the other check; overlapping passages of a document are no find.
    """
    try:
        from rensa import RMinHash, RMinHashLSH
    except ModuleNotFoundError as missing:
        raise NotRun("pip install rensa") from missing
    import numpy as np

    threshold = setup.limits.near_duplicate
    index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    ids: list[tuple[str, str]] = []
    signatures, seen = array("I"), set[bytes]()

    def look(view: View) -> str:
        words = spaced_words(view.content).split()
        digest = content_digest(view.content)
        if len(words) < setup.limits.min_words or digest in seen:
            return ""
        seen.add(digest)
        sketch = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        sketch.update([" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(len(words) - _SHINGLE_WORDS + 1)])
        signature = np.array(sketch.digest(), dtype=np.uint32)
        best, likeness = -1, threshold
        table = np.frombuffer(signatures, dtype=np.uint32).reshape(-1, _PERMUTATIONS)
        for row in sorted(index.query(sketch)):
            share = float((table[row] == signature).mean())
            if share >= likeness and ids[row][1] != view.whole_id:
                best, likeness = row, share
                break
        del table
        index.insert(len(ids), sketch)
        ids.append((view.id, view.whole_id))
        signatures.frombytes(signature.tobytes())
        return f"{likeness:.0%} as {ids[best][0]}: {excerpt(view.content, around=80)}" if best >= 0 else ""
    return look

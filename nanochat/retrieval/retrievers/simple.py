"""TF-IDF with damped counts and pivoted length normalisation, over inverted indexes in plain numpy arrays."""

import json
import re
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.retrieval.base import Hit, hard_link_or_copy
from nanochat.retrieval.document import Document
from nanochat.retrieval.retrievers.postings import WEIGHTS, Counter, Postings, merge
from nanochat.retrieval.words.analysis import ANALYSIS, analyze

# between 0 (document length does not matter) and 1 (full cosine); chosen once on training questions of four sets
SLOPE = 0.3
_BLOCK = 20_000  # documents counted at a time, to bound memory
_MAX_PART_ROWS = 400_000  # parts are not merged beyond this, to bound memory
_PART_NAME = re.compile(r"part-(\d{10})-(\d{10})\.npy")


class SimpleRetriever:
    """Ranks by the sum over shared terms of document weight * query weight.

    Document weight: 1 + ln(1 + ln tf), divided by (1 - slope) * mean length + slope * length, where length is the
    Euclidean norm of the document's weights; query weight: (1 + ln tf) * ln(1 + N / df). Singhal, Buckley and Mitra
    1996, "Pivoted Document Length Normalization"; Singhal et al. 1998, "AT&T at TREC-7" (the double logarithm).

    The index is one inverted index per range of rows, each in one file that never changes; small ones at the end are
    merged when rows are added. df, N and the mean length are taken over all of them when a query comes, and sums are in
    an order that does not depend on the ranges: scores are the same to the last bit. No dependency but numpy.
    """

    def __init__(self) -> None:
        self._use([])

    def _use(self, parts: list[Postings]) -> None:
        self._parts = parts
        self._num_rows = sum(part.num_rows for part in parts)
        lengths = np.concatenate([np.zeros(0, np.float32), *(part.lengths for part in parts)]).astype(np.float64)
        # a sum of whole numbers: the mean must not depend on how the rows are divided
        mean = int(np.rint(lengths * 2**20).astype(np.int64).sum()) / 2**20 / max(self._num_rows, 1)
        # a row without terms has no hits; the 1 keeps an index of such rows out of trouble
        self._norms = ((1 - SLOPE) * mean + SLOPE * lengths) if mean else np.ones(self._num_rows)

    @property
    def num_rows(self) -> int:
        """Rows indexed or loaded."""
        return self._num_rows

    def index(self, documents: Sequence[Document]) -> None:
        """Count the terms of all documents."""
        self._use(list(_count(documents)))

    def search(self, queries: Sequence[str], top_k: int, *, allowed: np.ndarray | None = None) -> list[list[Hit]]:
        """The best hits of each query."""
        return [best_hits(self._scores(query), top_k, allowed) for query in queries]

    def _scores(self, query: str) -> np.ndarray:
        scores = np.zeros(self._num_rows)
        # sorted: the order of additions must not depend on the order of words
        for name, count in sorted(Tally(analyze(query)).items()):
            found = [(part, part.find(name.encode("utf-8"))) for part in self._parts]
            frequency = sum(place.stop - place.start for _, place in found if place)
            weight = (1 + np.log(count)) * np.log1p(self._num_rows / max(frequency, 1))
            first = 0
            for part, place in found:
                if place:
                    # a term's rows are distinct, so the indexed addition is safe
                    rows = scores[first : first + part.num_rows]
                    rows[part.positions[place]] += (weight * WEIGHTS)[part.counts[place]]
                first += part.num_rows
        return np.divide(scores, self._norms, out=scores)

    def save(self, folder: Path) -> None:
        """Write the inverted indexes and the list of them."""
        _write_parts(folder, [], self._parts)

    def load(self, folder: Path) -> None:
        """Map what `save` or `write` wrote; the arrays stay on disk until they are used."""
        self._use([_load(folder, name) for name in _read_parts(folder)])

    def write(self, folder: Path, documents: Sequence[Document], previous: Path | None = None) -> None:
        """Link the parts of `previous`, but merge the small ones at its end with the new rows."""
        names = _read_parts(previous) if previous else []
        num_new, kept = len(documents), len(names)
        while kept and _rows(names[kept - 1]) <= num_new <= _MAX_PART_ROWS - _rows(names[kept - 1]):
            kept -= 1
            num_new += _rows(names[kept])
        for name in names[:kept]:
            hard_link_or_copy(previous / name, folder / name)
        merged = [_load(previous, name) for name in names[kept:]]
        _write_parts(folder, names[:kept], _count(documents, merged))

    def describe(self) -> dict[str, Any]:
        """Analysis chain and weighting."""
        return {"analysis": ANALYSIS, "weights": "dtn.ltn pivoted", "slope": SLOPE, "layout": 2}


def best_hits(scores: np.ndarray, top_k: int, allowed: np.ndarray | None = None) -> list[Hit]:
    """The `top_k` highest of the scores (N,) that are above zero and allowed, best first, ties by position."""
    found = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
    if top_k < 1:
        return []
    if len(found) > top_k:
        values = scores[found]
        # everything at or above the k-th value: ties at the border are cut by position below, not by luck
        found = found[values >= np.partition(values, -top_k)[-top_k]]
    found = found[np.argsort(-scores[found], kind="stable")][:top_k]
    return [Hit(position, score) for position, score in zip(found.tolist(), scores[found].tolist())]


def _count(documents: Sequence[Document], before: Sequence[Postings] = ()) -> Iterator[Postings]:
    """Inverted indexes of bounded size: of `before`, which are merged into the first, and of the documents."""
    counter, waiting = Counter(), list(before)
    for start in range(0, len(documents), _BLOCK):
        if sum(part.num_rows for part in waiting) >= _MAX_PART_ROWS:
            yield merge(waiting)
            waiting = []
        waiting.append(counter.count(documents[start : start + _BLOCK]))
    if waiting:
        yield merge(waiting)


def _write_parts(folder: Path, names: Sequence[str], parts: Iterable[Postings]) -> None:
    """Write parts after those in `names`, and the list of all."""
    names, first = list(names), sum(map(_rows, names))
    for part in parts:
        names.append(f"part-{first:010}-{part.num_rows:010}.npy")
        np.save(folder / names[-1], part.packed, allow_pickle=False)
        first += part.num_rows
    (folder / "parts.json").write_text(json.dumps({"parts": names}, indent=1) + "\n", encoding="utf-8")


def _read_parts(folder: Path) -> list[str]:
    """The file names in row order. Raises ValueError unless they are plain and each begins where the last ends."""
    record = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    names = record.get("parts") if isinstance(record, dict) else None
    if not isinstance(names, list):
        raise ValueError("parts.json lists no parts")
    first = 0
    for name in names:
        form = _PART_NAME.fullmatch(name) if isinstance(name, str) else None
        if not form or int(form[1]) != first:
            raise ValueError(f"parts.json names {name!r} where row {first} begins")
        first += int(form[2])
    return names


def _rows(name: str) -> int:
    return int(name[-14:-4])


def _load(folder: Path, name: str) -> Postings:
    part = Postings(np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)))
    if part.num_rows != _rows(name):
        raise ValueError(f"{name} holds {part.num_rows} rows")
    return part

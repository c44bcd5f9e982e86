"""The leading directions of a sparse matrix by random projection, in plain numpy.

Halko, Martinsson and Tropp 2011, "Finding Structure with Randomness", arXiv:0909.4061.
"""

from dataclasses import dataclass

import numpy as np

_ENTRIES = 65_536  # of the sparse matrix at a time, so that products need little memory
_EXTRA = 16        # directions beyond those wanted, for accuracy
_ROUNDS = 2        # of power iteration
_DAMPING = 0.5     # 0 keeps the strength of the strong directions, 1 makes all equally strong


@dataclass(frozen=True)
class SparseRows:
    """A matrix of which only the entries that are not zero are kept, row after row."""

    starts: np.ndarray   # (R + 1,) where each row begins
    columns: np.ndarray  # (E,)
    values: np.ndarray   # (E,) float32
    num_columns: int

    @classmethod
    def of(cls, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, num_rows: int, num_columns: int):
        """From one (row, column, value) per entry, in any order."""
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], np.arange(num_rows + 1))
        return cls(starts, columns[order], values[order].astype(np.float32), num_columns)

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    def transposed(self) -> "SparseRows":
        """The same matrix with rows and columns exchanged."""
        rows = np.repeat(np.arange(self.num_rows), np.diff(self.starts))
        return SparseRows.of(self.columns, rows, self.values, self.num_columns, self.num_rows)

    def of_length_one(self) -> "SparseRows":
        """Rows scaled to length 1; empty rows stay."""
        rows = np.repeat(np.arange(self.num_rows), np.diff(self.starts))
        norms = np.sqrt(np.bincount(rows, self.values.astype(np.float64) ** 2, minlength=self.num_rows))
        return SparseRows(self.starts, self.columns, (self.values / norms[rows]).astype(np.float32), self.num_columns)

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Product with (num_columns, K): (num_rows, K) float32."""
        result = np.zeros((self.num_rows, dense.shape[1]), np.float32)
        row = 0
        while row < self.num_rows:
            # as many whole rows as fit, at least one
            limit = np.searchsorted(self.starts, self.starts[row] + _ENTRIES, side="right") - 1
            end = min(max(int(limit), row + 1), self.num_rows)
            first, last = self.starts[row], self.starts[end]
            filled = row + np.flatnonzero(np.diff(self.starts[row : end + 1]))
            if len(filled):
                terms = dense[self.columns[first:last]] * self.values[first:last, None]
                result[filled] = np.add.reduceat(terms, self.starts[filled] - first, axis=0)
            row = end
        return result


def term_vectors(matrix: SparseRows, num_dimensions: int, seed: int = 0) -> np.ndarray:
    """(columns, num_dimensions) float32: the leading right singular vectors of the matrix with rows of length 1.

    Each is scaled by the `_DAMPING` power of 1 / its singular value; dimensions beyond the rank are zero.
    """
    matrix = matrix.of_length_one()
    back = matrix.transposed()
    width = min(num_dimensions + _EXTRA, matrix.num_rows, matrix.num_columns)
    if not width:
        return np.zeros((matrix.num_columns, num_dimensions), np.float32)
    found = np.random.default_rng(seed).standard_normal((matrix.num_columns, width)).astype(np.float32)
    for _ in range(_ROUNDS + 1):
        found = np.linalg.qr(back.times(matrix.times(found)))[0]
    projected = matrix.times(found).astype(np.float64)
    strengths, turn = np.linalg.eigh(projected.T @ projected)
    order = np.argsort(-strengths)[:num_dimensions]
    values = np.sqrt(np.maximum(strengths[order], 0))
    kept = order[values > 1e-4 * max(values[0], 1e-12)]
    scale = np.sqrt(strengths[kept] / strengths[kept[0]]) ** -_DAMPING if len(kept) else 1.0
    result = np.zeros((matrix.num_columns, num_dimensions), np.float32)
    result[:, : len(kept)] = found @ (turn[:, kept] * scale)
    return result

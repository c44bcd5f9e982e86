"""Reading prompts: a few new rows together, without padding, in portions that leave time for the rows that write."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.engine.placing import PlacedRows
from nanochat.engine.prefix_cache import PrefixCache, PrefixMatch
from nanochat.engine.reading import plan_steps
from nanochat.engine.request import Handle
from nanochat.model import Cache, LanguageModel

MIN_SHARED = 32  # prompts that begin with this many equal ids are worth reading once


class Prefill:
    """Prompts on their way into a cache of their own, from wherever the prefix cache left off."""

    def __init__(
        self,
        model: LanguageModel,
        handles: Sequence[Handle],
        matches: Sequence[PrefixMatch | None],
        prefix_cache: PrefixCache | None,
    ) -> None:
        self._model, self._prefix_cache = model, prefix_cache
        self.handles = list(handles)
        self.prompts = [list(handle.request.ids) for handle in handles]
        self.at = [match.num_tokens if match else 0 for match in matches]  # tokens read by each row
        self.features: list[Tensor | None] = [match.features if match else None for match in matches]  # (C,) each
        self._kept: list[set[int]] = [set() for _ in handles]  # where the prefix cache takes the state of each row
        cache = model.new_cache(len(handles))
        cache.reserve(max(len(prompt) for prompt in self.prompts))
        self._placed = PlacedRows(cache)
        for row, (handle, match) in enumerate(zip(handles, matches, strict=True)):
            handle.cached_tokens = self.at[row]
            if match:
                match.put(cache, row)
            if handle.request.keep:
                for place in (*handle.request.boundaries, *(match.snapshots if match else ())):
                    self.keep_at(row, int(place))
        self.matches = [match.without_states() if match else None for match in matches]

    @property
    def left(self) -> int:
        """Tokens still to read."""
        return sum(len(prompt) - at for prompt, at in zip(self.prompts, self.at, strict=True))

    @property
    def num_bytes(self) -> int:
        return self._placed.cache.num_bytes

    def state(self, row: int) -> tuple[Cache, int]:
        """The cache and the place in it where a row stands."""
        return self._placed.cache, self._placed.places([row])[0]

    def keep_at(self, row: int, place: int) -> None:
        """Hand the state of a row to the prefix cache after `place` tokens, if it is not past them."""
        if self._prefix_cache is not None and self.at[row] < place <= len(self.prompts[row]):
            self._kept[row].add(place)

    def read(self, budget: int) -> None:
        """Read on; done when `left` is 0.

        A row alone reads about `budget` tokens. Several, which together have no more, are read to their ends.
        """
        many = len(self.handles) > 1
        while self.left and (many or budget > 0):
            lengths = [self._next_stop(row) - at for row, at in enumerate(self.at)]
            if not many:
                lengths = [min(lengths[0], budget)]
            for rows, length in plan_steps(lengths):
                self._step(rows, length)
            for row, length in enumerate(lengths):
                if length and self.at[row] in self._kept[row]:
                    self._keep(row)
            budget -= sum(lengths)

    def _next_stop(self, row: int) -> int:
        end = len(self.prompts[row])
        return min((place for place in self._kept[row] if place > self.at[row]), default=end)

    def _step(self, rows: Sequence[int], length: int) -> None:
        view, group = self._placed.group(rows, length)
        ids = [self.prompts[row][self.at[row] : self.at[row] + length] for row in group]
        features = self._model.features(torch.tensor(ids, device=self._model.device), view)[:, -1]
        for number, row in enumerate(group):
            self.at[row] += length
            self.features[row] = features[number]

    def _keep(self, row: int) -> None:
        match, features = self.matches[row], self.features[row]
        assert self._prefix_cache is not None and match is not None and features is not None, f"row {row} read nothing"
        cache, place = self.state(row)
        # the end of a prompt is taken up less often than the end of its documents, or of its answer
        self._prefix_cache.insert(
            self.prompts[row][: self.at[row]], cache, place, features=features, version=match.version,
            passing=self.at[row] == len(self.prompts[row]))


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two prompts begin with in common; 0 where it is less than MIN_SHARED."""
    if list(one[:MIN_SHARED]) != list(other[:MIN_SHARED]):
        return 0
    low, high = 0, min(len(one), len(other))
    # halving with comparisons of whole pieces: they run in C, a loop over ids would not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if list(one[low:middle]) == list(other[low:middle]) else (low, middle - 1)
    return low if low >= MIN_SHARED else 0

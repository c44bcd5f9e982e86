"""One-token forwards recorded as CUDA graphs: a decode step costs one launch instead of hundreds.

A graph is bound to addresses and shapes, so it runs over one cache of fixed room, for the leading 1, 2, 4, ... rows,
and lengths stay on the device. Off CUDA the same steps may run without recording, which is how they are tested.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model import Cache, LanguageModel
from nanochat.model.states import KVState
from nanochat.model.step import StaticCache

WARM_UPS = 2  # forwards before recording: kernels are compiled, workspaces allocated


@dataclass
class _Recording:
    """The forward of one number of rows."""

    ids: Tensor  # (rows, 1) read by the graph
    rows: StaticCache
    graph: "torch.cuda.CUDAGraph | None" = None  # None: run the forward again
    features: Tensor | None = None  # (rows, 1, C) written by the graph


class DecodeGraphs:
    """Decodes the leading rows of `cache`, a cache of `max_rows` rows with room for `capacity` tokens each.

    Rows of `cache` behind those that are decoded may be written to: keep nothing there. The weights must not be
    replaced by others (changing them in place is fine).
    """

    def __init__(self, model: LanguageModel, max_rows: int, capacity: int, *, is_static: bool | None = None) -> None:
        """is_static: run steps of fixed shape; None means on CUDA only, elsewhere `step` is an ordinary forward."""
        self._model = model
        self._is_recorded = model.device.type == "cuda"
        self._is_static = self._is_recorded if is_static is None else is_static
        self._recordings: dict[int, _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._is_recorded and self._is_static else None
        with torch.no_grad():
            self.cache = model.new_cache(max_rows)
            self.cache.reserve(capacity)
        self._capacity = capacity
        self._keys: Tensor | None = None  # those of the first attention layer when the recordings were made

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""
        return self._capacity

    @property
    def buckets(self) -> list[int]:
        """Numbers of rows that have been prepared."""
        return sorted(self._recordings)

    @torch.no_grad()
    def reserve(self, capacity: int) -> None:
        """Room for at least `capacity` tokens per row. Growing moves the cache: views of it must be made anew."""
        if capacity > self._capacity:
            self.cache.reserve(capacity)
            self._capacity = capacity

    def fits(self, cache: Cache) -> bool:
        """True where `step` runs at fixed shapes: for `cache` itself, or a view of its leading rows, with room left."""
        if not self._is_static or len(cache) > len(self.cache):
            return False
        mine, theirs = (next(iter(c.layers[0].tensors().values())) for c in (self.cache, cache))
        is_mine = mine.data_ptr() == theirs.data_ptr() and cache.lengths.data_ptr() == self.cache.lengths.data_ptr()
        return is_mine and max(cache.host_lengths, default=0) < self._capacity

    @torch.no_grad()
    def step(self, cache: Cache, ids: Tensor) -> Tensor:
        """ids (B, 1) behind the B rows of `cache` -> features (B, 1, C); the cache moves on by one token.

        Any other cache, and rows without room, take an ordinary forward.
        """
        assert ids.shape == (len(cache), 1), f"{len(cache)} rows, ids {tuple(ids.shape)}"
        if not self.fits(cache):
            return self._model.features(ids, cache)
        recording = self._recording(len(cache))
        recording.ids[: len(ids)].copy_(ids, non_blocking=True)
        if recording.graph is None:
            features = self._model.features(recording.ids, recording.rows)
        else:
            recording.graph.replay()
            features = recording.features
        cache.advance(1)
        # the next replay writes over what this one gave
        return features[: len(ids)].clone()

    def _recording(self, rows: int) -> _Recording:
        layers = self.cache.layers
        keys = next((layer.keys for layer in layers if isinstance(layer, KVState)), None)
        if keys is not self._keys:
            # the cache has grown: what was recorded reads and writes memory that is not its own any more
            self._recordings.clear()
            self._keys = keys
        bucket = min(1 << (rows - 1).bit_length(), len(self.cache))
        if bucket not in self._recordings:
            view = self.cache.view(bucket)
            static = StaticCache(view.lengths, view.layers, self._capacity)
            ids = torch.zeros(bucket, 1, dtype=torch.long, device=self._model.device)
            recording = _Recording(ids, static)
            if self._is_recorded:
                self._record(recording, view)
            self._recordings[bucket] = recording
        return self._recordings[bucket]

    def _record(self, recording: _Recording, view: Cache) -> None:
        """Warm up beside the main stream, put the states back as they were, and record."""
        mark = view.mark()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._model.features(recording.ids, recording.rows)
        torch.cuda.current_stream().wait_stream(stream)
        view.rollback(mark)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            recording.features = self._model.features(recording.ids, recording.rows)
        recording.graph = graph

"""The exact prefix cache: prompts that begin alike are read once, and go on from the very state reading left.

A hybrid can go on only where a state was kept (nanochat.engine.prefix_tree), so the question is where to keep one: here
behind chosen ids (the end of the documents), at the end of what was read, and where prompts were seen to part ways, as
in Pan et al. 2024, "Marconi: Prefix Caching for the Era of Hybrid LLMs", arXiv:2411.19379.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanochat.engine.prefix_tree import Node, PrefixTree, Snapshot, edge_bytes, snapshot_bytes, take_snapshot
from nanochat.model import Cache, LanguageModel
from nanochat.model.cache import KVState

MIN_TOKENS = 16  # a state where prompts part ways must save at least so many tokens
PROBES = 16  # numbers looked at per weight tensor to see whether it changed


@dataclass(frozen=True, kw_only=True)
class PrefixMatch:
    """Where reading can go on."""

    num_tokens: int  # leading ids that need not be read again
    model: LanguageModel
    edges: list[tuple[list[tuple[Tensor, Tensor]], int]]  # keys and values of pieces of them, and how many ids count
    kept: Snapshot | None  # what else there is of the last of them
    features: Tensor | None  # (C) of the last of them; there when num_tokens is the length of the ids asked for
    version: int  # hand it to insert(): what was read with other weights is refused
    snapshots: tuple[int, ...]  # lengths at which reading should pause for insert(), rising, above num_tokens

    def put(self, cache: Cache, row: int) -> None:
        """Row `row` of a cache, which has seen nothing, has read these ids, by value."""
        if self.num_tokens:
            cache.load_row(row, self.edges, self.kept.layers if self.kept else [])

    def make_cache(self, *, capacity: int = 0) -> Cache:
        """A cache of one row that has read these ids, with room for at least `capacity` tokens."""
        cache = self.model.new_cache(1)
        cache.reserve(max(capacity, self.num_tokens))
        self.put(cache, 0)
        return cache

    def without_states(self) -> "PrefixMatch":
        """The same, holding no memory any more."""
        return replace(self, edges=[], kept=None, features=None)


@dataclass(frozen=True, kw_only=True)
class PrefixStats:
    """What a prefix cache did since it was made, and what it holds now."""

    hits: int  # matches that saved tokens
    misses: int
    tokens_reused: int
    tokens_read: int  # tokens of matched prompts that had to be read
    insertions: int
    evictions: int
    invalidations: int  # times the weights were found changed
    num_snapshots: int
    bytes: int
    max_bytes: int

    @property
    def token_hit_rate(self) -> float:
        return self.tokens_reused / max(1, self.tokens_reused + self.tokens_read)


class PrefixCache:
    """States of one model after prompts it has read, the least recently used forgotten above `max_bytes`.

    Exact: logits from a match are those of reading all ids, within rounding (1e-5 in float32). It answers only for the
    weights it read with: when they change it starts over. Everything goes in and out by value, so what is evicted or
    cleared is in nobody's use. Safe to share between threads.
    """

    def __init__(self, model: LanguageModel, *, max_bytes: int, boundary_ids: Collection[int] = ()) -> None:
        """boundary_ids: ids behind which prompts part ways, such as results_end; the last in a prompt is kept."""
        assert max_bytes > 0, f"a prefix cache of {max_bytes} bytes holds nothing: leave it out"
        self.model, self.max_bytes = model, max_bytes
        self._boundary_ids = np.array(sorted(boundary_ids), dtype=np.int64)
        self._tree = PrefixTree()
        # nodes with a snapshot, least recently used first; passing ones were not asked for again since they were kept
        self._recent: OrderedDict[Node, None] = OrderedDict()
        self._passing: OrderedDict[Node, None] = OrderedDict()
        self._weights = _Weights(model)
        self._version = 0
        self._num_steady = 0  # steps under way that have looked at the weights
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("hits", "misses", "tokens_reused", "tokens_read", "insertions", "evictions", "invalidations"), 0)
        # without recurrent states every prefix of a known text is known
        layers = model.new_cache(1).layers
        self._can_cut = all(isinstance(layer, KVState) and layer.conv.shape[1] == 0 for layer in layers)

    @property
    def stats(self) -> PrefixStats:
        with self._lock:
            return PrefixStats(
                **self._counts, num_snapshots=len(self._recent) + len(self._passing), bytes=self._tree.num_bytes,
                max_bytes=self.max_bytes)

    def clear(self) -> None:
        """Forget everything; what is being read now is not taken in either."""
        with self._lock:
            self._start_over()

    def match(self, ids: Sequence[int], *, boundaries: Sequence[int] = ()) -> PrefixMatch:
        """The longest known prefix of ids.

        boundaries: lengths of ids after which a state is worth keeping, besides those behind boundary ids. All of ids
        match only where the features of the last one are known; otherwise at least one is left to read.
        """
        asked = np.asarray(ids, dtype=np.int64)
        with self._lock:
            self._check_weights()
            path = self._tree.walk(asked)
            node = next((node for node in reversed(path.nodes) if node.snapshot is not None), None)
            depth, nodes = (node.depth, path.nodes[: path.nodes.index(node) + 1]) if node else (0, [])
            if self._can_cut and depth < len(asked):
                depth = min(path.depth, len(asked) - 1)
                nodes = path.nodes + ([path.partial] if path.partial else [])
                node = nodes[-1] if nodes else None
            # stored tensors never change: what is collected here can be copied without the lock
            edges = [(each.keys_values, min(each.depth, depth) - each.start) for each in nodes if each.start < depth]
            snapshot = node.snapshot if node and node.depth == depth else None
            if node:
                self._use(node.nearest_snapshot())
            version = self._version
            self._counts["hits" if depth else "misses"] += 1
            self._counts["tokens_reused"] += depth
            self._counts["tokens_read"] += len(asked) - depth
        return PrefixMatch(
            num_tokens=depth, model=self.model, edges=edges, kept=snapshot,
            features=snapshot.features if snapshot else None, version=version,
            snapshots=self._places(asked, depth, path.depth, boundaries),
        )

    def insert(
        self, ids: Sequence[int], cache: Cache, row: int = 0, *, features: Tensor, version: int, passing: bool = False
    ) -> bool:
        """Keep the state of a cache's row that has read exactly ids; features (C) are those of the last one.

        passing: only the very same prompt would ask for it again, such as the end of a question; it is the first to
        be forgotten, until it is asked for.

        False, and nothing kept, when weights changed or clear() was called since the match of this `version`, or when
        the budget cannot hold it.
        """
        read = np.asarray(ids, dtype=np.int64)
        length = cache.host_lengths[row]
        assert length == len(read), f"row {row} has read {length} tokens, not {len(read)}"
        with self._lock:
            self._check_weights()
            if version != self._version or not len(read):
                return False
            path = self._tree.walk(read)
            known = path.nodes[-1] if path.nodes and path.nodes[-1].depth == len(read) else None
            if known is None or known.snapshot is None:
                if not self._make_room(read, cache, snapshot_bytes(cache, features), passing=passing):
                    return False
                known = self._tree.add(read, cache, row, take_snapshot(cache, row, features))
                assert self._tree.num_bytes <= self.max_bytes, f"{self._tree.num_bytes} bytes of {self.max_bytes}"
                self._counts["insertions"] += 1
            if passing and known not in self._recent:
                self._passing[known] = None
            else:
                self._use(known)
            return True

    def _use(self, node: Node) -> None:
        self._passing.pop(node, None)
        self._recent[node] = None
        self._recent.move_to_end(node)

    def _make_room(self, ids: np.ndarray, cache: Cache, num_bytes: int, *, passing: bool) -> bool:
        """Forget others until a snapshot of `num_bytes` at the end of ids fits, with what is not known of the way
        there; before anything is copied, so that the budget holds at every moment. Whether it fits.

        Passing states go first, wherever they stand, then leaves, but those not for a passing one.
        """
        while True:
            path = self._tree.walk(ids)
            missing = edge_bytes(cache, len(ids) - (path.nodes[-1].depth if path.nodes else 0))
            # all of the way must fit at once
            if sum(node.num_bytes for node in path.nodes) + num_bytes + missing > self.max_bytes:
                return False
            # an edge that is cut is copied, so that what is known of it takes its place once more for that moment
            copied = edge_bytes(cache, len(path.partial.ids)) if path.partial else 0
            new = edge_bytes(cache, len(ids) - path.depth) + num_bytes
            if self._tree.num_bytes + max(copied, new) <= self.max_bytes:
                return True
            kept = set(path.nodes)
            node = next((node for node in self._passing if node not in kept), None)
            if node is None and not passing:
                node = next((node for node in self._recent if not node.children and node not in kept), None)
            if node is None:
                return False
            self._passing.pop(node, None)
            self._recent.pop(node, None)
            self._tree.drop(node)
            self._counts["evictions"] += 1

    def _places(self, ids: np.ndarray, start: int, known: int, boundaries: Sequence[int]) -> tuple[int, ...]:
        """Where to keep states while ids are read from `start`; a text that agrees up to `known` has been seen."""
        places = [len(ids)] if start < len(ids) else []
        if not self._can_cut:
            behind = {*boundaries, *(np.flatnonzero(np.isin(ids, self._boundary_ids))[-1:] + 1).tolist()}
            for place in sorted({known, *behind}, reverse=True):
                if start + MIN_TOKENS <= place < len(ids) and (place in behind or place + MIN_TOKENS <= places[0]):
                    places.insert(0, place)
        return tuple(places)

    def is_current(self, version: int) -> bool:
        """Whether a match of this version still holds: the weights are the same, and clear() was not called."""
        with self._lock:
            self._check_weights()
            return version == self._version

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Look at the weights now, and not again until the end: for a step, which does not change them."""
        with self._lock:
            self._check_weights()
            self._num_steady += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_steady -= 1

    def _check_weights(self) -> None:
        if not self._num_steady and self._weights.have_changed():
            self._counts["invalidations"] += 1
            self._start_over()

    def _start_over(self) -> None:
        self._tree = PrefixTree()
        self._recent.clear()
        self._passing.clear()
        self._version += 1


class _Weights:
    """Notices that a model's weights are not what they were.

    Looks at which tensors there are, where they lie and how often they were written to, and, for writes that torch does
    not count (through .data), at some numbers of each.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._look()

    @torch.no_grad()
    def have_changed(self) -> bool:
        """True once after every change."""
        if self._key == self._now() and torch.equal(self._probe, torch.cat(self._samples)):
            return False
        self._look()
        return True

    def _now(self) -> tuple:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        written = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
        return self._model.config, tuple((id(t), t.data_ptr(), w) for t, w in zip(tensors, written, strict=True))

    def _look(self) -> None:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        flat = [tensor.detach().reshape(-1) for tensor in tensors]
        self._key = self._now()
        self._samples = [tensor[:: max(1, len(tensor) // PROBES)] for tensor in flat]
        self._probe = torch.cat(self._samples)

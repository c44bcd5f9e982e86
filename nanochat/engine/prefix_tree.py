"""A radix tree of token sequences: keys and values on its edges, convolution tails and SSM states where they were kept.

Keys and values of a prefix can be cut out of those of a longer text; a recurrent state cannot, it stands for exactly
the tokens it has read. So edges hold what each token adds, and a node may hold a state: only there can reading go on.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nanochat.model import Cache
from nanochat.model.cache import KVState


@dataclass(eq=False)
class Snapshot:
    """All that is not keys and values after some tokens. Tensors in a tree are never written to again."""

    layers: list[dict[str, Tensor]]  # recurrent fields of every layer, without the row dimension
    features: Tensor  # (C) of the last token: the logits of the next one follow without a forward

    @property
    def num_bytes(self) -> int:
        return sum(map(_bytes, [self.features, *(tensor for layer in self.layers for tensor in layer.values())]))


@dataclass(eq=False)
class Node:
    """The tokens from its parent to here."""

    ids: np.ndarray  # (L,) int64, the edge
    depth: int  # tokens from the root to the end of the edge
    keys_values: list[tuple[Tensor, Tensor]]  # of every T layer, (Hkv, L, D) each
    parent: "Node | None" = None
    children: "dict[int, Node]" = field(default_factory=dict)  # by their first id
    snapshot: Snapshot | None = None

    @property
    def start(self) -> int:
        """Tokens from the root to the beginning of the edge."""
        return self.depth - len(self.ids)

    @property
    def num_bytes(self) -> int:
        edge = self.ids.nbytes + sum(_bytes(tensor) for pair in self.keys_values for tensor in pair)
        return edge + (self.snapshot.num_bytes if self.snapshot else 0)

    def nearest_snapshot(self) -> "Node":
        """This node or one below it that holds a snapshot; every leaf does."""
        node = self
        while node.snapshot is None:
            node = next(iter(node.children.values()))
        return node


@dataclass(frozen=True)
class Path:
    """How far a text is known: nodes whose edges it passes wholly, and how many ids of one more edge."""

    nodes: list[Node]  # without the root
    partial: Node | None
    depth: int  # tokens known


class PrefixTree:
    """The tree alone: no budget, no lock, no opinion on what to keep."""

    def __init__(self) -> None:
        self.root = Node(np.empty(0, np.int64), 0, [])
        self.num_bytes = 0

    def walk(self, ids: np.ndarray) -> Path:
        """Follow ids as far as they are known."""
        nodes, node = [], self.root
        while node.depth < len(ids) and (child := node.children.get(int(ids[node.depth]))) is not None:
            rest = ids[node.depth : child.depth]
            same = common_length(rest, child.ids)
            if same < len(child.ids):
                return Path(nodes, child, node.depth + same)
            nodes.append(child)
            node = child
        return Path(nodes, None, node.depth)

    def add(self, ids: np.ndarray, cache: Cache, row: int, snapshot: Snapshot) -> Node:
        """The node at the end of ids, with this snapshot unless it has one; takes keys and values it lacks from a row.
        """
        path = self.walk(ids)
        node = path.nodes[-1] if path.nodes else self.root
        if path.partial is not None:
            node = self._split(path.partial, path.depth)
        if path.depth < len(ids):
            new = slice(path.depth, len(ids))
            pairs = [(layer.keys[row, :, new].clone(), layer.values[row, :, new].clone())
                     for layer in cache.layers if isinstance(layer, KVState)]
            child = Node(ids[path.depth :].copy(), len(ids), pairs, parent=node)
            node.children[int(child.ids[0])] = child
            self.num_bytes += child.num_bytes
            node = child
        if node.snapshot is None:
            node.snapshot = snapshot
            self.num_bytes += snapshot.num_bytes
        return node

    def drop(self, node: Node) -> None:
        """Forget a node's snapshot, and all keys and values that led to it alone."""
        if node.snapshot is not None:
            self.num_bytes -= node.snapshot.num_bytes
            node.snapshot = None
        while node.parent is not None and not node.children and node.snapshot is None:
            self.num_bytes -= node.num_bytes
            parent, node.parent = node.parent, None
            del parent.children[int(node.ids[0])]
            node = parent

    def _split(self, node: Node, depth: int) -> Node:
        """Cut a node's edge in two at `depth`; the new upper node."""
        assert node.parent is not None and node.start < depth < node.depth, f"{depth} is not inside"
        cut = depth - node.start
        # cloned: a slice would keep the whole edge alive when the other half is dropped
        upper = Node(node.ids[:cut].copy(), depth,
                     [(k[:, :cut].clone(), v[:, :cut].clone()) for k, v in node.keys_values], parent=node.parent)
        upper.children[int(node.ids[cut])] = node
        node.parent.children[int(node.ids[0])] = upper
        node.ids = node.ids[cut:].copy()
        node.keys_values = [(k[:, cut:].clone(), v[:, cut:].clone()) for k, v in node.keys_values]
        node.parent = upper
        return upper


def snapshot_bytes(cache: Cache, features: Tensor) -> int:
    """Memory of the snapshot of one row with its features (C)."""
    return _bytes(features) + sum(_bytes(getattr(layer, name)[0]) for layer in cache.layers for name in layer.recurrent)


@torch.no_grad()
def take_snapshot(cache: Cache, row: int, features: Tensor) -> Snapshot:
    """A copy of a row's recurrent state, with its features (C)."""
    layers = [{name: getattr(layer, name)[row].clone() for name in layer.recurrent} for layer in cache.layers]
    return Snapshot(layers, features.detach().clone())


def edge_bytes(cache: Cache, num_tokens: int) -> int:
    """Memory of an edge of so many tokens."""
    pairs = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, KVState)]
    return num_tokens * (8 + sum(_bytes(tensor[0, :, :1]) for pair in pairs for tensor in pair))


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """How many leading ids are the same."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

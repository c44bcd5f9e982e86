"""A few new tokens through the whole model in one call of compiled C, where that is possible; else the plain path.

For decoding: float32 weights on a CPU, a cache, no gradients. The functions return None where they do not apply, and
write nothing then. NANOCHAT_NATIVE=0 turns them off.
"""

import ctypes
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nanochat.model.cache import Cache
from nanochat.model.cpu.build import library
from nanochat.model.cpu.plan import Model, Plan, State
from nanochat.model.slots import SlotState, meets_documents, slots_of
from nanochat.model.states import KVState, SSMState

if TYPE_CHECKING:
    from nanochat.model.language_model import LanguageModel

MAX_TOKENS = 16  # new ones per row
MAX_ROWS = 512  # rows times new tokens of a forward; it wins over the plain path by less and less
MAX_PRODUCT_ROWS = 64  # of a product alone: beyond, the libraries behind torch are as fast
FLOATS_PER_THREAD = 1_000_000  # weights times rows that keep one thread busy for longer than waking another takes

_plans: "WeakKeyDictionary[LanguageModel, Plan]" = WeakKeyDictionary()
_states: "WeakKeyDictionary[Cache, _States]" = WeakKeyDictionary()


def features(model: "LanguageModel", ids: Tensor, cache: Cache) -> Tensor | None:
    """ids (B, T) behind what `cache` holds -> features (B, T, C) as model.features, which moves the cache's states on.

    None, and nothing is done, where this does not apply. Lengths of the cache are left to the caller.
    """
    if not _serves(ids, model.embed.weight) or ids.numel() > MAX_ROWS or not 0 < ids.shape[1] <= MAX_TOKENS:
        return None
    if type(cache) is not Cache or ids.numel() == 0 or ids.dtype != torch.long:
        return None
    plan = plan_of(model)
    if plan.reason:
        return None
    slots = slots_of(cache.layers)
    if (slots is None) != (not plan.config.slot_scale):
        return None
    batch, length = ids.shape
    known = cache.host_lengths
    states = _states_of(plan, cache, max(known) + length)
    if states is None:
        return None
    functions = library().functions
    threads = _threads(plan.num_floats * batch * length)
    ids, address, standing = ids.contiguous(), plan.address, None
    # outside of documents embeddings are those of the tokens alone, and a slot state stays as it is
    if slots is not None and meets_documents(ids, plan.config.slot_ids, slots.slot):
        table, standing = model.embeddings(ids, before=slots.slot)
        reading = Model.from_buffer_copy(plan.model)
        reading.embed, reading.vocab, address = table.data_ptr(), ids.numel(), ctypes.addressof(reading)
        ids = torch.arange(ids.numel())
    out = torch.empty(batch, length, plan.model.width)
    scratch = torch.empty(functions.native_scratch(plan.address, batch, length, threads))
    wrong = functions.native_forward(
        address, plan.layers, states.places, ids.data_ptr(), (ctypes.c_int64 * batch)(*known), batch, length,
        out.data_ptr(), scratch.data_ptr(), threads)
    if wrong:
        return None
    if slots is not None and standing is not None:
        slots.update(slot=standing)
    return out


def linear(x: Tensor, weight: Tensor) -> Tensor | None:
    """x (..., K) times weight (N, K) transposed -> (..., N); None where this does not apply."""
    size, width = weight.shape
    rows = x.numel() // width
    if not 0 < rows <= MAX_PRODUCT_ROWS or not _serves(x, weight):
        return None
    if x.dtype != torch.float32 or x.shape[-1] != width or not weight.is_contiguous():
        return None
    y, x = torch.empty(*x.shape[:-1], size), x.contiguous()
    library().functions.native_linear(
        x.data_ptr(), rows, weight.data_ptr(), size, width, y.data_ptr(), _threads(size * width * rows))
    return y


def describe(model: "LanguageModel | None" = None) -> str:
    """One sentence: what decoding on this machine's CPU uses, for `model` if one is given, and why."""
    found = library()
    if found.functions is None:
        return f"plain path: {found.reason}"
    reason = "" if model is None else plan_of(model).reason
    return f"plain path: {reason}" if reason else f"native path: {found.reason}"


def plan_of(model: "LanguageModel") -> Plan:
    """Where the weights lie now."""
    plan = _plans.get(model)
    if plan is None or not plan.is_current():
        plan = _plans[model] = Plan(model)
    return plan


def _serves(x: Tensor, weight: Tensor) -> bool:
    """True for plain tensors on a CPU, outside of everything that watches or changes single operations."""
    return (
        weight.dtype == torch.float32 and weight.device.type == "cpu" and x.device.type == "cpu"
        and not torch.is_grad_enabled() and type(x) is Tensor and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu") and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0 and library().functions is not None
    )


def _threads(num_floats: int) -> int:
    return max(1, min(torch.get_num_threads(), num_floats // FLOATS_PER_THREAD))


class _States:
    """Where a cache's tensors lie, for as long as they are the same tensors."""

    def __init__(self, plan: Plan, cache: Cache) -> None:
        self.plan = plan
        layers = [layer for layer in cache.layers if not isinstance(layer, SlotState)]
        self.tensors = [(layer.__dict__, name, tensor) for layer in layers for name, tensor in layer.tensors().items()]
        self.addresses = [tensor.data_ptr() for _, _, tensor in self.tensors]
        self.places = (State * len(layers))()
        self.fits = all(self._place(number, layer) for number, layer in enumerate(layers))

    def _place(self, number: int, layer: SSMState | KVState) -> bool:
        tensors, capacity = list(layer.tensors().values()), layer.capacity if isinstance(layer, KVState) else 0
        tensors = [tensors[-1], *tensors[:-1]] if isinstance(layer, KVState) else tensors
        self.places[number] = State(*(tensor.data_ptr() for tensor in tensors), *(3 - len(tensors)) * [None], capacity)
        shapes = self.plan.state_shapes(number, len(tensors[0]), capacity)
        return [tuple(tensor.shape) for tensor in tensors] == shapes and all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
            for tensor in tensors)

    def is_current(self, plan: Plan) -> bool:
        return self.plan is plan and all(table[name] is tensor for table, name, tensor in self.tensors) and (
            [tensor.data_ptr() for _, _, tensor in self.tensors] == self.addresses)


def _states_of(plan: Plan, cache: Cache, total: int) -> _States | None:
    """The cache's memory with room for `total` positions per row; None where it is not as the library expects it."""
    for layer in cache.layers:
        layer.check()
        if isinstance(layer, KVState) and layer.capacity < total:
            layer.reserve(max(total, 2 * layer.capacity))
    states = _states.get(cache)
    if states is None or not states.is_current(plan):
        states = _states[cache] = _States(plan, cache)
    recorded = any(tensor.requires_grad for _, _, tensor in states.tensors)
    return states if states.fits and not recorded else None

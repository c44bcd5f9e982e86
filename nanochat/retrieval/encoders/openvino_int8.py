"""An OpenVINO graph in 8-bit integers: the linear layers, and queries and keys of attention.

Static quantisation: scales come from running a few texts once. SmoothQuant first moves the outliers of activations into
the weights (Xiao et al. 2022, arXiv:2211.10438). The processor's plugin reads FakeQuantize nodes and takes its integer
kernels. The same choices as NNCF's for transformers, without that package.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import openvino

SMOOTHING = 0.95         # how much of an outlier goes into the weights: 0 none, 1 all
_MOVES = ("Reshape", "Transpose")
_SMALL = 1e-5

Key = tuple[str, int]    # a node's name and the number of its output


class _Range(NamedTuple):
    """What was seen at one place, per channel."""

    low: np.ndarray      # (C,)
    high: np.ndarray     # (C,)


@cache
def openvino_core() -> "openvino.Core":
    """The one core of this process, never given up.

    Each core's plugin moves the signal stack of its thread when made and moves it back when freed. Two of them, freed
    in the order of their making, leave a stack that is gone: the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def quantize(model: "openvino.Model", inputs: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Change a float graph in place. `inputs` are (ids, mask) without padding. Returns how many layers changed."""
    layers: dict[Key, list[Any]] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul" and _weights(node) is not None:
            layers.setdefault(_key(node.input_value(0)), []).append(node)
    attention = _attention_inputs(model)
    sources = {key: nodes[0].input_value(0) for key, nodes in layers.items()}
    sources |= {_key(node.input_value(side)): node.input_value(side) for node, side in attention}
    seen = _observe(model, sources, inputs)
    for key, nodes in layers.items():
        _quantize_layers(nodes, seen[key])
    for node, side in attention:
        source = node.input_value(side)
        low, high = seen[_key(source)]
        largest = max(float(-low.min()), float(high.max()), _SMALL)
        node.input(side).replace_source_output(_fake_quantize(source, -largest * 128 / 127, largest))
    model.validate_nodes_and_infer_types()
    return sum(map(len, layers.values()))


def _key(output: Any) -> Key:
    return output.get_node().get_friendly_name(), output.get_index()


def _weights(matmul: Any) -> np.ndarray | None:
    """(out, in) float32 of a linear layer; None when the node multiplies two activations."""
    node = matmul.input_value(1).get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) != 2:
        return None
    weights = node.get_data().astype(np.float32)
    return weights if matmul.get_attributes()["transpose_b"] else weights.T


def _attention_inputs(model: "openvino.Model") -> list[tuple[Any, int]]:
    """Where queries and keys come out of their layers, as (node, input): before they are cut into heads."""
    found = []
    for node in model.get_ordered_ops():
        for side in (0, 1) if node.get_type_name() == "ScaledDotProductAttention" else ():
            taker, place = node, side
            while taker.input_value(place).get_node().get_type_name() in _MOVES:
                taker, place = taker.input_value(place).get_node(), 0
            found.append((taker, place))
    return found


def _observe(model: "openvino.Model", sources: dict[Key, Any], inputs: Iterable[Any]) -> dict[Key, _Range]:
    """The range of each channel at each place, over all inputs."""
    import openvino
    from openvino import opset13

    probe = openvino.Model([opset13.result(output) for output in sources.values()], model.get_parameters(), "probe")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(probe, "CPU", settings).create_infer_request()
    seen: dict[Key, _Range] = {}
    for ids, mask in inputs:
        values = request.infer([ids, mask], share_inputs=True)
        for number, key in enumerate(sources):
            rows = values[number].reshape(-1, values[number].shape[-1])
            low, high = rows.min(axis=0), rows.max(axis=0)
            if key in seen:
                low, high = np.minimum(low, seen[key].low), np.maximum(high, seen[key].high)
            seen[key] = _Range(low, high)
    return seen


def _quantize_layers(nodes: list[Any], seen: _Range) -> None:
    """Replace the layers that read one activation: scale it, quantise it once, and quantise their weights."""
    from openvino import opset13

    source = nodes[0].input_value(0)
    weights = [_weights(node) for node in nodes]
    heaviest = np.max([np.abs(one).max(axis=0) for one in weights], axis=0)
    largest = np.maximum(np.abs(seen.low), np.abs(seen.high))
    scale = np.maximum(largest, _SMALL) ** SMOOTHING / np.maximum(heaviest, _SMALL) ** (1 - SMOOTHING)
    scale = np.maximum(scale, _SMALL)
    shape = [1] * (len(source.get_partial_shape()) - 1) + [-1]
    smooth = opset13.multiply(source, opset13.constant((1 / scale).astype(np.float32).reshape(shape)))
    low, high = float((seen.low / scale).min()), float((seen.high / scale).max())
    # zero must be one of the 256 levels
    low, high = min(low, 0.0), max(high, _SMALL)
    step = (high - low) / 255
    below = round(-low / step)
    activation = _fake_quantize(smooth.output(0), -below * step, (255 - below) * step)
    for node, one in zip(nodes, weights):
        scaled = one * scale
        steps = np.maximum(np.abs(scaled).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
        integers = np.clip(np.round(scaled / steps), -127, 127).astype(np.int8)
        restored = opset13.multiply(opset13.convert(opset13.constant(integers), "f32"), opset13.constant(steps))
        layer = opset13.matmul(activation, restored, False, True)
        layer.set_friendly_name(node.get_friendly_name())
        for taker in list(node.output(0).get_target_inputs()):
            taker.replace_source_output(layer.output(0))


def _fake_quantize(source: Any, low: float, high: float) -> Any:
    from openvino import opset13

    low, high = np.float32(low), np.float32(high)
    return opset13.fake_quantize(source, low, high, low, high, 256).output(0)

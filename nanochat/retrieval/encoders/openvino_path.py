"""OpenVINO on the processor: a float graph, or one in 8-bit integers. Converted from torch without a network."""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.retrieval.encoders.calibration import calibration_inputs
from nanochat.retrieval.encoders.openvino_int8 import openvino_core, quantize
from nanochat.retrieval.encoders.paths import Batch, Run, converted, num_threads
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder

if TYPE_CHECKING:
    import openvino

_FLOAT, _INT8 = "openvino-float-1", "openvino-int8-1"
_GRAPH = "graph.xml"
_SHORT = 40          # tokens, padding included: five graphs at most
_QUERY_THREADS = 4   # more do not help some twenty tokens


def load_float(sentence: SentenceFolder, *, for_queries: bool) -> Run:
    """The model as it is."""
    return _load(sentence, _FLOAT, for_queries)


def load_int8(sentence: SentenceFolder, *, for_queries: bool) -> Run:
    """The model in 8-bit integers."""
    return _load(sentence, _INT8, for_queries)


def _load(sentence: SentenceFolder, kind: str, for_queries: bool) -> Run:
    import openvino

    def write(folder: Path) -> None:
        model = convert(sentence)
        if kind == _INT8:
            quantize(model, calibration_inputs(sentence))
        openvino.save_model(model, str(folder / _GRAPH), compress_to_fp16=False)

    with converted(sentence, kind, write) as folder:
        model = openvino_core().read_model(str(folder / _GRAPH))
    return _for_queries(model) if for_queries else _several_at_once(model)


def _for_queries(model: Any) -> Run:
    """A short query alone runs on a graph of its very shape, made when first needed; all else like documents.

    A graph of fixed shape takes half the time of a free one, which plans its memory anew for every length.
    """
    import openvino

    requests: dict[int, Any] = {}
    others: list[Run] = []

    def request_of(length: int) -> Any:
        if length not in requests:
            fixed = model.clone()
            fixed.reshape({place: openvino.PartialShape([1, length]) for place in range(2)})
            settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": min(num_threads(), _QUERY_THREADS)}
            requests[length] = openvino_core().compile_model(fixed, "CPU", settings).create_infer_request()
        return requests[length]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        batches = list(batches)
        if len(batches) == 1 and batches[0][0].shape[0] == 1 and batches[0][0].shape[1] <= _SHORT:
            ids, mask = batches[0]
            yield request_of(ids.shape[1]).infer([ids, mask], share_inputs=True, share_outputs=True)[0].copy()
            return
        if not others:
            others.append(_several_at_once(model))
        yield from others[0](batches)

    return run


def _several_at_once(model: Any) -> Run:
    """As many batches in flight as the plugin wants: better use of the cores than one batch on all of them."""
    import openvino

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": num_threads()}
    queue = openvino.AsyncInferQueue(openvino_core().compile_model(model, "CPU", settings))
    size = len(queue)

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        results: dict[int, np.ndarray] = {}

        def keep(request: Any, number: int) -> None:
            results[number] = request.get_output_tensor(0).data.copy()

        queue.set_callback(keep)
        following, number = 0, -1
        for number, (ids, mask) in enumerate(batches):
            queue.start_async([ids, mask], userdata=number)
            if number >= 4 * size:
                # what a slow neighbour holds back is waited for, so that few results are held
                while following in results:
                    yield results.pop(following)
                    following += 1
        queue.wait_all()
        yield from (results.pop(place) for place in range(following, number + 1))

    return run


def convert(sentence: SentenceFolder) -> "openvino.Model":
    """The sentence module as an OpenVINO graph with free batch and length, traced by torch."""
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from nanochat.retrieval.encoders.sentence_module import load_module, quiet_transformers

    example = torch.ones(2, 16, dtype=torch.long)
    inputs = {"ids": example, "mask": example.clone()}
    # openvino.convert_model does the same, and reports its use over the network
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet_transformers():
        # the tracer warns of branches on shapes; a test compares other shapes with torch
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(load_module(sentence), example_input=inputs)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    for parameter in model.get_parameters():
        parameter.set_element_type(openvino.Type.i64)
        parameter.set_partial_shape(openvino.PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    return model

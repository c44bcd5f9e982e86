"""ONNX Runtime in float32. The graph is exported by torch, without a network and without the onnx package."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nanochat.retrieval.encoders.paths import Batch, Run, converted, num_threads
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder

_KIND = "onnx-float32-1"


def load(sentence: SentenceFolder, *, for_queries: bool) -> Run:
    """The model for documents and queries alike."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads(), 1
    options.log_severity_level = 3
    with converted(sentence, _KIND, lambda folder: export(sentence, folder / "graph.onnx")) as folder:
        session = onnxruntime.InferenceSession(
            str(folder / "graph.onnx"), options, providers=["CPUExecutionProvider"])

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for ids, mask in batches:
            yield session.run(None, {"ids": ids, "mask": mask})[0]

    return run


def export(sentence: SentenceFolder, file: Path) -> None:
    """Write the sentence module as an ONNX graph with free batch and length."""
    import torch

    from nanochat.retrieval.encoders.sentence_module import load_module

    example = torch.ones(2, 16, dtype=torch.long)
    with warnings.catch_warnings():
        # the tracer warns of branches on shapes; a test compares other shapes with torch
        warnings.simplefilter("ignore")
        torch.onnx.export(
            load_module(sentence, "eager"), (example, example.clone()), str(file), dynamo=False, opset_version=17,
            input_names=["ids", "mask"], output_names=["vectors"],
            dynamic_axes={"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}, "vectors": {0: "batch"}},
        )

"""The tables of bench.model_gpu: each function measures one and hands every row to the report."""

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.model_gpu_models import make, make_peer, seconds, weights_of
from nanochat.engine.cuda_graphs import DecodeGraphs
from nanochat.model import ModelConfig, kernels
from nanochat.model.layers import causal_conv
from nanochat.model.ssd import ssd
from nanochat.training.flops import flops_per_token, peak_flops
from nanochat.training.losses import Batch, language_model_loss
from nanochat.training.precision import autocast, compile_blocks

if TYPE_CHECKING:
    from bench.model_gpu import Report, Sizes

Models = dict[str, ModelConfig]


def _peak_gb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def _fresh(device: torch.device) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _ids(config: ModelConfig, *shape: int, device: torch.device) -> Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _limits(report: "Report", sizes: "Sizes", device: torch.device) -> dict[str, float]:
    """Bytes and operations a second of a large copy and a large product, measured once."""
    if "limits" not in report.record:
        is_large = device.type == "cuda"
        source = torch.empty(2**30 if is_large else 2**22, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy = seconds(lambda: target.copy_(source), device, sizes.repeats)
        side = 8192 if is_large else 256
        one, other = torch.randn(2, side, side, device=device).to(_dtype(device))
        product = seconds(lambda: one @ other, device, sizes.repeats)
        report.record["limits"] = {"bytes_per_s": 2 * source.numel() / copy, "flops_per_s": 2 * side**3 / product}
    return report.record["limits"]


def machine(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """What the device can do."""
    report.measure("machine", {}, lambda: _limits(report, sizes, device) | {"peak_flops": peak_flops(
        device, _dtype(device))})


@contextmanager
def _chosen(choice: str) -> Iterator[None]:
    before = os.environ.get(kernels.VARIABLE)
    os.environ[kernels.VARIABLE] = choice
    try:
        yield
    finally:
        os.environ.pop(kernels.VARIABLE)
        if before is not None:
            os.environ[kernels.VARIABLE] = before


def kernel_times(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """The scan and the convolution alone, forward and with gradients, with every choice that is installed."""
    for shape in sizes.scans:
        for choice in kernels.PACKAGES:
            if device.type == "cuda" or choice == "plain":
                report.measure("kernels", {"scan": list(shape), "choice": choice},
                               lambda shape=shape, choice=choice: _kernel(shape, choice, sizes, device))


def _kernel(shape: tuple[int, ...], choice: str, sizes: "Sizes", device: torch.device) -> dict[str, float]:
    rows, length, heads, size, d_state = shape
    if package := kernels.PACKAGES[choice]:
        importlib.import_module(package)
    dtype = _dtype(device)
    x = torch.randn(rows, length, heads, size, device=device, dtype=dtype, requires_grad=True)
    b, c = (torch.randn(rows, length, 1, d_state, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    dt = torch.rand(rows, length, heads, device=device, requires_grad=True)
    decay = (-torch.rand(heads, device=device)).requires_grad_()
    weight = torch.randn(heads * size, 4, device=device, dtype=dtype, requires_grad=True)

    def scan() -> Tensor:
        # the plain form computes in float32, as the model gives it
        given = (t.float() if choice == "plain" else t for t in (x, b, c))
        x_, b_, c_ = given
        return ssd(x_, dt, decay, b_, c_, chunk_size=64)[0]

    def convolution() -> Tensor:
        return causal_conv(x.flatten(2), weight, None, None)[0]

    result = {}
    with _chosen(choice):
        for name, work in (("scan", scan), ("convolution", convolution)):
            gradient = torch.randn_like(work())
            with torch.no_grad():
                result[f"{name}_ms"] = 1e3 * seconds(work, device, sizes.repeats)
            result[f"{name}_with_gradients_ms"] = 1e3 * seconds(
                lambda work=work, gradient=gradient: work().backward(gradient), device, sizes.repeats)
    return result


def training(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """Steps of forward, backward and AdamW under autocast, ours without and with checkpointing, and transformers."""
    for name, config in models.items():
        for way in ("plain", "checkpointing", "transformers"):
            report.measure("training", {"model": name, "way": way}, lambda config=config, way=way, name=name: _train(
                config, sizes.rows[name], way, sizes, device))


def compiled(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """The same steps with torch.compile on every block; last, since compiling takes its time."""
    for name, config in models.items():
        report.measure("training", {"model": name, "way": "compiled"}, lambda config=config, name=name: _train(
            config, sizes.rows[name], "compiled", sizes, device))


def _train(config: ModelConfig, rows: int, way: str, sizes: "Sizes", device: torch.device) -> dict[str, Any]:
    _fresh(device)
    is_peer = way == "transformers"
    model = (make_peer if is_peer else make)(config, device)
    if not is_peer:
        model.checkpointing = way == "checkpointing"
    if way == "compiled":
        compile_blocks(model.layers, "true", device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    ids = _ids(config, rows, sizes.row_len, device=device)
    batch = Batch(ids=ids, targets=ids.roll(-1, 1))
    context = autocast(device, _dtype(device))

    def step() -> None:
        with context():
            if is_peer:
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            else:
                loss = language_model_loss(model, batch, float(ids.numel())).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    took = seconds(step, device, 3)
    tokens_per_s = ids.numel() / took
    rate = tokens_per_s * flops_per_token(config, sizes.row_len)
    peak = peak_flops(device, _dtype(device))
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "rows": rows,
            "row_len": sizes.row_len, "step_ms": 1e3 * took, "tokens_per_s": tokens_per_s, "tflops": rate / 1e12,
            "mfu": rate / peak if peak else None, "peak_gb": _peak_gb(device)}


def decode(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """One token at a time behind a prompt, ours without and with graphs, and transformers."""
    for name, config in models.items():
        for batch in sizes.batches:
            for way in ("ordinary", "graphs", "transformers"):
                row = {"model": name, "rows": batch, "way": way}
                report.measure("decode", row, lambda config=config, batch=batch, way=way: _decode(
                    report, config, batch, way, sizes, device))


@torch.no_grad()
def _decode(report: "Report", config: ModelConfig, batch: int, way: str, sizes: "Sizes", device: torch.device
            ) -> dict[str, float]:
    _fresh(device)
    prompt, room = _ids(config, batch, sizes.prompt, device=device), sizes.prompt + sizes.decoded * (sizes.repeats + 3)
    model = (make_peer if way == "transformers" else make)(config, device, _dtype(device)).eval()
    ids = prompt[:, -1:]
    if way == "transformers":
        past = model(input_ids=prompt, use_cache=True).past_key_values

        def step() -> None:
            model(input_ids=ids, past_key_values=past, use_cache=True).logits.argmax(-1)
    else:
        graphs = DecodeGraphs(model, batch, room, is_static=way == "graphs")
        model.features(prompt, graphs.cache)

        def step() -> None:
            model.head(graphs.step(graphs.cache, ids)).argmax(-1)

    took = seconds(lambda: [step() for _ in range(sizes.decoded)], device, sizes.repeats, warm_ups=1) / sizes.decoded
    # a step reads all weights once, and every row's states twice (read and written) and keys and values once
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    states = [block.mixer.new_state(1, torch.device("cpu"), _dtype(device)) for block in weights_of(config).layers]
    for state in states:
        state.reserve(sizes.prompt)
    held = sum(tensor.nbytes for state in states for tensor in state.tensors().values())
    recurrent = sum(getattr(state, field).nbytes for state in states for field in state.recurrent)
    needed = weights + batch * (held + recurrent)
    limit = batch * _limits(report, sizes, device)["bytes_per_s"] / needed
    return {"step_ms": 1e3 * took, "tokens_per_s": batch / took, "limit_tokens_per_s": limit,
            "share_of_limit": batch / took / limit}


def prefill(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """One prompt, from short to long."""
    for name, config in models.items():
        for length in sizes.lengths:
            for who in ("ours", "transformers"):
                row = {"model": name, "who": who, "length": length}
                report.measure("prefill", row, lambda config=config, who=who, length=length: _prefill(
                    config, who, length, sizes, device))


@torch.no_grad()
def _prefill(config: ModelConfig, who: str, length: int, sizes: "Sizes", device: torch.device) -> dict[str, float]:
    _fresh(device)
    ids = _ids(config, 1, length, device=device)
    model = (make_peer if who == "transformers" else make)(config, device, _dtype(device)).eval()

    def read() -> None:
        if who == "transformers":
            model(input_ids=ids, use_cache=True, logits_to_keep=1)
        else:
            model.head(model.features(ids, model.new_cache(1))[:, -1])

    took = seconds(read, device, 3, warm_ups=1)
    return {"ms": 1e3 * took, "us_per_token": 1e6 * took / length, "tokens_per_s": length / took,
            "peak_gb": _peak_gb(device)}


def choices(report: "Report", models: Models, sizes: "Sizes", device: torch.device) -> None:
    """What each setting of NANOCHAT_KERNELS comes to here."""
    for choice in kernels.PACKAGES:
        def describe(choice: str = choice) -> dict[str, str]:
            if package := kernels.PACKAGES[choice]:
                importlib.import_module(package)
            with _chosen(choice):
                return kernels.describe()

        report.measure("choices", {"NANOCHAT_KERNELS": choice}, describe)

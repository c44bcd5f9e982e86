"""Parts of the model against the machine's limits and against plain PyTorch, one thread."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.model_cpu_peer import fastest
from nanochat.model.cpu.scan import ssd_cpu
from nanochat.model.layers import RMSNorm, causal_conv
from nanochat.model.ssd import ssd_chunked


def machine() -> dict[str, float]:
    """Peaks: matrix products in GFLOP/s by library and type, reading memory in GB/s."""
    figures = {}
    kinds = {"mkl_float32": ("highest", torch.float32), "onednn_float32": ("medium", torch.float32),
             "bfloat16": ("medium", torch.bfloat16)}
    for name, (precision, dtype) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        square = torch.randn(1024, 1024).to(dtype)
        figures[f"gemm_{name}_gflops"] = 2 * 1024**3 / fastest(partial(torch.mm, square, square), repeats=15)[0] / 1e9
    words = torch.randn(64 << 20)
    figures["read_gbs"] = words.numel() * 4 / fastest(lambda: words.sum(), repeats=9)[0] / 1e9
    matrices = [torch.randn(2048, 2048) for _ in range(16)]
    row = torch.randn(1, 2048)
    with torch.no_grad():
        seconds = fastest(lambda: [F.linear(row, matrix) for matrix in matrices], repeats=9)[0]
    figures["matrix_times_row_gbs"] = len(matrices) * 2048**2 * 4 / seconds / 1e9
    return {name: round(value, 1) for name, value in figures.items()}


def _both_ways(function: Any, leaves: list[Tensor], gradient: Tensor) -> Any:
    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward(gradient)

    return work


def scan_products(rows: int, length: int, heads: int, size: int, d_state: int, chunk: int) -> Any:
    """Only the matrix products of the scan, forward and backward, on tensors of the same shapes and layouts."""
    n, width = rows * length // chunk, heads * size
    wide, thin = torch.randn(n, chunk, width), torch.randn(n, chunk, d_state)
    states = torch.randn(n, d_state, width)
    masks, values = torch.randn(n * heads, chunk, chunk), torch.randn(n * heads, chunk, size)
    square = torch.randn(n, chunk, chunk)
    step = max(1, (1 << 19) // (heads * chunk * max(chunk, size)))
    parts = [slice(i, min(n, i + step)) for i in range(0, n, step)]

    def work() -> None:
        torch.bmm(thin.transpose(1, 2), wide), torch.bmm(thin, states)
        torch.bmm(wide, states.transpose(1, 2)), torch.bmm(thin.transpose(1, 2), wide)
        torch.bmm(wide, states.transpose(1, 2)), torch.bmm(thin, states)
        for part in parts:
            all_heads = slice(part.start * heads, part.stop * heads)
            torch.bmm(thin[part], thin[part].transpose(1, 2)), torch.bmm(masks[all_heads], values[all_heads])
            torch.bmm(thin[part], thin[part].transpose(1, 2))
            torch.bmm(values[all_heads], values[all_heads].transpose(1, 2))
            torch.bmm(masks[all_heads].transpose(1, 2), values[all_heads])
            torch.bmm(square[part], thin[part]), torch.bmm(square[part].transpose(1, 2), thin[part])

    return work


def scan_inputs(rows: int, length: int, heads: int, size: int, d_state: int) -> list[Tensor]:
    """Leaves x, dt, A, B, C with gradients, of the sizes models have."""
    shapes = ((rows, length, heads, size), (rows, length, heads), (heads,), (rows, length, 1, d_state))
    x, dt, decay, b = (torch.randn(shape) for shape in shapes)
    leaves = [x, F.softplus(dt - 4), -1 - decay.abs(), b, torch.randn_like(b)]
    return [leaf.requires_grad_() for leaf in leaves]


def scan(shape: tuple[int, int, int, int, int], chunk: int = 64) -> dict[str, float]:
    """Scan forward and backward: ours, plain chunks under autograd, and the products alone, in ms."""
    leaves = scan_inputs(*shape)
    gradient = torch.randn(leaves[0].shape)
    seconds = fastest(
        _both_ways(lambda *a: ssd_cpu(*a, chunk_size=chunk)[0], leaves, gradient),
        _both_ways(lambda *a: ssd_chunked(*a, chunk_size=chunk)[0], leaves, gradient),
        scan_products(*shape, chunk), repeats=9,
    )
    own, plain, products = (round(1e3 * value, 2) for value in seconds)
    return {"ours_ms": own, "plain_ms": plain, "products_ms": products, "times_products": round(own / products, 2),
            "plain_by_ours": round(plain / own, 2)}


def chunk_sizes(shape: tuple[int, int, int, int, int]) -> dict[str, float]:
    """Scan forward and backward in ms for chunks of 16 to 256 positions."""
    import nanochat.model.cpu.scan as module

    leaves, limit = scan_inputs(*shape), module.CHUNK
    gradient = torch.randn(leaves[0].shape)
    module.CHUNK = 256
    sizes = (16, 32, 64, 128, 256)
    seconds = fastest(*(
        _both_ways(lambda *a, chunk=chunk: ssd_cpu(*a, chunk_size=chunk)[0], leaves, gradient) for chunk in sizes
    ))
    module.CHUNK = limit
    return {str(size): round(1e3 * value, 2) for size, value in zip(sizes, seconds)}


def small_parts() -> dict[str, dict[str, float]]:
    """Convolution, norms and MLP, forward and backward, in ms and as times of one pass over their input."""
    x = torch.randn(4, 512, 640, requires_grad=True)
    gradient, other = torch.randn_like(x), torch.empty_like(x)
    weight, bias = torch.randn(640, 4, requires_grad=True), torch.randn(640, requires_grad=True)
    gate, norm = torch.randn_like(x, requires_grad=True), RMSNorm(640, 1e-5)

    def peer_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv1d(x.transpose(1, 2), weight[:, None], bias, groups=640, padding=3)[..., :512].transpose(1, 2)

    def plain_norm(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x * F.silu(gate), (640,), weight, 1e-5)

    pairs = {
        "convolution": (lambda x, w, b: causal_conv(x, w, b, None)[0], peer_conv, [x, weight, bias]),
        "gated_norm": (lambda x, g, w: norm(x, g), plain_norm, [x, gate, norm.weight]),
    }
    figures = {}
    for name, (own, peer, leaves) in pairs.items():
        values = fastest(_both_ways(own, leaves, gradient), _both_ways(peer, leaves, gradient),
                         lambda: other.copy_(gradient), repeats=15)
        own_ms, peer_ms, pass_ms = (1e3 * value for value in values)
        figures[name] = {"ours_ms": round(own_ms, 2), "plain_ms": round(peer_ms, 2),
                         "plain_by_ours": round(peer_ms / own_ms, 2), "copies_of_input": round(own_ms / pass_ms, 1)}
    return figures

"""Fast GPU forms of the scan, the short convolution and the one-token step: which ones run, chosen once per process.

On CUDA: the packages mamba-ssm with causal-conv1d, else flash-linear-attention, else our own Triton kernels, else plain
PyTorch. NANOCHAT_KERNELS names one instead. On the CPU everything is plain PyTorch; only with NANOCHAT_KERNELS=triton
and TRITON_INTERPRET=1 do the Triton kernels run there, in Triton's interpreter, for tests.
"""

import functools
import importlib.util
import os
from collections.abc import Callable

from torch import Tensor

from nanochat.errors import ConfigError, MissingDependency

VARIABLE = "NANOCHAT_KERNELS"
# choice -> the package it needs, in the order of preference; plain needs none
PACKAGES = {"mamba_ssm": "mamba_ssm", "fla": "fla", "triton": "triton", "plain": ""}
_INSTALL = {"mamba_ssm": "mamba-ssm causal-conv1d", "fla": "flash-linear-attention", "triton": "triton"}


def _is_installed(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None


@functools.cache
def _choose(wanted: str) -> str:
    """The choice for GPU tensors: `wanted`, or the first that is installed."""
    if not wanted:
        return next(name for name, package in PACKAGES.items() if _is_installed(package))
    if wanted not in PACKAGES:
        raise ConfigError(f"{VARIABLE} is {wanted!r}", hint=f"choose one of {', '.join(PACKAGES)}, or unset it")
    if not _is_installed(PACKAGES[wanted]):
        raise MissingDependency(f"No module named {PACKAGES[wanted]!r}: {VARIABLE}={wanted} needs it",
                                hint=f"pip install {_INSTALL[wanted]}, or unset {VARIABLE}")
    return wanted


def choice(kind: str) -> str:
    """The name in PACKAGES of what computes the scan on tensors of a device kind ("cuda", "cpu").

    Raises ConfigError for an unknown NANOCHAT_KERNELS, MissingDependency for one that is not installed.
    """
    wanted = os.environ.get(VARIABLE, "")
    is_interpreted = wanted == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return _choose(wanted) if kind == "cuda" or is_interpreted else "plain"


def convolution(kind: str) -> str:
    """The name of what computes the short convolution: causal_conv1d, triton or plain."""
    chosen = choice(kind)
    if chosen == "plain":
        return chosen
    return "causal_conv1d" if chosen != "triton" and _is_installed("causal_conv1d") else "triton"


# what torch.compiler.assume_constant_result does, which would import the compiler and Triton with it
choice._dynamo_marked_constant = convolution._dynamo_marked_constant = True  # type: ignore[attr-defined]

# imports stand inside the functions, spelled out: torch.compile follows them, and the CPU never pays for them


def ssd_kernel(x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """A function with the signature and results of `ssd_chunked` for tensors like x; None: use plain PyTorch.

    It takes x, B, C in one float type (they need not be converted to float32 first) and dt, A, state in float32; y has
    the type of x, the final state is float32. It may be called with one position too.
    """
    name = choice(x.device.type)
    if name == "plain":
        return None
    if name == "mamba_ssm":
        from nanochat.model.kernels.mamba_ssm_path import ssd
    elif name == "fla":
        from nanochat.model.kernels.fla_path import ssd
    else:
        from nanochat.model.kernels.triton_ssd import ssd
    return ssd


def conv_kernel(x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """A function with the signature and results of `causal_conv` for tensors like x; None: use plain PyTorch."""
    name = convolution(x.device.type)
    if name == "plain":
        return None
    if name == "causal_conv1d":
        from nanochat.model.kernels.mamba_ssm_path import causal_conv
    else:
        from nanochat.model.kernels.triton_conv import causal_conv
    return causal_conv


def decode_kernel(x: Tensor) -> Callable[..., Tensor] | None:
    """A function for one token without gradients, `triton_decode.step`, for tensors like x; None: use plain PyTorch."""
    if choice(x.device.type) == "plain":
        return None
    from nanochat.model.kernels.triton_decode import step

    return step


def attention_kernel(x: Tensor) -> Callable[..., Tensor] | None:
    """`triton_attention.attend_one`, one token against rows of unequal length, for tensors like x; None: use SDPA."""
    if choice(x.device.type) == "plain":
        return None
    from nanochat.model.kernels.triton_attention import attend_one

    return attend_one


def describe() -> dict[str, str]:
    """What is chosen for GPU tensors in this process, for logs and tables."""
    scan = choice("cuda")
    return {"scan": scan, "convolution": convolution("cuda"), "one_token": "plain" if scan == "plain" else "triton"}

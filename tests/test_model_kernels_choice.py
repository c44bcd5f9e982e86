"""Which kernels are chosen, what is imported for it, and that packages are called the way they ask to be called."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernel_cases import Scan, check_scan
from torch.nn import functional as F

from nanochat.errors import ConfigError, MissingDependency
from nanochat.model import kernels
from nanochat.model.ssd import ssd_sequential

ROOT = Path(__file__).parents[1]
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU here")
def test_the_kernels_pass_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_model_kernels.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout[-500:]


def test_an_unknown_choice_names_the_known_ones(monkeypatch):
    monkeypatch.setenv("NANOCHAT_KERNELS", "cutlass")
    with pytest.raises(ConfigError, match="'cutlass'.*\n.*mamba_ssm, fla, triton, plain"):
        kernels.describe()


def test_a_choice_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels, "_is_installed", lambda package: package != "fla")
    kernels._choose.cache_clear()
    monkeypatch.setenv("NANOCHAT_KERNELS", "fla")
    with pytest.raises(MissingDependency, match="pip install flash-linear-attention"):
        kernels.describe()


@pytest.mark.parametrize(("installed", "scan", "convolution"), [
    ((), "plain", "plain"),
    (("triton",), "triton", "triton"),
    (("triton", "fla"), "fla", "triton"),
    (("triton", "fla", "causal_conv1d"), "fla", "causal_conv1d"),
    (("triton", "fla", "mamba_ssm"), "mamba_ssm", "triton"),
    (("triton", "mamba_ssm", "causal_conv1d"), "mamba_ssm", "causal_conv1d"),
], ids=str)
def test_packages_come_before_our_own_kernels(installed, scan, convolution, monkeypatch):
    monkeypatch.delenv("NANOCHAT_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "_is_installed", lambda package: not package or package in installed)
    kernels._choose.cache_clear()
    found = kernels.describe()
    kernels._choose.cache_clear()
    assert (found["scan"], found["convolution"]) == (scan, convolution)


def test_the_cpu_is_plain_and_imports_nothing():
    program = ("import sys, torch; before = set(sys.modules); from nanochat.model import kernels; x = torch.zeros(1);"
               "assert kernels.ssd_kernel(x) is kernels.conv_kernel(x) is kernels.decode_kernel(x) is None;"
               "assert kernels.attention_kernel(x) is None;"
               "print({name.partition('.')[0] for name in set(sys.modules) - before} & {'triton', 'mamba_ssm', 'fla'})")
    environment = {name: value for name, value in os.environ.items() if name != "NANOCHAT_KERNELS"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def package(monkeypatch, name: str, **functions: object) -> None:
    """A stand-in for a package that is not installed."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    for attribute, function in functions.items():
        setattr(sys.modules[name], attribute, function)


@needs_triton
@pytest.mark.parametrize("case", [
    Scan(length=21, size=8, d_state=16), Scan(length=21, size=8, d_state=16, is_packed=True, has_state=False)], ids=str)
def test_mamba_ssm_is_called_as_it_asks_to_be(case, monkeypatch):
    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None,
                                  seq_idx=None, cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float("inf")),
                                  return_final_states=False, return_varlen_states=False):
        assert all(tensor.is_contiguous() for tensor in (x, dt, B, C)) and dt.dtype == A.dtype == torch.float32
        assert chunk_size & (chunk_size - 1) == 0 and return_final_states
        if seq_idx is not None:
            assert seq_idx.dtype == torch.int32 and seq_idx.is_contiguous() and (seq_idx[:, 0] == 0).all()
        return ssd_sequential(x, dt, A, B, C, state=initial_states, seq_idx=seq_idx)

    package(monkeypatch, "mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=mamba_chunk_scan_combined)
    from nanochat.model.kernels import mamba_ssm_path

    check_scan(case, mamba_ssm_path.ssd, 1e-6)


@needs_triton
def test_flash_linear_attention_is_called_as_it_asks_to_be(monkeypatch):
    def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False,
                         state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None):
        assert q.shape == k.shape and g.dtype == torch.float32 and output_final_state and cu_seqlens is None
        state = initial_state
        if state is None:
            state = torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
        outputs = []
        for t in range(q.shape[1]):
            state = state * g[:, t].exp()[..., None, None] + k[:, t, :, :, None] * v[:, t, :, None, :]
            outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        return torch.stack(outputs, 1), state

    package(monkeypatch, "fla.ops.simple_gla", chunk_simple_gla=chunk_simple_gla)
    from nanochat.model.kernels import fla_path

    for case in (Scan(length=21), Scan(length=9, groups=1, has_state=False)):
        check_scan(case, fla_path.ssd, 1e-5)


@needs_triton
@pytest.mark.parametrize("kind", ["fresh", "continued", "packed"])
def test_causal_conv1d_is_called_as_it_asks_to_be(kind, monkeypatch):
    from nanochat.model.layers import causal_conv

    def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                         final_states_out=None, activation=None):
        # channel last, strides of 8, one type; segments and a first state exclude each other
        assert x.stride(1) == 1 and x.stride(2) % 8 == x.stride(0) % 8 == 0 and x.shape[1] % 8 == 0
        assert weight.dtype == x.dtype and 2 <= weight.shape[1] <= 4 and not return_final_states and activation is None
        assert seq_idx is None or (initial_states is None and seq_idx.dtype == torch.int32 and seq_idx.is_contiguous())
        assert initial_states is None or initial_states.stride(1) == 1
        y, _ = causal_conv(x.transpose(1, 2), weight, bias, None if initial_states is None else
                           initial_states.transpose(1, 2), seq_idx=seq_idx)
        return y.transpose(1, 2)

    package(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    from nanochat.model.kernels import mamba_ssm_path

    wide, weight, bias, tail = torch.randn(2, 9, 27), torch.randn(16, 4), torch.randn(16), torch.randn(2, 3, 16)
    seq_idx = torch.arange(9).expand(2, 9) // 4 + 3 if kind == "packed" else None
    arguments = (F.silu(wide)[..., 11:], weight, bias, tail if kind == "continued" else None)
    expected, found = (form(*arguments, seq_idx=seq_idx) for form in (causal_conv, mamba_ssm_path.causal_conv))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)

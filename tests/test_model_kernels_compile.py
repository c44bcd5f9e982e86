"""Every kernel compiles for a GPU, without one: Triton's interpreter takes what its compiler refuses."""

import importlib.util
import os

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted here"),
]
TILE = {"Q": 16, "WIDTH_P": 16, "HAS_SEG": True, "PRECISION": "tf32"}
HALF = "*bf16"
IS_HALF = {name: HALF for name in ("x_ptr", "b_ptr", "c_ptr", "dy_ptr", "dx_ptr", "y_ptr", "starts_ptr", "ends_ptr")}
CONV = {"K": 4, "ROWS": 16, "COLUMNS": 32, "HAS_BIAS": True, "HAS_TAIL": True, "HAS_SEG": True}
# module, kernel, constants, types of pointers that are not float32
KERNELS = [
    ("ssd_tiles", "chunk_state_kernel", TILE | {"BLOCK_N": 16, "FROM_START": False}, IS_HALF),
    ("ssd_tiles", "pass_states_kernel", {"BLOCK": 64, "HAS_FIRST": True, "REVERSE": True, "HAS_OTHER": True},
     {"starts_ptr": HALF, "other_ptr": HALF}),
    ("ssd_tiles", "pass_states_kernel", {"BLOCK": 64, "HAS_FIRST": False, "REVERSE": False, "HAS_OTHER": False},
     {"starts_ptr": HALF}),
    ("ssd_tiles", "output_kernel", TILE | {"SPLIT": 2, "WIDTH_N": 16}, IS_HALF),
    ("ssd_tiles", "gradient_kernel", TILE | {"SPLIT": 2, "WIDTH_N": 16}, IS_HALF),
    ("triton_conv", "conv_kernel", CONV, {"x_ptr": HALF, "tail_ptr": HALF, "y_ptr": HALF}),
    ("triton_conv", "gradient_kernel", {name: CONV[name] for name in CONV if name != "HAS_BIAS"}, {"x_ptr": HALF}),
    ("triton_decode", "conv_step_kernel", {"K": 4, "BLOCK": 64, "HAS_BIAS": True}, {"x_ptr": HALF, "tail_ptr": HALF}),
    ("triton_decode", "state_step_kernel", {"BLOCK_P": 8, "WIDTH_N": 16}, {"dt_ptr": HALF}),
    ("triton_decode", "gated_norm_kernel", {"BLOCK": 64}, {"gate_ptr": HALF, "out_ptr": HALF}),
    ("triton_attention", "share_kernel", {"SHARES": 2, "REPEAT": 3, "HEADS": 16, "WIDTH": 16, "BLOCK": 16,
                                          "PRECISION": "tf32"}, {"q_ptr": HALF, "k_ptr": HALF, "v_ptr": HALF}),
    ("triton_attention", "join_kernel", {"SHARES": 2, "WIDTH_S": 2, "REPEAT": 3, "WIDTH": 16}, {"out_ptr": HALF}),
]
WHOLE = {"seg_ptr": "*i32", "lengths_ptr": "*i64"}
FLOATS = ("scale", "eps", "floor", "ceiling")


@pytest.mark.parametrize("counts_of_one", [(), ("chunks", "heads", "groups", "blocks", "length", "size")],
                         ids=["any size", "sizes of one"])
@pytest.mark.parametrize(("module", "kernel", "constants", "types"), KERNELS,
                         ids=[f"{kernel}-{number}" for number, (_, kernel, _, _) in enumerate(KERNELS)])
def test_a_kernel_compiles(module, kernel, constants, types, counts_of_one, tmp_path, monkeypatch):
    """Triton takes an argument of 1 for a constant, which must not change the type of anything."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(importlib.import_module(f"nanochat.model.kernels.{module}"), kernel)
    constants = constants | {name: 1 for name in counts_of_one if name in function.arg_names}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return types.get(name) or WHOLE.get(name) or "*fp32"
        return "fp32" if name in FLOATS else "i32"

    source = ASTSource(fn=function, signature={name: kind(name) for name in function.arg_names}, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]

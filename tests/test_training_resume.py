"""Exact resume: n + n steps are 2n steps bit for bit, whatever ended the first part and whatever the run uses."""

import contextlib
import os
import signal
import socket
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_stubs import tiny_model

from nanochat import checkpoint_manager as checkpoints
from nanochat.device import pick_device
from nanochat.tokenizer import Tokenizer
from nanochat.training import (
    Batch,
    LossOutput,
    build_optimizer,
    fit,
    init_distributed,
    language_model_loss,
    warmup_stable_decay,
)
from nanochat.training.distributed import shutdown_distributed
from nanochat.training.interrupt import Interruption
from nanochat.training.lora import LoraSettings, add_adapters

NUM_STEPS = 44
CUT = 29


def batches(step: int, micro: int) -> Batch:
    ids = (torch.arange(13) * (1 + step % 3) + torch.arange(3)[:, None] * (5 + step + micro)) % 64
    targets = ids[:, 1:].clone()
    targets[0, : step % 5] = -1
    if step % 20 == 15:
        targets = (targets * 31 + 17) % 64  # something for the guards
    return Batch(ids=ids[:, :-1], targets=targets)


def noisy_loss(model, batch: Batch, normaliser: float) -> LossOutput:
    """A loss that needs random numbers."""
    output = language_model_loss(model, batch, normaliser)
    return LossOutput(loss=output.loss * (0.9 + 0.2 * torch.rand(())), parts=output.parts)


def build(lora: bool):
    model = tiny_model()
    if lora:
        add_adapters(model, LoraSettings(rank=4, alpha=8.0, row_ids=(0, 1)))
    return model, build_optimizer(model, weight_decay=0.1, adapter_lr=0.01)


def run(model, optimizer, **settings) -> dict:
    return fit(model, batches, noisy_loss, optimizer, num_steps=NUM_STEPS, loss_sigmas=4.0, norm_factor=1.2,
               schedule=warmup_stable_decay(NUM_STEPS, 5, 0.3), **{"log": lambda record: None, **settings})


def saver(model, optimizer, tag: str):
    words = Tokenizer.train(["the red kite"] * 3, vocab_size=320)
    # the stub has fewer ids than any tokenizer; only training goes on here
    return lambda step, progress: checkpoints.save_checkpoint(
        "mid", tag, step, model=model, tokenizer=words, meta={"progress": progress}, optimizer=optimizer)


def go_on(tag: str, lora: bool, **settings) -> tuple[dict, torch.nn.Module]:
    """A new process's view: everything from the files."""
    path = checkpoints.find_checkpoint("mid", tag)
    model, _ = build(False)
    checkpoints.load_tensors(model, load_file(path / "model.safetensors"), where=path)
    if lora:
        checkpoints.read_adapters(path, checkpoints.read_meta(path), model)
    optimizer = build_optimizer(model, weight_decay=0.1, adapter_lr=0.01)
    state = checkpoints.load_training_state(path)
    optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=str(path))
    return run(model, optimizer, start_step=state["step"], progress=state["meta"]["progress"], **settings), model


@pytest.fixture(autouse=True)
def own_base_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} differs by {(a - b).abs().max()}"


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_cut_and_resumed_equals_straight_bit_for_bit(lora, accumulated):
    straight, optimizer = build(lora)
    whole = run(straight, optimizer, grad_accum_steps=accumulated)
    model, optimizer = build(lora)
    asked = iter(range(NUM_STEPS))
    first = run(model, optimizer, grad_accum_steps=accumulated, save=saver(model, optimizer, "cut"),
                is_interrupted=lambda: next(asked) == CUT - 1)
    assert first["interrupted"] and first["step"] == CUT and not whole["interrupted"]
    second, resumed = go_on("cut", lora, grad_accum_steps=accumulated)
    assert first["losses"] + second["losses"] == whole["losses"]
    timeless = {"losses": 0, "seconds": 0, "model_share": 0}
    assert second | timeless == whole | timeless
    assert whole["num_norm_spikes"] + whole["num_loss_spikes"] > 0, "the guards had nothing to remember"
    assert_same(straight, resumed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_signal_from_outside_costs_nothing_but_time(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        model, optimizer = build(False)
        with contextlib.suppress(KeyboardInterrupt), Interruption() as interruption:
            run(model, optimizer, save=saver(model, optimizer, "cut"), save_every=10,
                is_interrupted=lambda: time.sleep(0.01) or interruption.is_wanted)
        os._exit(0)
    while not list(tmp_path.glob("checkpoints/mid/cut/step_*/meta.json")):
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "the training ended without a checkpoint"
        time.sleep(0.01)
    os.kill(child, getattr(signal, name))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if name == "SIGKILL" else 0)
    at = int(checkpoints.find_checkpoint("mid", "cut").name[5:])
    assert at < NUM_STEPS and (name != "SIGKILL" or at % 10 == 0), at
    straight, optimizer = build(False)
    whole = run(straight, optimizer)
    second, resumed = go_on("cut", False)
    assert second["losses"] == whole["losses"][at:]
    assert_same(straight, resumed)


def test_the_second_ctrl_c_stops_at_once(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_wanted and interruption.name == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)  # the same Ctrl-C, passed on by a launcher
        monkeypatch.setattr("nanochat.training.interrupt.ONE_WISH_S", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_PORT=str(port), OMP_NUM_THREADS="1",
                      NANOCHAT_BASE_DIR=folder)
    torch.set_num_threads(1)
    init_distributed(pick_device("cpu"))
    straight, optimizer = build(False)
    whole = run(straight, optimizer)
    model, optimizer = build(False)
    asked = iter(range(NUM_STEPS))
    # one process alone is told to stop
    first = run(model, optimizer, save=saver(model, optimizer, "two"),
                is_interrupted=lambda: rank == 1 and next(asked) == CUT - 1)
    assert first["interrupted"] and first["step"] == CUT
    second, resumed = go_on("two", False)
    assert first["losses"] + second["losses"] == whole["losses"]
    assert_same(straight, resumed)
    save_file(dict(resumed.state_dict()), f"{folder}/{rank}.safetensors")
    shutdown_distributed()


def test_two_processes_resume_bit_for_bit(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_one_of_two, (port, str(tmp_path)), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)

"""Shares of FSDP2: two processes with half the weights each compute what one process does, save and resume whole."""

import os
import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_stubs import tiny_model

from nanochat import checkpoint_manager as checkpoints
from nanochat.device import pick_device
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel
from nanochat.tokenizer import Tokenizer
from nanochat.training import Batch, build_optimizer, fit, init_distributed, language_model_loss
from nanochat.training.distributed import shutdown_distributed
from nanochat.training.lora import LoraSettings, add_adapters, idle_adapters
from nanochat.training.sharding import is_sharded, shard

NUM_STEPS = 4


def micro_batch(step: int, micro: int) -> Batch:
    ids = (torch.arange(13) * (1 + step) + torch.arange(2)[:, None] * 7 + 11 * micro) % 64
    targets = ids[:, 1:].clone()
    targets[0, : 1 + 4 * micro] = -1
    # one process has nothing to learn in step 1, while the other has
    return Batch(ids=ids[:, :-1], targets=targets if (step, micro) != (1, 1) else torch.full_like(targets, -1))


def build(lora: bool) -> torch.nn.Module:
    # ids 2 to 9 are slots of documents, 0 opens results
    model = LanguageModel(replace(tiny_model().config, slot_scale=0.5, slot_ids=(0, 63, 2, 8)))
    if lora:
        add_adapters(model, LoraSettings(rank=4, alpha=8.0, row_ids=(0, 7)))
    return model


def train(model, optimizer, **settings) -> dict:
    return fit(model, micro_batch, language_model_loss, optimizer, **{
        "num_steps": NUM_STEPS, "log": lambda record: None, "clip_norm": 0.5, **settings})


def one_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_PORT=str(port), OMP_NUM_THREADS="1",
                      NANOCHAT_BASE_DIR=folder)
    torch.set_num_threads(1)
    init_distributed(pick_device("cpu"))
    for lora in (False, True):
        straight_and_resumed(rank, folder, lora)
    shutdown_distributed()


def straight_and_resumed(rank: int, folder: str, lora: bool) -> None:
    words = Tokenizer.train(["the red kite"] * 3, vocab_size=320)
    model = build(lora)
    shard(model)
    assert all(map(is_sharded, model.parameters()))
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.55 * model.num_parameters, f"{held} of {model.num_parameters} parameters are here"
    model.checkpointing = True
    optimizer = build_optimizer(model)
    whole = train(model, optimizer)
    assert lora is False or idle_adapters(model) == []
    save_file(checkpoints.unique_tensors(model), f"{folder}/{rank}{lora}.safetensors")

    def save(step: int, progress: dict) -> None:
        checkpoints.save_checkpoint("mid", f"cut{lora}", step, model=model, tokenizer=words,
                                    meta={"progress": progress}, optimizer=optimizer)

    model = build(lora)
    shard(model)
    optimizer = build_optimizer(model)
    train(model, optimizer, num_steps=2, save=save)
    path = checkpoints.find_checkpoint("mid", f"cut{lora}")
    model, state = build(lora), checkpoints.load_training_state(path)
    tensors = load_file(path / "model.safetensors")
    tensors |= load_file(path / "adapters.safetensors") if lora else {}
    checkpoints.load_tensors(model, tensors, where=path)
    shard(model)
    optimizer = build_optimizer(model)
    optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=str(path))
    rest = train(model, optimizer, start_step=2, progress=state["meta"]["progress"])
    assert rest["losses"] == pytest.approx(whole["losses"][2:], abs=1e-6)


def test_two_shares_equal_one_whole_with_twice_the_micro_batches(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_process, (port, str(tmp_path)), nprocs=2)
    for lora in (False, True):
        alone = build(lora)
        train(alone, build_optimizer(alone), grad_accum_steps=2)
        first, second = (load_file(tmp_path / f"{rank}{lora}.safetensors") for rank in (0, 1))
        for name, tensor in alone.state_dict().items():
            assert torch.equal(first[name], second[name]), name
            difference = (first[name] - tensor).abs().max().item()
            assert difference < 1e-5, f"{name}: {difference}"


def test_shares_need_processes():
    with pytest.raises(ConfigError, match="--shard needs several processes"):
        shard(tiny_model())

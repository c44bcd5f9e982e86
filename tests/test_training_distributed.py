"""Two processes compute what one process with twice the micro-batches computes."""

import os
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_stubs import tiny_model

from nanochat.device import pick_device, set_cpu_threads
from nanochat.errors import UserError
from nanochat.model import LanguageModel
from nanochat.training import Batch, build_optimizer, fit, init_distributed, language_model_loss, mean_over_ranks
from nanochat.training.distributed import shutdown_distributed


def micro_batch(step: int, micro: int) -> Batch:
    ids = (torch.arange(13) * (1 + step) + torch.arange(2)[:, None] * 7 + 11 * micro) % 64
    targets = ids[:, 1:].clone()
    targets[0, : 1 + 4 * micro] = -1
    return Batch(ids=ids[:, :-1], targets=targets if (step, micro) != (1, 1) else torch.full_like(targets, -1))


def train(grad_accum_steps: int) -> tuple[LanguageModel, dict]:
    model = tiny_model()
    result = fit(
        model,
        micro_batch,
        language_model_loss,
        build_optimizer(model),
        num_steps=4,
        grad_accum_steps=grad_accum_steps,
        log=lambda record: None,
    )
    return model, result


def one_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    init_distributed(pick_device("cpu"))
    assert mean_over_ranks(float(rank)) == 0.5
    model, result = train(1)
    assert result["tokens"] == 4 * 2 * 2 * 12
    save_file(dict(model.state_dict()), f"{folder}/{rank}.safetensors")
    shutdown_distributed()


def test_two_processes_equal_one_with_twice_the_micro_batches(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_process, (port, str(tmp_path)), nprocs=2)
    alone, _ = train(2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=0)


def test_alone_nothing_is_exchanged():
    init_distributed(torch.device("cpu"))
    assert not torch.distributed.is_initialized() and mean_over_ranks(3.5) == 3.5


def test_unknown_and_missing_devices_are_refused(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="'gpu' is not known"):
        pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="Device cuda is not available here") as caught:
        pick_device("cuda")
    assert 'device="cpu"' in caught.value.hint


def test_threads_follow_the_environment(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_cpu_threads() == 1 == torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert set_cpu_threads() >= 1
    torch.set_num_threads(before)

"""Batches made ahead by other processes: the same ones, whatever happens to the processes."""

import os
import signal
import time

import pytest
import torch

from nanochat.errors import ConfigError
from nanochat.training.losses import Batch
from nanochat.training.prefetch import Prefetcher, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs fork")
HOME = os.getpid()


class Source:
    """Batches that say who made them; `stage` may change, as in a curriculum."""

    def __init__(self):
        self.stage = 0

    def __call__(self, step, micro):
        ids = torch.tensor([[step, micro, self.stage, 7]])
        return Batch(ids=ids, targets=ids + 1, weights=None if micro else ids.float(), kind=f"s{self.stage}",
                     counts={"here": int(os.getpid() == HOME), "step": step})


def same(batch, step, micro, stage=0):
    assert batch.ids.tolist() == [[step, micro, stage, 7]] and batch.targets.tolist() == [[step + 1, micro + 1,
                                                                                         stage + 1, 8]]
    assert batch.kind == f"s{stage}" and batch.counts["step"] == step and (batch.weights is None) == bool(micro)
    return batch.counts["here"] == 0


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_the_same_batches_from_anywhere(num_workers, start):
    with Prefetcher(Source(), micros=(2, 3), num_steps=12, num_workers=num_workers) as ahead:
        elsewhere = [same(ahead(step, micro), step, micro) for step in range(start, 12) for micro in (2, 3)]
        assert all(elsewhere) == (num_workers > 0) and ahead.made_here == (0 if num_workers else len(elsewhere))
        # a call out of order is answered, too
        same(ahead(3, 2), 3, 2)


def test_a_new_stage_starts_anew_even_in_the_middle_of_a_piece():
    source = Source()
    with Prefetcher(source, micros=(0,), num_steps=12, num_workers=2, version=lambda: source.stage) as ahead:
        for step in range(12):
            source.stage = int(step >= 5) + int(step >= 6)
            assert same(ahead(step, 0), step, 0, source.stage)


def test_a_process_that_dies_costs_nothing(capsys):
    with Prefetcher(Source(), micros=(0,), num_steps=2000, num_workers=2) as ahead:
        for step in range(1500):
            if step == 20:
                os.kill(ahead._workers[0][0].pid, signal.SIGKILL)
            same(ahead(step, 0), step, 0)
    assert "The process that prepares batches has ended" in capsys.readouterr().out
    assert 0 < ahead.made_here <= 1480


def test_an_error_of_the_user_arrives_as_it_is():
    def batches(step, micro):
        if step == 4:
            raise ConfigError("Nothing fits", hint="longer rows")
        return Source()(step, micro)

    with Prefetcher(batches, micros=(0,), num_steps=12) as ahead, pytest.raises(ConfigError, match="Nothing fits") as e:
        for step in range(12):
            ahead(step, 0)
    assert step == 4 and e.value.hint == "longer rows"


def test_no_process_outlives_its_prefetcher():
    def is_alive(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    with Prefetcher(Source(), micros=(0,), num_steps=10**6, num_workers=2) as ahead:
        ahead(0, 0)
        pids = [process.pid for process, _ in ahead._workers]
        assert all(map(is_alive, pids))
    end = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))
    # and it does not hear the Ctrl-C that is meant for the training
    with Prefetcher(Source(), micros=(0,), num_steps=10**6) as ahead:
        ahead(0, 0)
        assert os.getpgid(ahead._workers[0][0].pid) != os.getpgid(0)

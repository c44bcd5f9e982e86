"""Batches made ahead of the step that needs them, in other processes: preparing data costs no training time.

Batches depend on step and micro-batch alone, so who makes them changes nothing: neither the numbers nor a resumed run.
"""

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from nanochat.common import print0
from nanochat.errors import UserError
from nanochat.training.losses import Batch

Batches = Callable[[int, int], Batch]  # step, micro -> micro-batch


class Prefetcher:
    """Callable as batches(step, micro), with `num_workers` processes that work ahead of the calls.

    Each process makes all of `micros` for `steps_at_once` steps in a row, so that steps which share a practice world
    share a process, and is one such piece ahead. `version` names what batches depend on beside step and micro, such as
    the stage of a curriculum: when it changes, the processes start anew. A call out of order is answered on the spot.
    num_workers 0, a system without fork, or a process that dies leave the work to this process. Close it, or use it in
    a with statement.
    """

    def __init__(
        self, batches: Batches, *, micros: Sequence[int], num_steps: int, num_workers: int = 1, steps_at_once: int = 2,
        version: Callable[[], Any] = lambda: None,
    ) -> None:
        self.batches, self.micros, self.num_steps = batches, list(micros), num_steps
        self.num_workers = num_workers if can_fork() else 0
        self.steps_at_once, self.version = steps_at_once, version
        self.made_here = 0  # batches that no other process had made
        self._workers: list[tuple[Any, Connection]] = []
        self._started: Any = None  # version and next piece of the processes at work
        self._ready: dict[tuple[int, int], Batch] = {}

    def __call__(self, step: int, micro: int) -> Batch:
        """The micro-batch. Raises what `batches` raises."""
        if self._workers and self._started[0] != self.version():
            self.close()
        if self.num_workers and (step, micro) not in self._ready:
            self._fetch(step)
        if (step, micro) in self._ready:
            return self._ready.pop((step, micro))
        self.made_here += 1
        return self.batches(step, micro)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; calls are still answered."""
        workers, self._workers, self._ready = self._workers, [], {}
        for _, connection in workers:
            # a process that waits to hand over its piece ends when nobody listens any more
            connection.close()
        for process, _ in workers:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()

    def _fetch(self, step: int) -> None:
        """Take the piece with this step from the process that makes it."""
        piece, version = step // self.steps_at_once, self.version()
        if not self._workers or self._started != (version, piece):
            self.close()
            self._start(piece)
        process, connection = self._workers[piece % self.num_workers]
        try:
            made = connection.recv()
        except (EOFError, OSError):
            print0(f"The process that prepares batches has ended (exit code {process.exitcode}); going on without it")
            self.num_workers = 0
            self.close()
            return
        if isinstance(made, UserError):
            raise made
        self._started = (version, piece + 1)
        self._ready = {place: _unpacked(parts) for place, parts in made.items()}

    def _start(self, piece: int) -> None:
        context = multiprocessing.get_context("fork")
        for number in range(self.num_workers):
            mine, theirs = context.Pipe(duplex=False)
            others = [connection for _, connection in self._workers] + [mine]
            # the first piece of each process: those from `piece` on, dealt out by their number
            first = piece + (number - piece) % self.num_workers
            process = context.Process(target=self._work, args=(first, theirs, others), daemon=True)
            with warnings.catch_warnings(), _quiet_tokenizers():
                # Python warns of forks beside threads: the child starts none of torch's and needs none of ours
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._workers.append((process, mine))
        self._started = (self.version(), piece)

    def _work(self, piece: int, connection: Connection, others: list[Connection]) -> None:
        """What a process does: piece after piece, until the last step or until nobody listens."""
        # Ctrl-C is for the process that saves a checkpoint
        os.setpgid(0, 0)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(1)
        for other in others:
            other.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while piece * self.steps_at_once < self.num_steps:
                steps = range(piece * self.steps_at_once, (piece + 1) * self.steps_at_once)
                try:
                    connection.send({(step, micro): _packed(self.batches(step, micro))
                                     for step in steps if step < self.num_steps for micro in self.micros})
                except UserError as error:
                    connection.send(error)
                    return
                piece += self.num_workers
        sys.stdout.flush()


def can_fork() -> bool:
    """Whether this system copies a process with all it knows (Linux); elsewhere batches are made in the training's."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


@contextlib.contextmanager
def _quiet_tokenizers() -> Any:
    """The tokenizers library prints a warning at a fork unless this is set; the child sets its own value."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]


def _packed(batch: Batch) -> dict[str, Any]:
    """Arrays travel through a pipe as bytes; tensors would take a file descriptor each."""
    return {field.name: value.numpy() if isinstance(value := getattr(batch, field.name), torch.Tensor) else value
            for field in fields(batch)}


def _unpacked(parts: dict[str, Any]) -> Batch:
    tensors = {name: torch.from_numpy(value) for name, value in parts.items() if hasattr(value, "dtype")}
    empty = Batch(ids=tensors["ids"], targets=tensors["targets"])
    return replace(empty, **{**parts, **tensors})

"""Early stopping: the checkpoint with the best validation loss is kept, and training ends when none is better."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, print0, rank, write_json
from nanochat.errors import CheckpointNotFound

BEST = ".best"  # what a run's tag is followed by while its best checkpoint waits beside the latest ones
FINISHED = "stopped_early.json"  # in tag.best: the exchange with the tag has begun; in the tag: it is done


class EarlyStop:
    """The `stop` of a training: remembers the lowest `metric` and keeps a checkpoint of it as tag.best.

    After `patience` evaluations in a row without a lower value training ends; 0 never ends it and keeps no best
    checkpoint. `finish` gives the best checkpoint the run's tag; later ones get a name of their own. `record` and
    `restore` go through checkpoints, so that a resumed run counts on.
    """

    def __init__(self, source: str, tag: str, patience: int, *, metric: str = "val_loss") -> None:
        self.source, self.tag, self.patience, self.metric = source, tag, patience, metric
        self.best, self.best_step, self.waited = math.inf, -1, 0
        self.seen = -1  # step of the last evaluation
        self.save: Callable[[str, int], Any] = lambda tag, step: None  # set by who trains

    @property
    def is_on(self) -> bool:
        return self.patience > 0

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"best": self.best if self.best_step >= 0 else None, "best_step": self.best_step, "waited": self.waited,
                "seen": self.seen}

    def restore(self, record: Mapping[str, Any], step: int = -1) -> None:
        """Go on where `record` was taken, at `step`: its model, now trained further, is kept if it is the best so far.

        Where the best checkpoint is gone, the next evaluation is the best.
        """
        best = record.get("best")
        self.seen = int(record.get("seen", -1))
        if best is None:
            return
        self.best, self.best_step, self.waited = float(best), int(record["best_step"]), int(record.get("waited", 0))
        if self.is_on and not self._folder(self.tag + BEST).is_dir():
            if self.best_step == step:
                self.save(self.tag + BEST, step)
            else:
                self.best, self.best_step, self.waited = math.inf, -1, 0

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Note an evaluation; whether training ends."""
        value = metrics.get(self.metric, math.nan)
        if not self.is_on or math.isnan(value):
            return False
        if step <= self.seen:
            # a run that goes on evaluates once more where it stands
            return self.waited >= self.patience
        self.seen = step
        if value < self.best:
            self.best, self.best_step, self.waited = value, step, 0
            self.save(self.tag + BEST, step)
        else:
            self.waited += 1
        return self.waited >= self.patience

    def finish(self, last_step: int) -> Path | None:
        """Let the best checkpoint be what the tag means; its folder, or None where nothing changes."""
        if rank() != 0 or not self.is_on:
            return None
        self._note(last_step)
        best = self._folder(self.tag + BEST)
        # without a best step of its own, what lies there is another run's
        if self.best_step < 0 or not best.is_dir():
            return None
        if self.best_step == last_step:
            shutil.rmtree(best)
            return None
        folder = self._folder(self.tag)
        later = next(path for n in count(1) if not (path := folder.with_name(f"{self.tag}.{n}")).exists())
        write_json(best / FINISHED, {"best_step": self.best_step, "last_step": last_step})
        folder.rename(later)
        path = self._take_best()
        print0(f"The best checkpoint is that of step {self.best_step} ({self.metric} {self.best:.4f}); the later ones "
               f"are kept as --tag {later.name}")
        return path

    def recover(self) -> None:
        """Complete a `finish` that was interrupted half way; a best checkpoint alone does not mean that a run ended."""
        begun = self._folder(self.tag + BEST) / FINISHED
        if rank() != 0 or not begun.is_file():
            return
        if self._folder(self.tag).is_dir():
            # nothing was moved yet: training goes on or ends once more
            begun.unlink()
        else:
            self._take_best()

    def is_finished(self) -> bool:
        """Whether the tag holds the best checkpoint of a run that has ended."""
        return (self._folder(self.tag) / FINISHED).is_file()

    def finished_step(self) -> int:
        """The step of the best checkpoint of a run that has ended."""
        return int(json.loads((self._folder(self.tag) / FINISHED).read_text(encoding="utf-8"))["best_step"])

    def _note(self, step: int) -> None:
        """Put what is known by now into the last checkpoint, which was written before its evaluation."""
        from nanochat.checkpoint_files import META_FILE
        from nanochat.checkpoint_manager import find_checkpoint, read_meta

        with contextlib.suppress(CheckpointNotFound):
            path = find_checkpoint(self.source, self.tag, step)
            if (meta := read_meta(path)).get("early_stop") not in (None, self.record()):
                write_json(path / META_FILE, {**meta, "early_stop": self.record()})

    def _take_best(self) -> Path:
        from nanochat.checkpoint_files import META_FILE
        from nanochat.checkpoint_manager import find_checkpoint, read_meta

        folder = self._folder(self.tag)
        best = self._folder(self.tag + BEST)
        path = find_checkpoint(self.source, best.name)
        meta = {**read_meta(path), "tag": self.tag}
        # the rename comes last: until then `recover` can begin again
        write_json(path / META_FILE, meta)
        best.rename(folder)
        return folder / path.name

    def _folder(self, tag: str) -> Path:
        return base_dir() / "checkpoints" / self.source / tag

"""Whole-or-nothing writes: what killed processes left behind is cleared away, what may still be written is not."""

import os
import time

from nanochat.common import write_folder


def test_what_killed_processes_left_goes_after_a_day(tmp_path):
    old, young, other = (tmp_path / name for name in (".kb.a1.tmp", ".kb.b2.tmp", ".kb-2.c3.tmp"))
    for left in (old, young, other):
        (left / "inside").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    for path in (old / "inside", old, young, other / "inside", other):
        os.utime(path, (two_days_ago, two_days_ago))
    with write_folder(tmp_path / "kb") as folder:
        (folder / "new").touch()
    # in the young one something was written today: its process may live
    assert not old.exists() and young.exists() and other.exists() and (tmp_path / "kb" / "new").exists()

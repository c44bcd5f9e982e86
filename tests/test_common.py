"""Whole-or-nothing writes: what killed processes left goes, what may still be written does not. Freed memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.common import write_folder

HOLES = """
import ctypes
from pathlib import Path
from nanochat.common import return_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(65_536) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 65_536)
for number, block in enumerate(blocks):
    if number % 10:  # every tenth stays, so that none is at the end
        libc.free(block)
before = resident()
assert return_memory()
print(before - resident())
"""


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


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells nothing of a process's memory")
def test_what_was_freed_between_other_blocks_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True)
    if "assert return_memory()" in done.stderr:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40e6

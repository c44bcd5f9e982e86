"""Every test session gets a base folder of its own, one thread, and no settings from the caller's shell."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

# set before torch or numpy are imported, and inherited by the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
_FOLDER = tempfile.TemporaryDirectory(prefix="nanochat-tests-")
os.environ["NANOCHAT_BASE_DIR"] = _FOLDER.name
for _name in ("WANDB_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """The folder that base_dir() gives in this test session."""
    return Path(_FOLDER.name)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch to one thread once a test has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    _FOLDER.cleanup()

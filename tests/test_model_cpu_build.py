"""The native library is built on demand, whole, for its user alone; without a compiler there is none, silently."""

import threading

import pytest
import torch

from nanochat.model.cpu import build, native
from tests.test_model_laws import make_model, random_ids

needs_compiler = pytest.mark.skipif(build.library().functions is None, reason=build.library().reason)


@pytest.fixture
def fresh_build(tmp_path, monkeypatch):
    """A folder without libraries, and nothing remembered."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    build._found.cache_clear()
    yield tmp_path
    build._found.cache_clear()


@torch.no_grad()
def test_without_a_compiler_there_is_the_plain_path(fresh_build, monkeypatch, caplog):
    model = make_model("M,T")
    broken = fresh_build / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for compiler, reason in (("no-such-compiler", "FileNotFoundError"), (str(broken), "SubprocessError"),
                             (str(broken), "try again")):
        monkeypatch.setenv("CC", compiler)
        build._found.cache_clear()
        assert model(random_ids(1, 2), model.new_cache(1)).shape == (1, 2, 50)
        assert reason in native.describe(model) and native.describe().startswith("plain path: "), native.describe()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == [], "not silent"


def test_the_switch_is_heard_at_once(monkeypatch):
    monkeypatch.setenv("NANOCHAT_NATIVE", "0")
    assert native.describe() == "plain path: switched off by NANOCHAT_NATIVE=0"


@needs_compiler
def test_two_may_build_at_once_and_leave_one_library_of_their_own(fresh_build):
    made: list[object] = []
    workers = [threading.Thread(target=lambda: made.append(build._cached())) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(made) == 2 and made[0] == made[1] == build._cached()
    (library,) = (fresh_build / "native").iterdir()
    assert library.suffix == ".so" and build.library().functions is not None
    library.chmod(0o777)
    build._found.cache_clear()
    assert "alone" in build.library().reason, "a library that others may write is trusted"

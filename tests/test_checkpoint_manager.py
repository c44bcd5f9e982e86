"""Checkpoints: the same model comes back, kills leave the old one, damage and absence are one sentence each."""

import json
import os
import shutil
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat import checkpoint_manager as checkpoints
from nanochat import common
from nanochat.errors import CheckpointError, CheckpointNotFound, ConfigError, UnsupportedModel, UserError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from nanochat.training import Batch, build_optimizer, fit, language_model_loss, warmup_stable_decay


@pytest.fixture(autouse=True)
def own_base_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the red kite flies over the red hill"] * 3, vocab_size=330)


def tiny_model(pattern: str = "M,T", seed: int = 0, **changes) -> LanguageModel:
    settings = {
        "vocab_size": 336,
        "n_embd": 32,
        "n_head": 2,
        "n_kv_head": 1,
        "mlp_hidden": 48,
        "d_state": 8,
        "headdim": 16,
        "attention_conv": 4,
        "chunk_size": 8,
        **changes,
    }
    return LanguageModel(ModelConfig(block_pattern=pattern, **settings), seed=seed)


def save(tokenizer, source="mid", tag="tiny", step=5, *, model=None, **settings):
    model = model or tiny_model()
    return checkpoints.save_checkpoint(
        source, tag, step, model=model, tokenizer=tokenizer, meta={"note": "x", **settings.pop("meta", {})}, **settings
    )


@pytest.mark.parametrize("tie", [True, False])
def test_the_same_model_comes_back(tokenizer, tie):
    model = tiny_model(seed=3, tie_embeddings=tie)
    path = save(tokenizer, model=model)
    assert (path / "model.safetensors").exists() and path.name == "step_000005"
    state = torch.get_rng_state()
    loaded, words, meta = checkpoints.load_model("mid", device="cpu", phase="eval")
    assert torch.equal(state, torch.get_rng_state()), "loading a model moved the global random state"
    assert not loaded.training and checkpoints.load_model("mid", phase="train")[0].training
    ids = torch.tensor([words.encode(" the red kite")])
    assert torch.equal(loaded(ids), model.eval()(ids))
    assert loaded.config == model.config and words.encode("red hill") == tokenizer.encode("red hill")
    assert {key: meta[key] for key in ("source", "tag", "step", "path", "note")} == {
        "source": "mid",
        "tag": "tiny",
        "step": 5,
        "path": str(path),
        "note": "x",
    }


def test_a_tied_weight_is_stored_once(tokenizer):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(8, 4)
            self.head = torch.nn.Linear(4, 8, bias=False)
            self.head.weight = self.embed.weight

    first, second = Tied(), Tied()
    tensors = checkpoints.unique_tensors(first)
    assert list(tensors) == ["embed.weight"]
    checkpoints.load_tensors(second, tensors, where="here")
    assert torch.equal(first.head.weight, second.head.weight)


def batches(step: int, micro: int) -> Batch:
    ids = (torch.arange(13) * (1 + step % 3) + torch.arange(3)[:, None] * (5 + step)) % 300
    targets = ids[:, 1:].clone()
    targets[0, : step % 5] = -1
    return Batch(ids=ids[:, :-1], targets=targets)


def test_resumed_run_equals_straight_run(tokenizer):
    settings = {"schedule": warmup_stable_decay(10, 2, 0.3), "log": lambda record: None}

    def run(model, optimizer, **more):
        return fit(model, batches, language_model_loss, optimizer, **settings, **more)

    straight = tiny_model()
    straight_optimizer = build_optimizer(straight, weight_decay=0.1)
    whole = run(straight, straight_optimizer, num_steps=10)

    model = tiny_model()
    optimizer = build_optimizer(model, weight_decay=0.1)

    def checkpoint(step: int, progress: dict) -> None:
        save(tokenizer, step=step, model=model, optimizer=optimizer, meta={"progress": progress})

    first = run(model, optimizer, num_steps=5, save=checkpoint)

    resumed, _, meta = checkpoints.load_model("mid", phase="train")
    state = checkpoints.load_training_state(meta["path"])
    resumed_optimizer = build_optimizer(resumed, weight_decay=0.1)
    resumed_optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=meta["path"])
    second = run(resumed, resumed_optimizer, num_steps=10, start_step=state["step"], progress=meta["progress"])

    assert first["losses"] + second["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    assert second["loss"] == pytest.approx(whole["loss"], abs=1e-6) and second["tokens"] == whole["tokens"]
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    theirs = resumed_optimizer.state_tensors()
    for name, tensor in straight_optimizer.state_tensors().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=0)


def test_latest_step_and_latest_tag_are_found(tokenizer):
    for tag, step in (("a", 5), ("b", 20), ("b", 3), ("a", 10)):
        save(tokenizer, tag=tag, step=step)
    assert checkpoints.find_checkpoint("mid").parts[-2:] == ("a", "step_000010")
    assert checkpoints.find_checkpoint("mid", tag="b").name == "step_000020"
    assert checkpoints.find_checkpoint("mid", tag="b", step=3).name == "step_000003"


def test_missing_checkpoints_name_the_next_command(tokenizer):
    for source in checkpoints.SOURCES:
        with pytest.raises(CheckpointNotFound, match=f"^Checkpoint not found: source {source}") as caught:
            checkpoints.load_model(source)
        assert "python -m scripts." in caught.value.hint
    save(tokenizer, tag="tiny", step=5)
    with pytest.raises(CheckpointNotFound, match="source mid, tag large") as caught:
        checkpoints.find_checkpoint("mid", tag="large")
    assert "tiny" in caught.value.hint
    with pytest.raises(CheckpointNotFound, match="step 6") as caught:
        checkpoints.find_checkpoint("mid", step=6)
    assert "5" in caught.value.hint


def test_wrong_arguments_are_refused(tokenizer):
    save(tokenizer)
    with pytest.raises(ConfigError, match="did you mean mid"):
        checkpoints.load_model("midd")
    with pytest.raises(ConfigError, match="Phase 'test'"):
        checkpoints.load_model("mid", phase="test")
    with pytest.raises(UserError, match="nowhere"):
        checkpoints.load_model("hf:./nowhere/model")
    with pytest.raises(ConfigError, match="cannot name a folder"):
        save(tokenizer, tag="../outside")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Device cuda is not available") as caught:
            checkpoints.load_model("mid", device="cuda")
        assert 'device="cpu"' in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_damage_names_the_file(tokenizer, name, damage):
    file = save(tokenizer) / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        middle = len(content) // 2 if name == "model.safetensors" else 0
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    if (name, damage) == ("meta.json", "missing"):
        # without its last file a folder is no checkpoint
        with pytest.raises(CheckpointNotFound):
            checkpoints.load_model("mid")
        return
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_model("mid")
    assert str(file) in caught.value.problem


def test_other_shapes_and_names_are_refused(tokenizer):
    model = tiny_model()
    tensors = checkpoints.unique_tensors(model)
    with pytest.raises(CheckpointError, match="the config says"):
        checkpoints.load_tensors(tiny_model(mlp_hidden=64), tensors, where="here")
    with pytest.raises(CheckpointError, match="here: .*missing or too many"):
        checkpoints.load_tensors(tiny_model("M"), tensors, where="here")


def test_a_forged_config_is_an_error_with_its_name(tokenizer):
    path = save(tokenizer)
    for record in (
        {"block_pattern": "M,X", "vocab_size": 336},
        {"block_pattern": "M"},
        {"block_pattern": 3, "vocab_size": 2},
    ):
        (path / "config.json").write_text(json.dumps(record))
        meta = json.loads((path / "meta.json").read_text())
        meta["files"]["config.json"] = checkpoints.fingerprint(path / "config.json")
        (path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(CheckpointError, match=r"config\.json"):
            checkpoints.load_model("mid")


def test_only_the_last_steps_are_kept(tokenizer):
    for step in range(1, 6):
        path = save(tokenizer, step=step, keep=2)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["step_000004", "step_000005"]


def test_no_optimizer_state_is_said(tokenizer):
    path = save(tokenizer)
    with pytest.raises(CheckpointError, match="has no optimizer state"):
        checkpoints.load_training_state(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [5, 10])
def test_a_kill_before_the_rename_leaves_the_old_checkpoint(tokenizer, monkeypatch, step):
    old = tiny_model(seed=1)
    path = save(tokenizer, step=5, model=old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        # whichever way the new folder would have come into place
        os.rename = common._exchange = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        save(tokenizer, step=step, model=tiny_model(seed=2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    leftovers = list(path.parent.glob(".step_*.tmp"))
    assert len(leftovers) == 1, "the child was killed too early to prove anything"
    loaded, _, meta = checkpoints.load_model("mid")
    assert meta["step"] == 5 and torch.equal(loaded.embed.weight, old.embed.weight)
    os.utime(leftovers[0], (0, 0))
    save(tokenizer, step=11)
    assert not leftovers[0].exists() and checkpoints.find_checkpoint("mid").name == "step_000011"


def test_a_failed_save_leaves_nothing(tokenizer, monkeypatch):
    path = save(tokenizer, step=5)
    monkeypatch.setattr(tokenizer, "save", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        save(tokenizer, step=6)
    assert [entry.name for entry in path.parent.iterdir()] == ["step_000005"]


def test_an_unwritable_folder_is_one_sentence(tokenizer, own_base_dir):
    (own_base_dir / "checkpoints").write_text("a file where a folder belongs")
    with pytest.raises(UserError, match="Cannot write"):
        save(tokenizer)


def test_other_ranks_write_nothing(tokenizer, monkeypatch, own_base_dir):
    monkeypatch.setenv("RANK", "1")
    assert save(tokenizer).name == "step_000005" and not (own_base_dir / "checkpoints").exists()


def test_rag_refuses_a_transformer():
    checkpoints.require_mamba(tiny_model("T,M").config, "base", "tiny")
    with pytest.raises(
        UnsupportedModel, match="RAG requires Mamba or hybrid models; base/tiny has block pattern T,T"
    ) as caught:
        checkpoints.require_mamba(tiny_model("T,T").config, "base", "tiny")
    assert "--block_pattern" in caught.value.hint


def test_files_are_plain_tensors_and_json(tokenizer):
    model = tiny_model()
    optimizer = build_optimizer(model)
    language_model_loss(model, batches(0, 0)).loss.backward()
    optimizer.step()
    path = save(tokenizer, model=model, optimizer=optimizer)
    names = {
        "model.safetensors",
        "config.json",
        "meta.json",
        "tokenizer.json",
        "optimizer.safetensors",
        "optimizer.json",
    }
    assert {(entry.name, entry.stat().st_mode & 0o777) for entry in path.iterdir()} == {(name, 0o644) for name in names}
    assert load_file(path / "optimizer.safetensors").keys() == optimizer.state_tensors().keys()
    copy = path.parent / "step_000009"
    shutil.copytree(path, copy)
    save_file({"x": torch.zeros(1)}, copy / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        checkpoints.load_training_state(copy)

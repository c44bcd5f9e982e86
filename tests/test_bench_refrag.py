"""The stages that benches run: commands that exist, and rewards that start where their traces ended."""

import os
from pathlib import Path

import pytest

from bench import refrag_tiny
from bench.refrag_measures import Setting
from bench.refrag_tiny import PARTS, RefragTinyConfig, main, stages_of
from bench.stages import run_stages
from nanochat.config import load_config
from nanochat.errors import UserError
from scripts.refrag_finetune import RefragFinetuneConfig

ROOT = Path(__file__).parent.parent


def parsed(parts: str) -> dict[str, RefragFinetuneConfig]:
    return {name: load_config(RefragFinetuneConfig, argv, prog="refrag", description="")
            for name, argv in stages_of(RefragTinyConfig(parts=parts, rl_steps=7), 3, "kb").items()}


@pytest.mark.parametrize("parts", [*PARTS, ",".join(PARTS)])
def test_every_stage_is_a_command_and_goes_on_from_one_that_ran(parts, monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = parsed(parts)
    done: set[str] = set()
    for name, config in stages.items():
        assert config.tag == f"3-{name}"
        if config.use_rewards:
            assert config.source_tag in done and config.rl_steps == 7 and config.num_steps == 0
        done.add(config.tag)
    assert len(stages) == len(done) == {"plain": 2, "random": 2, ",".join(PARTS): 10}.get(parts, 3)


def test_what_traces_leave_out_is_left_out_of_gold_episodes_too(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = parsed("plain,longer")
    assert stages["short"].stages == "chains1,chains2" and stages["short"].max_hops == 3
    assert stages["rloo-longer"].gold_steps == 0


def test_rejection_sampling_stands_beside_the_parts_that_are_named():
    with_raft = stages_of(RefragTinyConfig(parts="plain,noisy", raft="plain"), 3, "kb")
    assert list(with_raft) == ["sft", "rloo", "rloo-noisy", "raft"]


def test_an_unknown_part_is_named():
    with pytest.raises(Exception, match="Unknown part 'shorter'"):
        main(["--parts", "shorter"])


def test_a_chain_goes_on_behind_the_last_stage_that_ended_well(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    stages = {"one": ["platform"], "two": ["broken"], "three": ["platform"]}
    path = {"PYTHONPATH": str(tmp_path)}
    with pytest.raises(UserError, match="Stage two of seed 5 stopped early, see .*log.txt"):
        run_stages(stages, tmp_path / "work", "seed 5", path)
    assert "seed 5: one" in capsys.readouterr().out
    (tmp_path / "broken.py").write_text("print('mended')")
    assert list(run_stages(stages, tmp_path / "work", "seed 5", path)) == ["one", "two", "three"]
    assert "one" not in capsys.readouterr().out
    assert (tmp_path / "work" / "log.txt").read_text().count("mended") == 1


def test_a_model_trained_again_is_asked_again(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "meta.json").write_text("{}")
    monkeypatch.setattr(refrag_tiny, "find_checkpoint", lambda source, tag: tmp_path)
    monkeypatch.setattr(refrag_tiny, "load", lambda tag: tag)
    monkeypatch.setattr(refrag_tiny, "ask_all",
                        lambda model, setting, *, seed: asked.append(model) or [{"n": len(asked)}])

    def ask(**settings):
        return refrag_tiny.ask(tmp_path, "0-sft", Setting(**settings), 0)[0]["n"]

    assert [ask(), ask(), ask(noise=0.5), ask()] == [1, 1, 2, 1]
    later = (tmp_path / "records" / "0-sft-3-0.0-train-60.json").stat().st_mtime + 5
    os.utime(tmp_path / "meta.json", (later, later))
    assert ask() == 3 and asked == ["0-sft"] * 3

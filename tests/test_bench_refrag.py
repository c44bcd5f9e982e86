"""The stages that benches run: commands that exist, and rewards that start where their traces ended."""

from pathlib import Path

import pytest

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
    assert len(stages) == len(done) == {"plain": 3, "noisy": 3, "longer": 3}.get(parts, 8)


def test_what_traces_leave_out_is_left_out_of_gold_episodes_too(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = parsed("plain,longer")
    assert stages["short"].stages == "chains1,chains2" and stages["short"].max_hops == 3
    assert stages["rloo-longer"].gold_steps == 0 < stages["rloo"].gold_steps


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

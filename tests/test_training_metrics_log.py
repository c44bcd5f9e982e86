"""Metrics: a readable file whatever happens, wandb only when asked, one warning when it is missing."""

import json
import logging
import math
import sys
import types

import pytest

from nanochat.training.metrics_log import MetricsLog, console_line


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_become_json_lines(tmp_path, capsys):
    path = tmp_path / "logs" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log({"step": 1, "loss_valid": math.nan})
        assert read(path) == [{"step": 1, "loss_valid": None}]
        log({"step": 2, "table": {"em": math.inf}, "em": 0.25})
    assert read(path)[1] == {"step": 2, "table": {"em": None}, "em": 0.25}
    assert capsys.readouterr().out.splitlines()[1] == "step 2 | em 0.25"


def test_resuming_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (5, 10, 15)) + '{"step": 2')
    with MetricsLog(path, start_step=10) as log:
        log({"step": 11})
    assert [record["step"] for record in read(path)] == [5, 10, 11]
    MetricsLog(path).close()
    assert path.read_text() == ""


def test_other_ranks_stay_silent(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with MetricsLog(tmp_path / "metrics.jsonl", run="named") as log:
        log({"step": 1})
    assert not (tmp_path / "metrics.jsonl").exists() and capsys.readouterr().out == ""


def test_missing_wandb_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path / "metrics.jsonl", run="named") as log:
        log({"step": 1})
        log({"step": 2})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No module named 'wandb'" in caplog.text and len(read(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("run", ["dummy", "named"])
def test_wandb_gets_records_of_named_runs(tmp_path, monkeypatch, run):
    sent: list = []
    wandb_run = types.SimpleNamespace(
        log=lambda values, step: sent.append((step, values)), finish=lambda: sent.append("end")
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: sent.append(settings) or wandb_run
    fake.Error = RuntimeError
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with MetricsLog(tmp_path / "metrics.jsonl", run=run, config={"seed": 1}) as log:
        log({"step": 3, "loss_valid": 1.5})
    started = {"project": "nanochat-rag", "name": "named", "config": {"seed": 1}}
    assert sent == ([] if run == "dummy" else [started, (3, {"loss_valid": 1.5}), "end"])


def test_training_line_has_everything():
    line = console_line(
        {
            "step": 20,
            "num_steps": 300,
            "loss": 2.34567,
            "loss_answer": 1.0,
            "lr_scale": 0.5,
            "grad_norm": 0.8,
            "tokens": 1,
            "tokens_per_s": 12345.6,
            "elapsed_s": 65,
            "remaining_s": 3700,
        }
    )
    front = "step  20/300 | loss 2.3457 | loss_answer 1 | lr x0.500 | grad 0.80"
    assert line == front + " | 12,346 tok/s | 1:05 elapsed, 1:01:40 left"

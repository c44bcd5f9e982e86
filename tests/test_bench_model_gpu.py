"""The GPU bench runs with tiny models on the CPU, fills its tables, and loses nothing when a figure fails."""

import json
import time

import pytest

from bench import model_gpu, model_gpu_parts
from nanochat.model import LanguageModel, ModelConfig


def test_tiny_tables_are_filled_and_missing_peers_are_named(tmp_path, monkeypatch):
    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(model_gpu_parts, "make_peer", missing)
    output = tmp_path / "figures.json"
    assert model_gpu.main(["--tiny", "true", "--device", "cpu", "--output", str(output),
                           "--parts", "machine,choices,kernels,decode,training,prefill"]) == 0
    figures = json.loads(output.read_text())
    assert not [row for table in figures.values() if isinstance(table, list) for row in table if "failed" in row]
    peers = [row for table in ("decode", "training", "prefill") for row in figures[table]
             if "transformers" in (row.get("who"), row.get("way"))]
    assert len(peers) == 5 and all(row["skipped"] == "transformers is not installed" for row in peers)
    speeds = [row["tokens_per_s"] for table in ("decode", "training", "prefill") for row in figures[table]
              if "skipped" not in row]
    assert len(speeds) == 4 + 2 + 2 and min(speeds) > 0
    assert figures["kernels"][0]["scan_with_gradients_ms"] > 0


def test_a_figure_that_fails_or_has_no_time_costs_no_other(tmp_path):
    output = tmp_path / "figures.json"
    report = model_gpu.Report({}, str(output), time.monotonic() + 100)

    def failing():
        raise RuntimeError("no such kernel")

    report.measure("table", {"row": 1}, failing)
    report.measure("table", {"row": 2}, lambda: {"ms": 1.0})
    report.deadline = 0.0
    report.measure("table", {"row": 3}, lambda: pytest.fail("there is no time left"))
    rows = json.loads(output.read_text())["table"]
    assert [row.get("failed") or row.get("ms") or row.get("skipped") for row in rows] == [
        "RuntimeError: no such kernel", 1.0, "no time left"]


@pytest.mark.parametrize(("name", "low", "high"), [("50M", 45e6, 60e6), ("350M", 320e6, 380e6), ("1B", 0.9e9, 1.6e9)])
def test_sizes_are_what_their_names_say(name, low, high):
    model = LanguageModel.empty(ModelConfig(sequence_len=8, **model_gpu.SHAPES[name]))
    assert low < model.num_parameters < high, f"{name} has {model.num_parameters:,} parameters"

"""What did the quickstart reach, and how long did it take? Gathers the reports of finished quickstart folders.

    bash runs/quickstart.sh
    python -m bench.quickstart --folders data/quickstart
"""

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

# condition, metric -> what the project wants of the fresh world
GOALS = {
    ("retrieved", "exact_match"): ">= 0.90",
    ("closed_book", "exact_match"): "<= 0.10",
    ("wrong", "abstention"): ">= 0.80",
    ("retrieved", "citation_validity"): ">= 1.00",
}
KEPT = ("checkpoint", "questions", "knowledge_base", "environment", "conditions", "abstention_precision",
        "abstention_recall", "differences")
METRICS = ("exact_match", "f1", "recall", "abstention", "citation_validity", "citation_support")


@dataclass(frozen=True, kw_only=True)
class BenchQuickstartConfig:
    folders: str = "data/quickstart"  # working folders of finished quickstarts, comma-separated
    output: str = "bench/quickstart.json"  # where the numbers go


CONFIG = BenchQuickstartConfig


def main(argv: list[str]) -> int:
    config = load_config(BenchQuickstartConfig, argv, prog="bench.quickstart", description=__doc__ or "")
    runs = {Path(name).name: gather(Path(name)) for name in config.folders.split(",")}
    for name, run in runs.items():
        print0(f"\n{name}: {run['minutes']:.1f} minutes on {run['machine']['cores']} cores")
        for report, content in run["reports"].items():
            print0(f"  {report}\n  {'condition':16}{'n':>5}  " + "  ".join(f"{metric:>17}" for metric in METRICS))
            for condition, row in content["conditions"].items():
                cells = [f"{row[m]['value']:.3f}" if row.get(m) else "-" for m in METRICS]
                print0(f"  {condition:16}{row['num_questions']:>5}  " + "  ".join(f"{cell:>17}" for cell in cells))
        for goal in run["goals"]:
            value = "not measured" if goal["value"] is None else f"{goal['value']:.3f}"
            print0(f"  {goal['condition']} {goal['metric']}: {value}, goal {goal['goal']}: "
                   + ("reached" if goal["reached"] else "MISSED"))
    write_json(config.output, runs)
    print0(f"wrote {config.output}")
    return 0


def gather(folder: Path) -> dict[str, Any]:
    """The table, times and goals of one quickstart. Raises UserError when it is not finished."""
    reports = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
               for path in sorted(folder.glob("report*/results.json"))}
    if not reports:
        raise UserError(f"No finished quickstart in {folder}", hint="run it first: bash runs/quickstart.sh")
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    kept = {name: {key: report[key] for key in KEPT} for name, report in reports.items()}
    return {
        "minutes": sum(times.values()) / 60, "seconds_by_step": times, "reports": kept,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "goals": [_check(reports["report"]["conditions"], *key, goal) for key, goal in GOALS.items()],
    }


def _check(conditions: dict[str, Any], condition: str, metric: str, goal: str) -> dict[str, Any]:
    measured = conditions[condition][metric]
    relation, bound = goal.split()
    # nothing to measure, such as the citations of a model that always abstains, is not a goal reached
    value = measured["value"] if measured else None
    reached = value is not None and (value >= float(bound) if relation == ">=" else value <= float(bound))
    return {"condition": condition, "metric": metric, "value": value, "goal": goal, "reached": reached}


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""What does a knowledge base of 100,000 (or a million) real passages cost: to build, open, search, change and check?

    python -m bench.knowledge_base_scale --data ../shared/data --count 100000

A hybrid knowledge base with the encoder "lsa", because that one encodes a million passages in minutes; a language
model adds its own time of encoding to builds, additions and queries, and nothing else. Every step is done in a fresh
process with one thread, the middle one of several is reported. Goals are those for one core of a quiet machine.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.passages import iterate_passages, known_item_queries
from bench.retrieval_100k import label
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

NUM_ADDED, FILE_DOCUMENTS, BLOCK_ROWS = 1_000, 1_000, 1_024
TYPES = ("bm25", "dense", "hybrid")
# figure: most that it may be, at 100,000 and at a million passages
GOALS = {
    "open_ms": (50, 1_000), "encoded_p50_ms": (3, 20), "hybrid_p50_ms": (None, 20), "add_without_encoding_s": (2, None),
    "delete_ms": (100, None), "previous_ms": (100, None), "peak_mb": (None, 4_096),
}
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    data: str = ""                    # folder with the developers' data (required)
    count: int = 100_000              # passages
    num_queries: int = 300            # eight words in a row out of a passage each
    repeats: int = 5                  # processes for each step but build, verify and the comparison
    same_count: int = 20_000          # passages of the knowledge bases that are built in 50 additions
    kill_at: float = 0.6              # share of the encoding after which a build is killed; 0: none is
    output: str = ""                  # where the numbers go; empty: bench/results/knowledge_base_<count>.json
    work: str = ""                    # folder for the knowledge bases; empty: a temporary one


CONFIG = ScaleConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.knowledge_base_scale", description=__doc__ or "")
    if not config.data:
        raise UserError("No data folder", hint="--data ../shared/data")
    output = config.output or f"bench/results/knowledge_base_{label(config.count)}.json"
    result: Figures = {
        "data": "developers' corpora in passages of 60 to 100 words, in JSONL files of 1,000", "passages": config.count,
        "retriever_type": "hybrid", "encoder": "lsa", "queries": config.num_queries, "repeats": config.repeats,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread",
        "command": " ".join(["python -m bench.knowledge_base_scale", *argv]), "steps": {},
    }
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.work or None) as folder:
        work = Path(folder)
        prepare(config, work)
        for name, figures in steps(config, work):
            result["steps"][name] = {key: float(f"{value:.6g}") for key, value in figures.items()}
            show(name, result["steps"][name], config.count)
            write_json(output, result)
    print0(f"Wrote {output}")
    return 0


def steps(config: ScaleConfig, work: Path) -> Iterator[tuple[str, Figures]]:
    """(name, figures) of every step, in order: later ones need what earlier ones wrote."""
    yield "build", run(work, "build")
    yield "open", middle([run(work, "open") for _ in range(config.repeats)])
    for kind in TYPES:
        yield f"query {kind}", middle([run(work, "query", kind) for _ in range(3)])
    yield "sync unchanged", middle([run(work, "sync") for _ in range(3)])
    yield "add 1,000", middle([run(work, "add", str(number)) for number in range(config.repeats)])
    yield "delete one", middle([run(work, "delete", str(number)) for number in range(config.repeats)])
    yield "open previous", middle([run(work, "previous") for _ in range(config.repeats)])
    yield "rollback", middle([run(work, "rollback") for _ in range(config.repeats)])
    yield "verify", run(work, "verify")
    if config.kill_at:
        yield "kill -9, build again", killed_build(config, work)
    if config.same_count:
        for kind in ("simple", *TYPES):
            yield f"50 additions, {kind}", run(work, "same", f"{kind},{config.same_count}")


def prepare(config: ScaleConfig, work: Path) -> None:
    """Write the documents into files of 1,000, those to add, and the queries."""
    sample, step = [], max(1, config.count // (4 * config.num_queries))
    (work / "files").mkdir()
    file = None
    for position, document in enumerate(iterate_passages(config.data, config.count + config.repeats * NUM_ADDED)):
        number = (position if position < config.count else position - config.count) // FILE_DOCUMENTS
        is_first = position == config.count or position % FILE_DOCUMENTS == 0
        if is_first:
            if file is not None:
                file.close()
            name = f"files/{number:06d}.jsonl" if position < config.count else f"more_{number}.jsonl"
            file = open(work / name, "w", encoding="utf-8")
        file.write(json.dumps(document.to_dict()) + "\n")
        if position < config.count and position % step == 0:
            sample.append(document)
    file.close()
    queries = [query for query, _ in known_item_queries(sample, config.num_queries)]
    (work / "queries.json").write_text(json.dumps(queries), encoding="utf-8")


def killed_build(config: ScaleConfig, work: Path) -> Figures:
    """Kill a build when so much of its encoding is done; then give the same command again."""
    blocks = int(config.kill_at * config.count / BLOCK_ROWS)
    process = subprocess.Popen(_command(work, "build", "killed"), env=_environment(), stdout=subprocess.DEVNULL)
    begun = time.perf_counter()
    while process.poll() is None and len(list((work / "killed").glob("work/*/*.keys.npy"))) < blocks:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        raise UserError("The build ended before it could be killed", hint="--kill_at 0.3")
    killed_s = time.perf_counter() - begun
    again = run(work, "build", "killed")
    reused = 1 - again["encoded"] / again["passages"]
    again_times = {"again_s": again["build_s"], "again_cpu_s": again["build_cpu_s"]}
    return {"killed_after_s": killed_s, **again_times, "encoded_again": again["encoded"],
            "reused_share": reused, "peak_mb": again["peak_mb"]}


def middle(figures: list[Figures]) -> Figures:
    """The middle one of each figure."""
    return {key: sorted(one[key] for one in figures)[len(figures) // 2] for key in figures[0]}


def run(work: Path, *arguments: str) -> Figures:
    """One step in a fresh process."""
    finished = subprocess.run(_command(work, *arguments), capture_output=True, text=True, env=_environment())
    if finished.returncode:
        raise UserError(f"{arguments[0]} failed: {finished.stderr.strip()[-800:]}", hint="see above")
    return json.loads(finished.stdout.splitlines()[-1])


def _command(work: Path, step: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.knowledge_base_steps", step, str(work), *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def show(name: str, figures: Figures, count: int) -> None:
    """One line for each figure, with its goal."""
    for key, value in figures.items():
        goal = GOALS.get(key, (None, None))[count >= 1_000_000]
        if name != "build" and key == "peak_mb":
            goal = None
        verdict = "" if goal is None else f"   goal {goal:,}: {'met' if value <= goal else 'MISSED'}"
        print0(f"{name:<24}{key:<28}{value:>14,.6g}{verdict}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""How fast and how large are lexical indexes of 100,000 (or a million) real passages, beside other packages?

    python -m bench.retrieval_100k --data ../shared/data --count 100000

Every engine builds, serves and adds in fresh processes on one core. Queries are eight words in a row out of a passage,
which is to be found again (nDCG@10 of that passage or one of the same text): word for word, so that engines without
stems and with stop words do best; quality is measured elsewhere. Peers take part where installed.
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.lexical_engines import ENGINES, SMALL_ONLY
from bench.passages import iterate_passages, known_item_queries
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

NUM_ADDED = 1_000
COLUMNS = (
    "build_cpu_s", "build_peak_mb", "disk_mb", "open_ms", "query_cpu_ms_p50", "query_cpu_ms_p95", "batch_cpu_ms",
    "resident_mb", "add_1000_s", "ndcg@10",
)


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    data: str = ""                    # folder with the developers' data (required)
    count: int = 100_000              # passages
    num_queries: int = 500            # known-item queries
    engines: str = ",".join(name.replace(", ", "+") for name in ENGINES)  # rows to measure, by commas
    output: str = ""                  # where the numbers go; empty: bench/results/retrieval_<count>.json
    work: str = ""                    # folder for passages and indexes; empty: a temporary one


CONFIG = SpeedConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.retrieval_100k", description=__doc__ or "")
    if not config.data:
        raise UserError("No data folder", hint="--data ../shared/data")
    names = [name.strip().replace("+", ", ") for name in config.engines.split(",")]
    unknown = [name for name in names if name not in ENGINES]
    if unknown:
        raise UserError(f"Unknown engine {unknown[0]!r}", hint=f"there are: {', '.join(ENGINES)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.work or None) as work:
        texts, targets = prepare(config, Path(work))
        print0(f"{config.count:,} passages, {len(targets)} known-item queries")
        print0(f"{'engine':<16}" + "".join(f"{name:>18}" for name in COLUMNS))
        for name in names:
            if config.count > SMALL_ONLY.get(name, config.count):
                continue
            row = measure(name, Path(work), texts, targets)
            if "missing" in row:
                print0(f"{name:<16} {row['missing']}")
                continue
            rows.append(row)
            print0(f"{name:<16}" + "".join(f"{row.get(column, '-'):>18}" for column in COLUMNS))
    output = config.output or f"bench/results/retrieval_{label(config.count)}.json"
    write_json(output, {
        "data": "developers' corpora in passages of 60 to 100 words", "passages": config.count,
        "queries": len(targets), "machine": f"{platform.machine()}, Python {platform.python_version()}, one core",
        "command": " ".join(["python -m bench.retrieval_100k", *argv]), "rows": rows,
    })
    print0(f"Wrote {output}")
    return 0


def label(count: int) -> str:
    """100k, 1m, or the number itself."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if count >= size and count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def prepare(config: SpeedConfig, work: Path) -> tuple[list[int], list[int]]:
    """Write passages and queries. Returns a number for the text of each passage, and the passage each query is from."""
    numbers: dict[int, int] = {}
    texts, sample = [], []
    # one passage in so many may be asked for: all texts need not be held
    step = max(1, config.count // (4 * config.num_queries))
    with open(work / "passages.jsonl", "w", encoding="utf-8") as first, \
            open(work / "more.jsonl", "w", encoding="utf-8") as more:
        for position, document in enumerate(iterate_passages(config.data, config.count + NUM_ADDED)):
            (first if position < config.count else more).write(json.dumps(document.to_dict()) + "\n")
            if position < config.count:
                texts.append(numbers.setdefault(hash(document.content), len(numbers)))
                if position % step == 0:
                    sample.append((position, document))
    chosen = known_item_queries([document for _, document in sample], config.num_queries)
    (work / "queries.json").write_text(json.dumps([query for query, _ in chosen]), encoding="utf-8")
    return texts, [sample[place][0] for _, place in chosen]


def measure(name: str, work: Path, texts: list[int], targets: list[int]) -> dict[str, Any]:
    """The figures of one engine; every step is done three times, and the middle one of each figure is kept."""
    is_small = name in SMALL_ONLY
    row: dict[str, Any] = {"engine": name}
    # building a million is done once
    repeats = {"build": 1 if len(texts) > 200_000 else 3, "serve": 1 if is_small else 3, "add": 1}
    for step, count in repeats.items():
        if is_small and step != "serve":
            continue
        figures = [run(step, name, work) for _ in range(count)]
        if "missing" in figures[0]:
            return figures[0]
        found = [one.pop("found", None) for one in figures][0] or row.get("found")
        row |= {key: sorted(one[key] for one in figures)[count // 2] for key in figures[0]} | {"found": found}
    found = row.pop("found")
    row["ndcg@10"] = round(sum(gain(hits, target, texts) for hits, target in zip(found, targets)) / len(found), 4)
    return row


def gain(hits: list[int], target: int, texts: list[int]) -> float:
    """nDCG with one right answer: 1 / log2(1 + its place)."""
    for place, position in enumerate(hits, 1):
        if texts[position] == texts[target]:
            return 1 / math.log2(1 + place)
    return 0.0


def run(step: str, name: str, work: Path) -> dict[str, Any]:
    """One step in a fresh process."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "bench.lexical_engines", step, name, str(work)], capture_output=True, text=True,
        env={**os.environ, **one_thread},
    )
    if finished.returncode:
        raise UserError(f"{name} failed in step {step}: {finished.stderr.strip()[-500:]}", hint="see above")
    return json.loads(finished.stdout.splitlines()[-1])


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""How fast and how well do the numeric paths of a sentence encoder compute, beside sentence-transformers itself?

    OMP_NUM_THREADS=1 python -m bench.encoders --data ../shared/data
    python -m bench.encoders --data ../shared/data --output bench/results/encoders_all_threads.json

All engines take turns on the same texts in one process, so that a busy neighbour slows all of them; times are medians
over the turns. Throughput is measured on passages of 60 to 100 words, the latency on questions, one at a time. With
--quality true, nDCG@10 on SciFact, and the same with documents or queries of the float model, is added (minutes).
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.encoded import encode_cached
from bench.passages import real_passages
from bench.retrieval_scifact import read_queries
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.retrieval import read_documents
from nanochat.retrieval.encoders import find_encoder
from nanochat.retrieval.encoders.models import find_model
from nanochat.retrieval.encoders.paths import PATHS, is_installed
from nanochat.retrieval.judging.metrics import evaluate

PEER = "sentence-transformers"
GOALS = {"documents_per_second": 2.5, "query_ms": 0.25}  # against the peer


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    data: str = ""                    # the developers' data folder (required)
    model: str = "all-MiniLM-L6-v2"   # as in --model of the knowledge base
    paths: tuple[str, ...] = ()       # numeric paths to measure; none means all that are installed
    passages: int = 128               # texts per turn for the throughput
    queries: int = 40                 # texts per turn for the latency
    turns: int = 5                    # of each engine
    quality: bool = False             # also nDCG@10 on SciFact
    cache: str = ""                   # folder that keeps the vectors of SciFact
    output: str = "bench/results/encoders.json"  # where the numbers go


CONFIG = EncodersConfig
# (encode documents, encode queries)
Engine = tuple[Callable[[Sequence[str]], Any], Callable[[Sequence[str]], Any]]


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.encoders", description=__doc__ or "")
    scifact = Path(config.data) / "ir_scifact"
    if not config.data or not scifact.is_dir():
        raise UserError(f"No data in {config.data!r}", hint="--data ../shared/data")
    paths = [path for path in config.paths or PATHS if is_installed(path)]
    engines = {PEER: _peer(config.model)} | {path: _ours(config.model, path) for path in paths}
    # every tenth passage: all corpora take part
    passages = [document.text for document in real_passages(config.data, config.passages * config.turns * 10)[::10]]
    texts, judgements = read_queries(scifact)
    questions = [texts[query] for query in judgements]
    print0(f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, {config.turns} turns of "
           f"{config.passages} passages and {config.queries} queries")
    rows = measure(engines, passages, questions, config)
    for name, row in rows.items():
        print0(f"{name:<22} {row['documents_per_second']:8.1f} documents/s, {row['documents_per_cpu_second']:8.1f} per "
               f"CPU s ({row['throughput_wall_ratio']:.2f}x, {row['throughput_ratio']:.2f}x)  query p50 "
               f"{row['query_ms']:7.2f} ms, CPU {row['query_cpu_ms']:7.2f} ms "
               f"({row['latency_ratio']:.2f}x, {row['latency_cpu_ratio']:.2f}x)")
    quality = measure_quality(config, paths, scifact) if config.quality else {}
    write_json(config.output, {
        "model": config.model, "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"), "goals": GOALS, "rows": rows, "scifact": quality,
    })
    print0(f"Wrote {config.output}")
    return 0


def _peer(model: str) -> Engine:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(find_model(model)), device="cpu")

    def encode(texts: Sequence[str]) -> Any:
        return encoder.encode(list(texts), show_progress_bar=False)

    return encode, encode


def _ours(model: str, path: str) -> Engine:
    encoder = find_encoder(model, path=path)
    return encoder.encode_documents, encoder.encode_queries


def measure(
    engines: dict[str, Engine], passages: Sequence[str], questions: Sequence[str], config: EncodersConfig
) -> dict[str, dict[str, float]]:
    """Speed of each engine, and its ratio to the peer's in the same turns."""
    for documents, queries in engines.values():
        documents(passages[: config.passages])
        for question in questions:
            queries([question])
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    waits: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for turn in range(config.turns):
        block = passages[turn * config.passages : (turn + 1) * config.passages]
        for name, (documents, _) in engines.items():
            speeds[name].append(tuple(len(block) / seconds for seconds in timed(documents, block)))
        for name, (_, queries) in engines.items():
            for place in range(turn * config.queries, (turn + 1) * config.queries):
                waits[name].append(timed(queries, [questions[place % len(questions)]]))
    rows = {name: _summary(speeds[name], waits[name]) for name in engines}
    for row in rows.values():
        row["throughput_ratio"] = row["documents_per_cpu_second"] / rows[PEER]["documents_per_cpu_second"]
        row["throughput_wall_ratio"] = row["documents_per_second"] / rows[PEER]["documents_per_second"]
        row["latency_ratio"] = row["query_ms"] / rows[PEER]["query_ms"]
        row["latency_cpu_ratio"] = row["query_cpu_ms"] / rows[PEER]["query_cpu_ms"]
    return {name: {key: round(value, 3) for key, value in row.items()} for name, row in rows.items()}


def _summary(speeds: list[tuple[float, float]], waits: list[tuple[float, float]]) -> dict[str, float]:
    wall, processor = zip(*speeds)
    wait, busy = zip(*waits)
    return {
        "documents_per_second": statistics.median(wall), "documents_per_cpu_second": statistics.median(processor),
        "query_ms": statistics.median(wait) * 1000, "query_cpu_ms": statistics.median(busy) * 1000,
    }


def timed(function: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    start, start_cpu = time.perf_counter(), time.process_time()
    function(texts)
    return time.perf_counter() - start, time.process_time() - start_cpu


def measure_quality(config: EncodersConfig, paths: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
    """nDCG@10 of each path, alone and mixed with the float model's vectors, and the cosine between the two."""
    documents = read_documents(folder / "corpus.jsonl.gz")
    texts, judgements = read_queries(folder)
    cache = config.cache or "data/encoded"
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in dict.fromkeys(["torch", *paths]):
        encoder = find_encoder(config.model, path=path)
        found[path] = (
            encode_cached(encoder, [document.text for document in documents], cache),
            encode_cached(encoder, [texts[query] for query in judgements], cache, for_queries=True),
        )

    def score(vectors: np.ndarray, queries: np.ndarray) -> float:
        best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
        rankings = {query: [documents[place].id for place in row] for query, row in zip(judgements, best)}
        return round(evaluate(rankings, judgements, k=10)["ndcg@10"], 4)

    exact, exact_queries = found["torch"]
    rows = {}
    for path, (vectors, queries) in found.items():
        rows[path] = {
            "ndcg@10": score(vectors, queries), "with_float_documents": score(exact, queries),
            "with_float_queries": score(vectors, exact_queries),
            "cosine_to_float": round(float((vectors * exact).sum(axis=1).mean()), 5),
        }
        print0(f"{path:<22} {rows[path]}")
    return rows


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""How fast, how exact and how large is the search among vectors, beside FAISS and numpy on the same vectors?

    python -m bench.vectors --data ../shared/data --cache FOLDER --count 100000

Vectors of real passages by the default encoder, kept in the cache folder, because encoding takes half an hour on two
cores (random vectors would mislead). Beyond `--real` of them come copies with noise. Times are processor time of one
thread; recall is the share of the true ten nearest among the ten found, those at equal distance included.
"""

import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.passages import known_item_queries, real_passages
from bench.vector_engines import ENGINES, SMALL_ONLY, Engine
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

TOP_K, NUM_ADDED, NOISE = 10, 1_000, 0.4
COLUMNS = ("build_s", "disk_mb", "open_ms", "first_ms", "query_ms", "query_wall_ms", "recall@10", "filtered_ms",
           "filtered_recall", "add_1000_s")


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    data: str = ""                    # folder with the developers' data; needed while the cache is empty
    cache: str = ""                   # folder with passages.npy and queries.npy, made if missing (required)
    real: int = 100_000               # passages to encode
    count: int = 100_000              # vectors to search
    num_queries: int = 300            # eight words in a row out of a passage each
    engines: str = ",".join(ENGINES)  # rows to measure, by commas
    output: str = ""                  # where the numbers go; empty: bench/results/vectors_<count>.json


CONFIG = VectorsConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.vectors", description=__doc__ or "")
    if not config.cache:
        raise UserError("No cache folder", hint="--cache ../vectors --data ../shared/data")
    vectors, queries, encoder = load_vectors(config)
    vectors = enlarged(vectors, config.count + NUM_ADDED)
    # one row in ten, as a filter on metadata leaves them
    allowed = np.random.default_rng(1).random(config.count) < 0.1
    truth = {filtered: exact_scores(vectors[: config.count], queries, allowed if filtered else None)
             for filtered in (False, True)}
    print0(f"{config.count:,} vectors of {vectors.shape[1]} dimensions, {len(queries)} queries")
    print0(f"{'engine':<22}" + "".join(f"{name:>16}" for name in COLUMNS))
    rows = []
    for name in config.engines.split(","):
        if name not in ENGINES:
            raise UserError(f"Unknown engine {name!r}", hint=f"there are: {', '.join(ENGINES)}")
        if config.count > SMALL_ONLY.get(name, config.count):
            continue
        try:
            row = {"engine": name, **measure(ENGINES[name](), vectors, queries, allowed, truth, config.count)}
        except ModuleNotFoundError as missing:
            print0(f"{name:<22} not installed: {missing.name}")
            continue
        rows.append(row)
        print0(f"{name:<22}" + "".join(f"{row.get(column, '-'):>16}" for column in COLUMNS))
    output = config.output or f"bench/results/vectors_{config.count}.json"
    write_json(output, {
        "data": "passages of 60 to 100 words" + (", copies with noise" if config.count > config.real else ""),
        "encoder": encoder, "vectors": config.count, "dimension": vectors.shape[1], "queries": len(queries),
        "command": f"python -m bench.vectors --data ../shared/data --cache FOLDER --count {config.count}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread", "rows": rows,
    })
    print0(f"Wrote {output}")
    return 0


def load_vectors(config: VectorsConfig) -> tuple[np.ndarray, np.ndarray, str]:
    """float16 (n, D) of passages, float32 (Q, D) of queries, and who made them; encoded now if the cache is empty."""
    cache = Path(config.cache)
    if not (cache / "queries.npy").is_file():
        encode(config, cache)
    vectors = np.load(cache / "passages.npy", mmap_mode="r", allow_pickle=False)[: config.real]
    encoder = (cache / "encoder.txt").read_text(encoding="utf-8").strip() if (cache / "encoder.txt").is_file() else ""
    return vectors, np.load(cache / "queries.npy", allow_pickle=False)[: config.num_queries], encoder


def encode(config: VectorsConfig, cache: Path) -> None:
    """Encode passages and queries into the cache; goes on after an interruption."""
    from nanochat.retrieval.encoders import find_encoder
    from nanochat.retrieval.vectors.encoding import encoded_blocks
    from nanochat.retrieval.vectors.texts import Texts

    if not config.data:
        raise UserError(f"No vectors in {cache}", hint="--data ../shared/data makes them")
    cache.mkdir(parents=True, exist_ok=True)
    passages = real_passages(config.data, config.real)
    encoder = find_encoder()
    wanted = encoder.rows_to_fit(len(passages))
    if wanted:
        encoder.fit(passage.text for passage in passages[:wanted])
    blocks = []
    for _, block in encoded_blocks(Texts(passages), encoder, journal=cache / "journal"):
        blocks.append(block)
        print0(f"encoded {sum(map(len, blocks)):,} of {len(passages):,} passages")
    queries = [query for query, _ in known_item_queries(passages, config.num_queries)]
    np.save(cache / "passages.npy", np.concatenate(blocks), allow_pickle=False)
    (cache / "encoder.txt").write_text(f"{encoder.describe()['model']} {encoder.describe()['documents_path']}\n")
    np.save(cache / "queries.npy", encoder.encode_queries(queries), allow_pickle=False)


def enlarged(vectors: np.ndarray, count: int) -> np.ndarray:
    """float16 (count, D): the vectors, then copies of them that have moved a little, of length 1."""
    result = np.empty((count, vectors.shape[1]), np.float16)
    random = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        rows = np.arange(start, min(start + 10_000, count))
        block = vectors[rows % len(vectors)].astype(np.float32)
        noise = random.standard_normal(block.shape, np.float32) * (NOISE / np.sqrt(block.shape[1]))
        block += noise * (rows >= len(vectors))[:, None]
        result[start : start + len(rows)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return result


def exact_scores(vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """(Q,) the score of the tenth nearest vector: what scores as high is right."""
    best = np.full((len(queries), 0), 0, np.float32)
    for start in range(0, len(vectors), 50_000):
        scores = queries @ vectors[start : start + 50_000].astype(np.float32).T
        if allowed is not None:
            scores[:, ~allowed[start : start + 50_000]] = -np.inf
        best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, -TOP_K:]
    return best[:, 0]


def measure(
    engine: Engine, vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray, truth: dict[bool, np.ndarray],
    count: int,
) -> dict[str, Any]:
    """All figures of one engine."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        folder, larger = Path(work, "one"), Path(work, "two")
        folder.mkdir()
        larger.mkdir()
        row["build_s"] = seconds(lambda: engine.build(folder, blocks(vectors[:count]), count, vectors.shape[1]))
        row["disk_mb"] = round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1)
        row["open_ms"] = 1000 * seconds(lambda: engine.open(folder))
        row["first_ms"] = 1000 * seconds(lambda: engine.search(queries[0], TOP_K, None))
        for filtered, names in ((False, ("query_ms", "recall@10")), (True, ("filtered_ms", "filtered_recall"))):
            if not filtered or engine.has_filter:
                figures = serve(engine, vectors, queries, allowed if filtered else None, truth[filtered])
                row[names[0]], wall, row[names[1]] = figures
                if not filtered:
                    row["query_wall_ms"] = wall
        new = vectors[count : count + NUM_ADDED]
        row["add_1000_s"] = seconds(lambda: engine.add(larger, folder, blocks(new), len(new)))
    return {name: round(value, 4) for name, value in row.items()}


def serve(
    engine: Engine, vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None, tenth: np.ndarray
) -> tuple[float, float, float]:
    """Median milliseconds of a query, processor and wall time, best of three rounds; and recall."""
    rounds, walls = [], []
    for _ in range(3):
        times, waits, right = [], [], 0
        for query, border in zip(queries, tenth):
            cpu, wall = time.process_time(), time.perf_counter()
            found = engine.search(query, TOP_K, allowed)
            times.append(time.process_time() - cpu)
            waits.append(time.perf_counter() - wall)
            right += int((vectors[found].astype(np.float32) @ query >= border - 1e-5).sum())
        rounds.append(np.median(times))
        walls.append(np.median(waits))
    return 1000 * float(min(rounds)), 1000 * float(min(walls)), right / (TOP_K * len(queries))


def blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    yield from (vectors[start : start + 10_000] for start in range(0, len(vectors), 10_000))


def seconds(work: Callable[[], Any]) -> float:
    """Processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(run_main(main))

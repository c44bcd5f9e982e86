"""What does an encoder gain by tuning on documents alone? Measured on the questions of people, which it never saw.

    python -m bench.tune_encoder --data ../shared/data --cache data/quality_cache

For every collection and encoder: nDCG@10 of held-out pseudo-queries, which decide whether `kb tune-encoder` installs
what it learned, and of the real questions with dense and hybrid search; before, after, and the paired difference.
"""

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.retrieval_quality import QualityConfig, make_index
from bench.retrieval_sets import COLLECTIONS, Collection
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.evaluation.statistics import bootstrap_mean, paired_difference
from nanochat.retrieval.base import Retriever
from nanochat.retrieval.encoders import load_encoder
from nanochat.retrieval.encoders.tuned import TunedEncoder
from nanochat.retrieval.judging.metrics import score_queries
from nanochat.retrieval.retrievers.bm25 import BM25Retriever
from nanochat.retrieval.retrievers.dense import DenseRetriever, write_with_encoder
from nanochat.retrieval.retrievers.hybrid import HybridRetriever
from nanochat.retrieval.tuning.adapter import FORMS, learn_map, scores_of
from nanochat.retrieval.tuning.arena import Arena, make_examples

K = 10


@dataclass(frozen=True, kw_only=True)
class TuneBenchConfig:
    data: str = ""                    # folder of the collections (required)
    sets: str = "scifact,fairytaleqa,medquad,squad"  # comma-separated names of bench/retrieval_sets.py
    models: str = "all-MiniLM-L6-v2,lsa"  # encoders, comma-separated
    forms: str = ",".join(FORMS)      # kinds of maps to choose from
    num_queries: int = 4000           # pseudo-queries over train, dev and held-out documents
    seed: int = 0                     # of pseudo-queries and training
    cache: str = ""                   # folder that keeps indexes with vectors
    output: str = "bench/results/tune_encoder.json"  # where the numbers go; sets measured before stay


CONFIG = TuneBenchConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.tune_encoder", description=__doc__ or "")
    if not config.data or not (Path(config.data) / "ir_scifact").is_dir():
        raise UserError(f"No collections in {config.data!r}", hint="--data ../shared/data")
    output = Path(config.output)
    results = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"sets": {}}
    for name in config.sets.split(","):
        collection = COLLECTIONS[name](Path(config.data))
        bm25 = make_index("bm25", collection.documents, QualityConfig())
        for model in config.models.split(","):
            found = measure(collection, bm25, model, config)
            results["sets"].setdefault(name, {"queries": len(collection.queries),
                                              "documents": len(collection.documents)})[model] = found
            results["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
            write_json(output, results)
    print0(f"wrote {output}")
    return 0


def measure(collection: Collection, bm25: BM25Retriever, model: str, config: TuneBenchConfig) -> dict[str, Any]:
    """One encoder on one collection, printed."""
    quality = QualityConfig(cache=config.cache, model="" if model == "all-MiniLM-L6-v2" else model)
    dense: DenseRetriever = make_index("dense", collection.documents, quality)
    with TemporaryDirectory() as saved, TemporaryDirectory() as made:
        dense.save(Path(saved))
        encoder = load_encoder(Path(saved))
        started = time.perf_counter()
        arena = Arena.of(collection.documents, dense.vectors.store.matrix())
        examples, _ = make_examples(arena, encoder, bm25, config.num_queries, config.seed)
        prepared = time.perf_counter()
        learned = learn_map(examples["train"], examples["dev"], arena, seed=config.seed, forms=config.forms.split(","))
        seconds = time.perf_counter() - prepared
        tuned = TunedEncoder(encoder, learned.query_map)
        write_with_encoder(Path(made), Path(saved), tuned)
        after = DenseRetriever()
        after.load(Path(made))
        held_out = examples["held-out"]
        pseudo = [scores_of(held_out, query_map, arena).tolist()
                  for query_map in (np.eye(encoder.dimension, dtype=np.float32), learned.query_map)]
        rows = {
            "pseudo-queries": compare(*pseudo),
            "dense": compare(scores(dense, collection), scores(after, collection)),
            "hybrid": compare(scores(HybridRetriever.of(bm25, dense), collection),
                              scores(HybridRetriever.of(bm25, after), collection)),
        }
    wins = rows["pseudo-queries"]["difference"]["low"] > 0
    for kind, row in rows.items():
        difference = row["difference"]
        print0(f"{collection.name:<12} {model:<17} {kind:<15} {row['before']['value']:.4f} -> "
               f"{row['after']['value']:.4f}  {difference['value']:+.4f} [{difference['low']:+.4f}, "
               f"{difference['high']:+.4f}] {'installed' if wins else 'not installed'}")
    return {**rows, "form": learned.form, "epoch": learned.epoch, "wins": wins, "seed": config.seed,
            "num_queries": sum(len(part.places) for part in examples.values()),
            "prepare_s": round(prepared - started, 1), "learn_s": round(seconds, 1)}


def scores(retriever: Retriever, collection: Collection) -> list[float]:
    """nDCG@10 of every question."""
    hits = retriever.search(list(collection.queries.values()), K)
    rankings = {query: [collection.documents[hit.position].id for hit in row]
                for query, row in zip(collection.queries, hits)}
    return list(score_queries(rankings, collection.judgements, k=K)[f"ndcg@{K}"].values())


def compare(before: list[float], after: list[float]) -> dict[str, Any]:
    """Both means and their difference, with intervals."""
    return {"before": bootstrap_mean(before).to_dict(), "after": bootstrap_mean(after).to_dict(),
            "difference": paired_difference(after, before).to_dict()}


if __name__ == "__main__":
    raise SystemExit(run_main(main))

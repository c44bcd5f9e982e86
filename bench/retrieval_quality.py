"""How well do the retrievers find what people judged relevant, with one set of defaults for all collections?

    python -m bench.retrieval_quality --data ../shared/data --cache data/quality_cache

Prints a table and the goals: bm25 at or above the baselines of the data's README, hybrid at or above the better of its
parts. Indexes are kept in --cache, so that texts are encoded once.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.retrieval_sets import COLLECTIONS, Collection
from nanochat.common import print0, run_main, write_folder, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.evaluation.statistics import bootstrap_mean, paired_difference
from nanochat.retrieval.base import COMPONENTS, Retriever, make_retriever
from nanochat.retrieval.judging.metrics import score_queries
from nanochat.retrieval.judging.significance import randomisation_test

TOP_K = 100
SHOWN = ("ndcg@10", "recall@5", "recall@10", "recall@100", "mrr@10", "complete@10")
WITHIN = 0.005     # hybrid may be so much below the better of its parts
GOALS = {"scifact": {"bm25": 0.675, "dense": 0.64, "hybrid": 0.73}}  # nDCG@10


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    data: str = ""                    # folder of the collections (required)
    sets: str = ""                    # comma-separated names; empty: all test sets
    types: str = "simple,bm25,dense,hybrid"  # retriever types, comma-separated
    model: str = ""                   # encoder of dense and hybrid; empty: their default
    fusion: str = ""                  # how hybrid combines its parts; empty: its default
    alpha: float = -1.0               # weight of the dense side in hybrid; -1: its default
    cache: str = ""                   # folder that keeps indexes with vectors; empty: none are kept
    output: str = "bench/results/retrieval_quality.json"  # where the numbers go; sets measured before stay


CONFIG = QualityConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.retrieval_quality", description=__doc__ or "")
    if not config.data or not (Path(config.data) / "ir_scifact").is_dir():
        raise UserError(f"No collections in {config.data!r}", hint="--data ../shared/data")
    names = [name.strip() for name in config.sets.split(",") if name.strip()] or [
        name for name in COLLECTIONS if not name.endswith("-train")]
    unknown = [name for name in names if name not in COLLECTIONS]
    if unknown:
        raise UserError(f"Unknown set {unknown[0]!r}; there are: {', '.join(COLLECTIONS)}", hint="--sets scifact")
    results = _earlier(Path(config.output))
    print0(f"{'set':<18}{'queries':>8} {'type':<8}" + "".join(f"{name:>13}" for name in SHOWN) + f"{'seconds':>9}")
    for name in names:
        collection = COLLECTIONS[name](Path(config.data))
        rows = results["sets"].setdefault(name, {})
        rows |= {"queries": len(collection.queries), "documents": len(collection.documents),
                 "baseline": dict(collection.baseline)}
        rows["types"] = {**rows.get("types", {}), **measure_types(collection, config)}
        rows["hybrid - better part"] = compare_hybrid(rows["types"])
        if collection.baseline:
            print0(f"{'':<26} README" + "".join(f"{collection.baseline.get(name, '-'):>13}" for name in SHOWN))
        results["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
        results["goals"] = check_goals(results["sets"])
        write_json(config.output, _without_scores(results))
    for goal in results["goals"]:
        print0(f"{goal['goal']}: {goal['value']} {'reached' if goal['reached'] else 'MISSED'}")
    print0(f"wrote {config.output}")
    return 0


def measure_types(collection: Collection, config: QualityConfig) -> dict[str, dict[str, Any]]:
    """Every wanted retriever on one collection, printed as they come."""
    found: dict[str, dict[str, Any]] = {}
    for name in config.types.split(","):
        started = time.perf_counter()
        retriever = make_index(name, collection.documents, config)
        indexed = time.perf_counter()
        hits = retriever.search(list(collection.queries.values()), TOP_K)
        searched = time.perf_counter()
        rankings = {query: [collection.documents[hit.position].id for hit in row]
                    for query, row in zip(collection.queries, hits)}
        scores = score(rankings, collection)
        found[name] = {
            "metrics": {metric: bootstrap_mean(list(values.values())).to_dict() for metric, values in scores.items()},
            "made_by": retriever.describe(), "index_s": round(indexed - started, 2),
            "search_s": round(searched - indexed, 2), "scores": scores,
        }
        values = "".join(f"{found[name]['metrics'][metric]['value']:13.4f}" for metric in SHOWN)
        print0(f"{collection.name:<18}{len(collection.queries):>8} {name:<8}{values}{searched - started:9.1f}")
    return found


def score(rankings: dict[str, list[str]], collection: Collection) -> dict[str, dict[str, float]]:
    """Per metric the value of each query; complete@10 is 1 where every relevant document is among the first 10."""
    scores: dict[str, dict[str, float]] = {}
    for k in (5, 10, 20, 100):
        scores |= score_queries(rankings, collection.judgements, k=k)
    scores["complete@10"] = {query: float(value == 1) for query, value in scores["recall@10"].items()}
    return scores


def make_index(name: str, documents: Sequence[Any], config: QualityConfig) -> Retriever:
    """An index over the documents, from the cache where it is there."""
    if name in COMPONENTS:
        settings = {key: value for key, value in (("fusion", config.fusion), ("alpha", config.alpha))
                    if value not in ("", -1.0)}
        parts = [make_index(part, documents, config) for part in COMPONENTS[name]]
        return type(make_retriever(name)).of(*parts, **settings)
    retriever = make_retriever(name, {"model": config.model} if name == "dense" and config.model else None)
    if not config.cache or name != "dense":
        retriever.index(documents)
        return retriever
    digest = hashlib.sha256(json.dumps([config.model, retriever.describe()], sort_keys=True).encode())
    for document in documents:
        digest.update(document.text.encode("utf-8", "replace") + b"\0")
    folder = Path(config.cache) / f"{name}-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        # an interrupted run goes on from here
        retriever.journal = folder.with_suffix(".journal")
        retriever.journal.mkdir(parents=True, exist_ok=True)
        with write_folder(folder) as place:
            retriever.write(place, documents)
        shutil.rmtree(retriever.journal)
        retriever.journal = None
    retriever.load(folder)
    return retriever


def compare_hybrid(types: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """nDCG@10 of hybrid less that of the better part, with interval and p; None where one was not measured."""
    if not all("scores" in types.get(name, {}) for name in ("hybrid", *COMPONENTS["hybrid"])):
        return None
    values = {name: list(types[name]["scores"]["ndcg@10"].values()) for name in ("hybrid", *COMPONENTS["hybrid"])}
    part = max(COMPONENTS["hybrid"], key=lambda name: sum(values[name]))
    difference = paired_difference(values["hybrid"], values[part])
    return {"part": part, **difference.to_dict(), "p": randomisation_test(values["hybrid"], values[part])}


def check_goals(sets: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals of all sets measured so far."""
    goals: list[dict[str, Any]] = []
    for name, rows in sets.items():
        for metric, baseline in rows["baseline"].items():
            if "bm25" in rows["types"]:
                measured = rows["types"]["bm25"]["metrics"][metric]
                # the baseline has three places
                goals.append({"goal": f"{name} bm25 {metric} >= {baseline}", "value": round(measured["value"], 4),
                              "reached": round(measured["value"], 3) >= baseline,
                              "within_interval": measured["low"] <= baseline <= measured["high"]})
        for kind, least in GOALS.get(name, {}).items():
            if kind in rows["types"]:
                value = rows["types"][kind]["metrics"]["ndcg@10"]["value"]
                goals.append({"goal": f"{name} {kind} ndcg@10 >= {least}", "value": round(value, 4),
                              "reached": value >= least})
        if {"hybrid", *COMPONENTS["hybrid"]} <= set(rows["types"]):
            means = {kind: row["metrics"]["ndcg@10"]["value"] for kind, row in rows["types"].items()}
            part = max(COMPONENTS["hybrid"], key=means.__getitem__)
            value = means["hybrid"] - means[part]
            goals.append({"goal": f"{name} hybrid - {part} ndcg@10 >= -{WITHIN}", "value": round(value, 4),
                          "reached": value >= -WITHIN})
    return goals


def _earlier(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"top_k": TOP_K, "sets": {}}


def _without_scores(value: Any) -> Any:
    """The results as they are stored: numbers of single queries left out, four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_without_scores(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_scores(item) for key, item in value.items() if key != "scores"}
    return value


if __name__ == "__main__":
    raise SystemExit(run_main(main))

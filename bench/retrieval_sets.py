"""Test collections for retrieval: documents, questions, judgements, and what plain BM25 reached on them.

The data folder is that of bench/retrieval_quality.py; its README says where each set comes from and how the baselines
were measured (bm25s 0.3.16, k1 = 0.9, b = 0.4, Snowball stems).
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.retrieval import Document
from nanochat.retrieval.judging.judgements import Judgements, read_qrels, read_queries, supporting_judgements


@dataclass(frozen=True)
class Collection:
    """One set of queries over one corpus."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    judgements: Judgements
    baseline: Mapping[str, float] = field(default_factory=dict)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _corpus(path: Path, keep: Callable[[dict[str, Any]], Any] = bool) -> list[Document]:
    return [Document.from_dict(record) for record in _records(path) if keep(record)]


def _questions(name: str, folder: Path, questions: str, baseline: Mapping[str, float], *,
               keep: Callable[[dict[str, Any]], Any] = bool) -> Collection:
    queries = read_queries(folder / f"{questions}.jsonl.gz")
    judgements = supporting_judgements(queries)
    texts = {query.id: query.text for query in queries if query.id in judgements}
    return Collection(name, _corpus(folder / "corpus.jsonl.gz", keep), texts, judgements, baseline)


def _scifact(name: str, folder: Path, split: str, baseline: Mapping[str, float]) -> Collection:
    judgements = read_qrels(folder / f"qrels.{split}.tsv")
    queries = {query.id: query.text for query in read_queries(folder / "queries.jsonl")}
    return Collection(name, _corpus(folder / "corpus.jsonl.gz"), {id: queries[id] for id in judgements}, judgements,
                      baseline)


def _medquad(name: str, folder: Path, seed: int, baseline: Mapping[str, float]) -> Collection:
    """1,000 random questions, each asked for the document that answers it."""
    path = folder / "qa_docs.jsonl.gz"
    chosen = random.Random(seed).sample([(record["id"], record["question"]) for record in _records(path)], 1000)
    return Collection(name, _corpus(path), dict(chosen), {id: {id: 1} for id, _ in chosen}, baseline)


# name -> the set in a data folder; sets for choosing parameters end in -train and take no part otherwise
COLLECTIONS: dict[str, Callable[[Path], Collection]] = {
    "qasc": lambda data: _questions("qasc", data / "qasc", "dev", {
        "recall@5": 0.597, "recall@10": 0.666, "complete@10": 0.359}),
    "strategyqa": lambda data: _questions("strategyqa", data / "strategyqa", "dev", {
        "recall@5": 0.868, "recall@10": 0.952, "complete@10": 0.886}),
    "2wiki-rk": lambda data: _questions("2wiki-rk", data / "2wikimultihop", "rk_test", {
        "recall@5": 0.673, "recall@10": 0.743, "recall@20": 0.785, "complete@10": 0.46},
        keep=lambda record: record.get("rk")),
    "fairytaleqa": lambda data: _questions("fairytaleqa", data / "fairytaleqa", "test", {
        "recall@5": 0.703, "recall@10": 0.786, "recall@100": 0.926, "mrr@10": 0.598}),
    "scifact": lambda data: _scifact("scifact", data / "ir_scifact", "test", {
        "ndcg@10": 0.676, "recall@10": 0.801, "recall@100": 0.913, "mrr@10": 0.641}),
    "hotpotqa": lambda data: _questions("hotpotqa", data / "hotpotqa", "dev", {
        "recall@5": 0.759, "recall@10": 0.889, "recall@20": 0.942, "recall@100": 0.975, "complete@10": 0.779}),
    "2wiki": lambda data: _questions("2wiki", data / "2wikimultihop", "dev", {
        "recall@5": 0.696, "recall@10": 0.736, "recall@20": 0.765, "complete@10": 0.457}),
    "medquad": lambda data: _medquad("medquad", data / "medquad", 0, {
        "recall@5": 0.693, "recall@10": 0.858, "mrr@10": 0.472}),
    "squad": lambda data: _questions("squad", data / "squad", "dev", {
        "recall@5": 0.892, "recall@10": 0.921, "recall@20": 0.943, "recall@100": 0.974, "mrr@10": 0.803}),
    "strategyqa-train": lambda data: _questions("strategyqa-train", data / "strategyqa", "train", {}),
    "2wiki-rk-train": lambda data: _questions("2wiki-rk-train", data / "2wikimultihop", "rk_dev", {},
                                              keep=lambda record: record.get("rk")),
    "fairytaleqa-train": lambda data: _questions("fairytaleqa-train", data / "fairytaleqa", "dev", {}),
    "scifact-train": lambda data: _scifact("scifact-train", data / "ir_scifact", "train", {}),
    "hotpotqa-train": lambda data: _questions("hotpotqa-train", data / "hotpotqa", "train", {}),
    "2wiki-train": lambda data: _questions("2wiki-train", data / "2wikimultihop", "train", {}),
    "medquad-train": lambda data: _medquad("medquad-train", data / "medquad", 1, {}),
}

"""How well and how fast do the lexical retrievers rank SciFact, beside other packages on the same machine?

    python -m bench.retrieval_scifact --data ../shared/data/ir_scifact

The folder holds corpus.jsonl.gz (our document form), queries.jsonl ({"id", "text"}) and qrels.test.tsv (TREC form).
Peers (bm25s, rank_bm25) take part where they are installed.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.retrieval import RETRIEVERS, Document, make_retriever, read_documents
from nanochat.retrieval.judging.metrics import evaluate
from nanochat.retrieval.words.analysis import analyze

TOP_K = 100
GOALS = {"simple": 0.60, "bm25": 0.67}


@dataclass(frozen=True, kw_only=True)
class ScifactConfig:
    data: str = ""                    # folder with corpus.jsonl.gz, queries.jsonl and qrels.test.tsv (required)
    output: str = "bench/results/retrieval_scifact.json"  # where the numbers go
    peers: bool = True                # measure bm25s and rank_bm25 as well, where installed


CONFIG = ScifactConfig
# documents -> a function from queries to one list of positions per query
Engine = Callable[[Sequence[Document]], Callable[[Sequence[str]], list[list[int]]]]


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.retrieval_scifact", description=__doc__ or "")
    folder = Path(config.data)
    if not config.data or not (folder / "qrels.test.tsv").is_file():
        raise UserError(f"No SciFact data in {config.data!r}", hint="--data ../shared/data/ir_scifact")
    documents = read_documents(folder / "corpus.jsonl.gz")
    queries, judgements = read_queries(folder)
    engines: dict[str, Engine] = {name: _ours(name) for name in RETRIEVERS}
    if config.peers:
        engines |= {"bm25s, its chain": _bm25s, "rank_bm25, our chain": _rank_bm25}
    rows = []
    print0(f"{len(documents):,} documents, {len(judgements)} judged queries, top {TOP_K}")
    print0(f"{'engine':<20} nDCG@10 recall@10 recall@100  MRR@10 MAP@100  build s  query ms")
    for name, engine in engines.items():
        try:
            row = {"engine": name, **measure(engine, documents, queries, judgements)}
        except ModuleNotFoundError as missing:
            print0(f"{name:<20} not installed: {missing.name}")
            continue
        rows.append(row)
        print0(f"{name:<20} {row['ndcg@10']:7.4f} {row['recall@10']:9.4f} {row['recall@100']:10.4f} "
               f"{row['mrr@10']:7.4f} {row['map@100']:7.4f} {row['build_s']:8.2f} {row['query_ms']:9.3f}")
    write_json(config.output, {
        "data": "SciFact, test judgements", "documents": len(documents), "queries": len(judgements), "top_k": TOP_K,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread", "goals": GOALS,
        "rows": rows,
    })
    print0(f"Wrote {config.output}")
    return 0


def read_queries(folder: Path) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Texts by query id, and grades by query id and document id."""
    records = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    judgements: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.test.tsv").read_text(encoding="utf-8").splitlines():
        query, _, document, grade = line.split()
        judgements.setdefault(query, {})[document] = int(grade)
    return {record["id"]: record["text"] for record in records}, judgements


def measure(
    engine: Engine, documents: Sequence[Document], queries: dict[str, str], judgements: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Quality over all judged queries; seconds to build, and milliseconds per query in one batch."""
    start = time.perf_counter()
    search = engine(documents)
    search(["warm up"])
    build_s = time.perf_counter() - start
    start = time.perf_counter()
    found = search([queries[query] for query in judgements])
    query_ms = (time.perf_counter() - start) / len(judgements) * 1000
    rankings = {query: [documents[place].id for place in places] for query, places in zip(judgements, found)}
    at_10, at_100 = evaluate(rankings, judgements, k=10), evaluate(rankings, judgements, k=100)
    scores = {name: round(value, 4) for name, value in {**at_10, **at_100}.items()}
    return {**scores, "build_s": round(build_s, 3), "query_ms": round(query_ms, 4)}


def _ours(name: str) -> Engine:
    def build(documents: Sequence[Document]) -> Callable[[Sequence[str]], list[list[int]]]:
        retriever = make_retriever(name)
        retriever.index(documents)
        return lambda queries: [[hit.position for hit in hits] for hits in retriever.search(queries, TOP_K)]

    return build


def _bm25s(documents: Sequence[Document]) -> Callable[[Sequence[str]], list[list[int]]]:
    """bm25s as its README uses it, without a stemmer."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize([document.text for document in documents], stopwords="en", show_progress=False),
                show_progress=False)

    def search(queries: Sequence[str]) -> list[list[int]]:
        tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
        return index.retrieve(tokens, k=TOP_K, show_progress=False)[0].tolist()

    return search


def _rank_bm25(documents: Sequence[Document]) -> Callable[[Sequence[str]], list[list[int]]]:
    """rank_bm25 with our analysis chain; it has none of its own."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([analyze(document.text) for document in documents])

    def search(queries: Sequence[str]) -> list[list[int]]:
        return [(-index.get_scores(analyze(query))).argsort(kind="stable")[:TOP_K].tolist() for query in queries]

    return search


if __name__ == "__main__":
    raise SystemExit(run_main(main))

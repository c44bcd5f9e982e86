"""Measure the retrieval of a knowledge base against judgements, beside another retriever or version.

    python -m scripts.kb_eval --knowledge_base data/my_kb --queries data/questions.jsonl --compare bm25

Queries are JSONL (id, text or question, supporting_ids) or TSV; --qrels takes TREC columns or JSONL, and is not needed
where the queries name their supporting documents.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import base_dir, print0, run_main, write_json, write_jsonl, write_text
from nanochat.config import load_config
from nanochat.errors import ConfigError, KnowledgeBaseNotFound, UserError

if TYPE_CHECKING:
    from nanochat.evaluation.statistics import Estimate
    from nanochat.retrieval.judging.judgements import Judgements, Query
    from nanochat.retrieval.judging.rankings import Found, Ranker
    from nanochat.retrieval.judging.report import QueryRecord

_NAMED = 5  # ids that a note lists
_TITLES = {"ndcg": "nDCG", "recall": "recall", "mrr": "MRR", "map": "MAP"}


@dataclass(frozen=True, kw_only=True)
class KbEvalConfig:
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    queries: str = ""                 # JSONL with id, text or question, supporting_ids; or TSV id, text (required)
    qrels: str = ""                   # judgements, TREC columns or JSONL; empty: the queries' supporting_ids
    retriever_type: str = ""          # empty: the knowledge base's own type
    version: int = 0                  # version to measure; 0: the current one
    compare: str = ""                 # another retriever type to measure beside it
    compare_version: int = 0          # another version of the knowledge base to measure beside it
    k: int = 10                       # places of a ranking that count
    depth: int = 100                  # places that are searched for what is missing from the first k
    max_queries: int = -1             # measure only the first so many; -1: all
    num_permutations: int = 10_000    # of the randomisation test
    seed: int = 0                     # of the intervals and the test
    output: str = ""                  # folder of the report; empty: reports/retrieval/... in the base folder


CONFIG = KbEvalConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_eval", description=__doc__ or "")
    check(config)
    # imported here so that --help does not wait for them
    from nanochat.retrieval.judging.judgements import read_qrels, read_queries, supporting_judgements
    from nanochat.retrieval.judging.rankings import Ranker
    from nanochat.retrieval.judging.report import group_records

    queries = read_queries(config.queries, config.max_queries if config.max_queries >= 0 else None)
    judgements = read_qrels(config.qrels) if config.qrels else supporting_judgements(queries)
    ranker, other = open_ranker(config, config.version), None
    if config.compare:
        other = Ranker(ranker.knowledge_base, config.compare)
    elif config.compare_version:
        other = open_ranker(config, config.compare_version)
    judged, notes = choose(queries, judgements, ranker, config)
    for note in notes:
        print0(f"note: {note}")
    print0(f"{len(judged)} queries, {ranker.label}{f' beside {other.label}' if other else ''}, top {config.k}")
    started = time.perf_counter()
    records = measure(judged, judgements, ranker, other, config)
    result = summarise(records, config)
    table = make_table(result, ranker, other)
    groups = group_records(records, f"ndcg@{config.k}", config.k, other.label if other else "")
    print0("\n".join(align(table)))
    print0("queries " + ", ".join(f"{name}: {len(members)}" for name, members in groups.items()))
    report = {
        "knowledge_base": describe(ranker), **({"compared": describe(other)} if other else {}),
        "queries": {"path": config.queries, "qrels": config.qrels, "num": len(judged)},
        "metrics": result, "groups": {name: len(members) for name, members in groups.items()},
        "notes": notes, "config": asdict(config),
        "seconds": round(time.perf_counter() - started, 2),
    }
    for path in write_report(config, groups, report, table, ranker, other):
        print0(f"wrote {path}")
    return 0


def check(config: KbEvalConfig) -> None:
    """Refuse settings that cannot work, before anything slow happens."""
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb",
        )
    if not config.queries:
        raise UserError("Queries not found: --queries was not given", hint="--queries data/questions.jsonl")
    for name in ("k", "depth", "num_permutations"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, found {getattr(config, name)}", hint=f"--{name} 10")
    if config.max_queries == 0:
        raise ConfigError("--max_queries must be at least 1, or -1 for all, found 0", hint="--max_queries 100")
    if config.compare and config.compare_version:
        raise ConfigError("--compare and --compare_version exclude each other", hint="give one of them")


def open_ranker(config: KbEvalConfig, version: int) -> "Ranker":
    """The retriever to measure, of a version; 0 is the current one."""
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.judging.rankings import Ranker

    knowledge_base = KnowledgeBase.open(config.knowledge_base, version or None)
    label = f"version {version}" if version else ""
    return Ranker(knowledge_base, config.retriever_type or None, label=label)


def choose(
    queries: "Sequence[Query]", judgements: "Judgements", ranker: "Ranker", config: KbEvalConfig
) -> "tuple[list[Query], list[str]]":
    """The queries with a relevant document, and notes on what does not fit together."""
    from nanochat.retrieval.judging.judgements import judged_ids
    from nanochat.retrieval.judging.metrics import relevant

    source = config.qrels or config.queries
    judged = [query for query in queries if relevant(judgements.get(query.id, {}))]
    if not judged:
        raise UserError(
            f"None of the {len(queries)} queries of {config.queries} has a relevant document in {source}",
            hint="query ids must be the same in both files" if config.qrels else "add supporting_ids, or give --qrels",
        )
    notes = []
    if len(judged) < len(queries):
        notes.append(f"{len(queries) - len(judged)} queries without a relevant document are left out")
    without_text = sorted(set(judgements) - {query.id for query in queries}) if config.max_queries < 0 else []
    if without_text:
        notes.append(f"{len(without_text)} judged queries are not in {config.queries}: {_some(without_text)}")
    wanted = judged_ids({query.id: judgements[query.id] for query in judged})
    unknown = ranker.unknown(wanted)
    if len(unknown) == len(wanted):
        raise UserError(
            f"None of the {len(wanted)} judged documents of {source} is in {config.knowledge_base}",
            hint="name the knowledge base that was built from these documents",
        )
    if unknown:
        notes.append(f"{len(unknown)} of {len(wanted)} judged documents are not in {config.knowledge_base} and count "
                     f"as not found: {_some(unknown)}")
    return judged, notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def measure(
    judged: "Sequence[Query]", judgements: "Judgements", ranker: "Ranker", other: "Ranker | None", config: KbEvalConfig
) -> "list[QueryRecord]":
    """Search, and score each query at k."""
    from nanochat.retrieval.judging.report import QueryRecord

    depth = max(config.k, config.depth)
    texts = [query.text for query in judged]
    grades = {query.id: judgements[query.id] for query in judged}
    found = ranker.rank(texts, depth)
    scores = score(judged, grades, found, config.k, depth)
    if other:
        other.by_passage = ranker.by_passage
        other_found = other.rank(texts, depth)
        other_scores = score(judged, grades, other_found, config.k, depth)
    return [
        QueryRecord(
            id=query.id, text=query.text, grades=grades[query.id], found=found[place], scores=scores[place],
            **({"other_found": other_found[place], "other_scores": other_scores[place]} if other else {}),
        )
        for place, query in enumerate(judged)
    ]


def score(
    judged: "Sequence[Query]", grades: "Judgements", found: "Sequence[Sequence[Found]]", k: int, depth: int
) -> list[dict[str, float]]:
    """Every metric at k of each query, and recall at the depth of the search."""
    from nanochat.retrieval.judging.metrics import score_queries

    rankings = {query.id: [item.id for item in items] for query, items in zip(judged, found, strict=True)}
    columns = score_queries(rankings, grades, k=k)
    columns[f"recall@{depth}"] = score_queries(rankings, grades, k=depth)[f"recall@{depth}"]
    return [{name: values[query.id] for name, values in columns.items()} for query in judged]


def summarise(records: "Sequence[QueryRecord]", config: KbEvalConfig) -> dict[str, dict[str, Any]]:
    """Per metric: the mean with its interval, and where two are compared the difference with interval and p."""
    from nanochat.evaluation.statistics import bootstrap_mean, paired_difference
    from nanochat.retrieval.judging.significance import randomisation_test

    result: dict[str, dict[str, Any]] = {}
    for name in records[0].scores:
        values = [record.scores[name] for record in records]
        result[name] = {"mean": bootstrap_mean(values, seed=config.seed)}
        if records[0].other_scores:
            others = [record.other_scores[name] for record in records]
            result[name] |= {
                "compared": bootstrap_mean(others, seed=config.seed),
                "difference": paired_difference(values, others, seed=config.seed),
                "p": randomisation_test(values, others, num_permutations=config.num_permutations, seed=config.seed),
            }
    return result


def make_table(result: Mapping[str, Mapping[str, Any]], ranker: "Ranker", other: "Ranker | None") -> list[list[str]]:
    """A row per metric; the first row is the header."""
    head = ["", f"{ranker.label} [95 %]"]
    table = [head + ([f"{other.label} [95 %]", "difference [95 %]", "p"] if other else [])]
    for name, values in result.items():
        kind, _, k = name.partition("@")
        row = [f"{_TITLES[kind]}@{k}", _format(values["mean"])]
        if other:
            row += [_format(values["compared"]), _format(values["difference"], "+.3f"), f"{values['p']:.4f}"]
        table.append(row)
    return table


def _format(estimate: "Estimate", form: str = ".3f") -> str:
    value, low, high = (format(number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) if place else cell.ljust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]


def describe(ranker: "Ranker") -> dict[str, Any]:
    """Which data and which retriever the numbers are of."""
    knowledge_base = ranker.knowledge_base
    return {
        "path": str(knowledge_base.path), "version": knowledge_base.version, "fingerprint": knowledge_base.fingerprint,
        "num_documents": knowledge_base.num_documents, "retriever_type": ranker.retriever_type,
        "ranked": "passages" if ranker.by_passage else "documents",
    }


def write_report(
    config: KbEvalConfig, groups: "Mapping[str, Sequence[QueryRecord]]", report: Mapping[str, Any],
    table: Sequence[Sequence[str]], ranker: "Ranker", other: "Ranker | None",
) -> list[Path]:
    """results.json, queries.jsonl (every query, failures first) and report.html; returns their paths."""
    from nanochat.retrieval.judging.report import render_page

    name = Path(config.knowledge_base).resolve().name
    folder = Path(config.output) if config.output else base_dir() / "reports" / "retrieval" / name
    estimates = {key: {part: value if part == "p" else value.to_dict() for part, value in values.items()}
                 for key, values in report["metrics"].items()}
    lines = [f"{report['queries']['num']} queries of {config.queries}, {ranker.retriever_type}, "
             f"{ranker.knowledge_base.num_documents} documents.", *report["notes"]]
    page = render_page(f"Retrieval of {name}", lines, table, groups, metric=f"ndcg@{config.k}",
                       other=other.label if other else "", passage=ranker.knowledge_base.passage,
                       document=ranker.document)
    write_json(folder / "results.json", {**report, "metrics": estimates})
    write_jsonl(folder / "queries.jsonl", [record.to_dict() for group in groups.values() for record in group])
    write_text(folder / "report.html", page)
    return [folder / file for file in ("results.json", "queries.jsonl", "report.html")]


if __name__ == "__main__":
    raise SystemExit(run_main(main))

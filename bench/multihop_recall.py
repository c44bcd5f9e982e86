"""How much of the evidence does one search find, and how much the searches that the data's own steps describe?

    python -m bench.multihop_recall --data ../shared/data

For each set of tasks/multihop.py: recall@5, recall@10 and the share of questions with all evidence among the first 10,
with the question as query, beside the baselines of the data's README. Where the data has steps, the same budget is
spent on them: --top_k new documents for each query. That is what a model that writes perfect queries would find.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.evaluation.statistics import bootstrap_mean
from nanochat.refrag.planning import queries_of

# set -> recall@5, recall@10, all of the evidence in the first 10: bm25s, as the data's README says
BASELINES = {"2wikimultihop": (0.696, 0.736, 0.457), "hotpotqa": (0.759, 0.889, 0.779),
             "strategyqa": (0.868, 0.952, 0.886), "qasc": (0.597, 0.666, 0.359)}
DEPTH = 10


@dataclass(frozen=True, kw_only=True)
class MultihopRecallConfig:
    data: str = ""                    # folder of the sets (required)
    type: str = "bm25"                # retriever: simple or bm25
    top_k: int = 3                    # new documents for each query of the steps
    output: str = "bench/results/multihop_recall.json"  # where the numbers go


CONFIG = MultihopRecallConfig
Record = Mapping[str, Any]


def main(argv: list[str]) -> int:
    from nanochat.retrieval import Document, make_retriever
    from tasks.multihop import MULTIHOP, read_multihop

    config = load_config(CONFIG, argv, prog="bench.multihop_recall", description=__doc__ or "")
    if not config.data or not (Path(config.data) / "hotpotqa").is_dir():
        raise UserError(f"No data sets in {config.data!r}", hint="--data ../shared/data")
    results: dict[str, Any] = {"type": config.type, "top_k": config.top_k, "sets": {}}
    print0(f"{'set':<16}{'queries':<22}{'asked':>7}{'recall@5':>10}{'recall@10':>11}{'all':>11}{'95 %':>16}"
           f"{'seconds':>9}")
    for name in MULTIHOP:
        found = read_multihop(Path(config.data) / name, "dev")
        retriever = make_retriever(config.type)
        retriever.index([Document.from_dict(document) for document in found.documents])
        ids = [document["id"] for document in found.documents]

        def search(queries: Sequence[str], depth: int, retriever: Any = retriever, ids: list[str] = ids) -> Any:
            return [[ids[hit.position] for hit in hits] for hits in retriever.search(queries, depth)]

        rows = results["sets"][name] = {"README": dict(zip(("recall@5", "recall@10", "complete"), BASELINES[name]))}
        with_steps = [question for question in found.questions if "steps" in question]
        asked = [("question", found.questions, False)]
        # the budget in documents differs with the number of steps, so the question gets as many on the same questions
        asked += [("question, same budget", with_steps, False), ("steps", with_steps, True)] if with_steps else []
        for label, questions, is_stepwise in asked:
            start = time.perf_counter()
            depths = [config.top_k * len(question["steps"]) if label != "question" else DEPTH for question in questions]
            if is_stepwise:
                shown = stepwise(questions, search, config.top_k)
            else:
                hits = search([question["question"] for question in questions], max(DEPTH, *depths))
                shown = [row[: max(DEPTH, depth) if label == "question" else depth] for row, depth in zip(hits, depths)]
            rows[label] = measured(questions, shown) | {"seconds": round(time.perf_counter() - start, 2)}
            say(name, label, rows[label])
        print0(f"{'':<16}{'README, question':<22}{'':>7}" + "".join(
            f"{value:>{width}.3f}" for value, width in zip(BASELINES[name], (10, 11, 11), strict=True)))
    write_json(Path(config.output), results)
    print0(f"Wrote {config.output}")
    return 0


def stepwise(questions: Sequence[Record], search: Any, top_k: int) -> list[list[str]]:
    """Ids of the documents that the steps' queries, as traces write them, show: `top_k` new ones each."""
    queries = [query for question in questions for query in queries_of(question)]
    rows = iter(search(queries, top_k * max(len(question["steps"]) for question in questions)))
    shown = []
    for question in questions:
        mine: list[str] = []
        for _ in question["steps"]:
            mine += [name for name in next(rows) if name not in mine][:top_k]
        shown.append(mine)
    return shown


def measured(questions: Sequence[Record], shown: Sequence[Sequence[str]]) -> dict[str, Any]:
    """recall@5, recall@10 and the share of questions with all their evidence, over all that is shown."""
    def recall(question: Record, names: Sequence[str]) -> float:
        wanted = set(question["supporting_ids"])
        return len(wanted & set(names)) / len(wanted)

    pairs = [(question, row) for question, row in zip(questions, shown, strict=True) if question["supporting_ids"]]
    complete = [float(recall(question, row) == 1) for question, row in pairs]
    estimate = bootstrap_mean(complete)
    assert estimate is not None, "no question has evidence"
    return {"questions": len(pairs), "complete": round(estimate.value, 4),
            "interval": [round(estimate.low, 4), round(estimate.high, 4)],
            "shown": round(sum(len(row) for _, row in pairs) / len(pairs), 2),
            **{f"recall@{k}": round(sum(recall(question, row[:k]) for question, row in pairs) / len(pairs), 4)
               for k in (5, 10)}}


def say(name: str, label: str, row: Mapping[str, Any]) -> None:
    low, high = row["interval"]
    print0(f"{name:<16}{label:<22}{row['questions']:>7,}{row['recall@5']:>10.3f}{row['recall@10']:>11.3f}"
           f"{row['complete']:>11.3f}{f'{low:.3f} ... {high:.3f}':>16}{row['seconds']:>9.2f}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

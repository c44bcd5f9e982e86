"""Misspelt words in questions: how often they are mended, and how often a word is changed that nobody misspelt.

    python -m bench.spelling --data ../shared/data

Questions that people wrote, as they stand and with two letters of one word exchanged, over all documents of each set,
five found by bm25. "changed" counts questions that are changed as they stand (some hold a slip of their own; the JSON
names them), "mended" those that are again what they were, and recall@5 is that of the evidence.
"""

import gzip
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError
from nanochat.evaluation.statistics import proportion
from nanochat.evaluation.suite.changing import with_typo
from nanochat.retrieval import Document, make_retriever
from nanochat.retrieval.words.spelling import corrected

SETS = {"squad": "dev.jsonl.gz", "fairytaleqa": "test.jsonl.gz", "pubmedqa": "qa.jsonl.gz",
        "2wikimultihop": "rk_dev.jsonl.gz", "hotpotqa": "dev.jsonl.gz"}
NUM_NAMED = 60  # changes that the JSON names, of each set


@dataclass(frozen=True, kw_only=True)
class SpellingConfig:
    data: str = ""                    # folder of the sets (required)
    num_questions: int = 1000         # of each set, drawn by the seed
    top_k: int = 5                    # documents found for a question
    seed: int = 0
    output: str = "bench/results/spelling.json"  # where the numbers go


CONFIG = SpellingConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.spelling", description=__doc__ or "")
    if not config.data or not (Path(config.data) / "squad").is_dir():
        raise UserError(f"No data sets in {config.data!r}", hint="--data ../shared/data")
    print0(f"{'set':<16}{'questions':>10}{'changed':>9}{'mended':>9}{'otherwise':>11}"
           f"{'recall@5':>10}{'misspelt':>10}{'mended':>8}{'ms each':>9}")
    results = {name: one_set(config, name) for name in SETS}
    write_json(Path(config.output), {"num_questions": config.num_questions, "top_k": config.top_k, "sets": results})
    print0(f"Wrote {config.output}")
    return 0


def one_set(config: SpellingConfig, name: str) -> dict[str, Any]:
    """Shares and recalls of one set."""
    folder = Path(config.data) / name
    documents = [Document.from_dict(one) for one in records_of(folder / "corpus.jsonl.gz")]
    records = records_of(folder / SETS[name])
    records = random.Random(config.seed).sample(records, min(config.num_questions, len(records)))
    retriever = make_retriever("bm25")
    retriever.index(documents)
    written = [record["question"] for record in records]
    slips = [with_typo(question, random.Random(f"{config.seed} {record['id']}"))
             for question, record in zip(written, records, strict=True)]

    def found(questions: Sequence[str]) -> list[list[Document]]:
        return [[documents[hit.position] for hit in hits] for hits in retriever.search(list(questions), config.top_k)]

    def recall(shown: Sequence[Sequence[Document]]) -> float:
        shares = [len({one.id for one in row} & set(record["supporting_ids"])) / len(set(record["supporting_ids"]))
                  for row, record in zip(shown, records, strict=True)]
        return sum(shares) / len(shares)

    def read(questions: Sequence[str], shown: Sequence[Sequence[Document]]) -> list[str]:
        return [corrected(question, (one.text for one in row))
                for question, row in zip(questions, shown, strict=True)]

    plain, misspelt = found(written), found(slips)
    as_written = read(written, plain)
    start = time.perf_counter()
    mended = read(slips, misspelt)
    spent = (time.perf_counter() - start) / len(slips)
    cases = [(was, slip, now) for was, slip, now in zip(written, slips, mended, strict=True) if slip != was]
    changed = [(was, now) for was, now in zip(written, as_written, strict=True) if was != now]
    flags = {
        "changed": [was != now for was, now in zip(written, as_written, strict=True)],
        "mended": [now == was for was, _, now in cases],
        "otherwise": [now not in (was, slip) for was, slip, now in cases],
    }
    shares = {key: proportion(found) for key, found in flags.items()}
    numbers: dict[str, Any] = {
        "questions": len(written), **{key: each.to_dict() for key, each in shares.items() if each},
        "recall": recall(plain), "recall_misspelt": recall(misspelt), "recall_mended": recall(found(mended)),
        "ms_each": 1000 * spent,
    }
    print0(f"{name:<16}{len(written):>10}" + "".join(f"{numbers[key]['value']:>{width}.3f}" for key, width in (
        ("changed", 9), ("mended", 9), ("otherwise", 11))) + f"{numbers['recall']:>10.3f}"
        f"{numbers['recall_misspelt']:>10.3f}{numbers['recall_mended']:>8.3f}{numbers['ms_each']:>9.2f}")
    named = [f"{a} -> {b}" for was, now in changed for a, b in zip(was.split(), now.split()) if a != b]
    return numbers | {"changes": named[:NUM_NAMED]}


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of a compressed JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    raise SystemExit(run_main(main))

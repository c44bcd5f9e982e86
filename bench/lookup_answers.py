"""What looking ids up in the documents gains on the answers of a trained model: steps, tokens per second, same ids.

    python -m bench.lookup_answers --knowledge_base data/world/knowledge_base --questions data/world/queries_train.jsonl
        [--source rag] [--tag quickstart] [--limit 400] [--top_k 5] [--speculate 8] [--repeats 3] [--threads 1]

Every question is asked with and without drafts, one row at a time, greedily and with answer_threshold 0, so that the
model answers wherever it may. Times are processor times of the steps that write, prompts not included, best of the
repeats; a step is one forward. Greedy answers of short facts are what such a model gives: how much they copy, and how
long they are, decides what there is to gain, so answers are counted by length. Also counted: how the passages were
found that state the answers, and how many right answers show one with an accepted answer in it.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_manager import load_model
from nanochat.engine import Engine
from nanochat.evaluation.qa_metrics import contains_answer, exact_match
from nanochat.retrieval import RetrievalManager

RESULTS = Path(__file__).parent / "results" / "lookup_answers.json"
LENGTHS = (4, 8, 16, 10**6)  # answers are grouped by tokens, up to these


class Meter:
    """Counts the steps that write, and the processor time they take."""

    def __init__(self, engine: Engine) -> None:
        self.steps, self.seconds = 0, 0.0
        batch = engine.scheduler._batch
        plain = batch.step

        def step(when_ended: Any) -> None:
            if batch.rows:
                started = time.process_time()
                plain(when_ended)
                self.seconds += time.process_time() - started
                self.steps += 1

        batch.step = step


def conversations(manager: RetrievalManager, questions: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """Each question behind what is retrieved for it."""
    found = manager.retrieve_batch(list(questions), top_k)
    return [
        {"messages": [{"role": "retrieval", "documents": [hit.to_dict() for hit in hits]},
                      {"role": "user", "content": question}]}
        for question, hits in zip(questions, found, strict=True)
    ]


def measure(engine: Engine, asked: Sequence[dict[str, Any]], *, max_tokens: int) -> list[dict[str, Any]]:
    """Per question: text, tokens, steps, seconds, drafted, accepted."""
    meter, rows = Meter(engine), []
    for conversation in asked:
        meter.steps, meter.seconds = 0, 0.0
        text, info = engine.generate_from_conversation(conversation, max_tokens, answer_threshold=0.0)
        rows.append({"text": text, "tokens": info["num_tokens"], "steps": meter.steps, "seconds": meter.seconds,
                     "drafted": info["drafted"], "accepted": info["accepted"], "answer": info["answer"],
                     "matches": [citation["match"] for citation in info["citations"]],
                     "passages": [citation["passage"] for citation in info["citations"]]})
    return rows


def summary(plain: Sequence[Sequence[dict[str, Any]]], drafted: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Totals of some questions, the quickest of the repeats of each."""
    first, second = plain[0], drafted[0]
    # the first id of an answer comes with the prompt
    written = sum(row["tokens"] - 1 for row in first)
    seconds = [sum(min(repeat[n]["seconds"] for repeat in repeats) for n in range(len(first)))
               for repeats in (plain, drafted)]
    return {
        "answers": len(first), "tokens": sum(row["tokens"] for row in first),
        "steps": sum(row["steps"] for row in first), "steps_drafted": sum(row["steps"] for row in second),
        "drafted": sum(row["drafted"] for row in second), "accepted": sum(row["accepted"] for row in second),
        "tokens_per_s": written / seconds[0], "tokens_per_s_drafted": written / seconds[1],
        "times_as_fast": seconds[0] / seconds[1],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knowledge_base", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--source", default="rag")
    parser.add_argument("--tag", default="")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--top_k", type=int, default=5)
    parser.add_argument("--speculate", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    model, tokenizer, meta = load_model(given.source, tag=given.tag or None)
    lines = Path(given.questions).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines[: given.limit]]
    asked = conversations(RetrievalManager(None, given.knowledge_base), [one["question"] for one in questions],
                          given.top_k)
    runs: dict[int, list[list[dict[str, Any]]]] = {0: [], given.speculate: []}
    for _ in range(given.repeats):
        for speculate, found in runs.items():
            engine = Engine(model, tokenizer, speculate=speculate, prefix_cache_bytes=0)
            found.append(measure(engine, asked, max_tokens=given.max_tokens))
    plain, drafted = runs[0], runs[given.speculate]
    same = [one["text"] == two["text"] for one, two in zip(plain[0], drafted[0], strict=True)]
    assert all(same), f"{len(same) - sum(same)} answers differ"
    right = [(row, one["answers"]) for row, one in zip(plain[0], questions, strict=True)
             if exact_match(row["answer"], one["answers"])]
    groups, low = {}, 0
    for high in LENGTHS:
        places = [n for n, row in enumerate(plain[0]) if low < row["tokens"] <= high]
        if places:
            name = f"{low + 1} to {high} tokens" if high < LENGTHS[-1] else f"over {low} tokens"
            groups[name] = summary(*([[repeat[n] for n in places] for repeat in side] for side in (plain, drafted)))
        low = high
    result = {
        "checkpoint": f"{meta['source']}/{meta['tag']} step {meta['step']}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "block_pattern": ",".join(model.config.block_pattern), "threads": given.threads, "top_k": given.top_k,
        "speculate": given.speculate, "same_answers": sum(same),
        "passages": Counter(match or "none" for row in plain[0] for match in row["matches"]),
        "right_answers": len(right),
        "right_with_passage": sum(any(contains_answer(passage, answer) for passage in row["passages"]
                                      for answer in answers) for row, answers in right),
        "all": summary(plain, drafted), "by_length": groups,
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

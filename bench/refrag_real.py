"""Evidence on real text: a model's own queries against the question as the only query, with as many documents read.

    python -m bench.refrag_real --data ../shared/data --tag asker
    python -m bench.refrag_real --data ../shared/data --reader rag/real --tag real --max_hops 4 --top_k 2

2WikiMultihopQA and HotpotQA, development split, BM25. The model is shown --top_k new documents per search; what it did
not use of ten documents is filled up with further hits of the question. recall@5 and the share of questions with all
their evidence among ten are given beside those of the question alone, with paired differences. With --reader a
checkpoint that reads (bench.real_text leaves one) first learns traces of 2WikiMultihopQA's training questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.multihop_recall import BASELINES, DEPTH
from bench.stages import run_stages
from nanochat.checkpoint_manager import load_model
from nanochat.common import print0, run_main, write_json, write_jsonl
from nanochat.config import load_config
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig, run_episodes
from nanochat.errors import UserError
from nanochat.evaluation.statistics import bootstrap_mean, paired_difference
from nanochat.refrag.search_cache import SearchCache
from nanochat.retrieval import Document, make_retriever
from nanochat.text.answers import exact_match
from tasks.multihop import read_multihop

SETS = ("2wikimultihop", "hotpotqa")


@dataclass(frozen=True, kw_only=True)
class RefragRealConfig:
    data: str = ""                    # folder of the sets (required)
    source: str = "refrag"            # checkpoint: rag or refrag
    tag: str = ""                     # its tag; empty: the one written last
    reader: str = ""                  # SOURCE/TAG that learns the training questions first, into refrag/TAG
    num_steps: int = 1500             # of that
    output: str = "data/refrag_real"  # working folder of that
    max_hops: int = 3                 # searches per question
    top_k: int = 3                    # new documents per search
    limit: int = 0                    # questions per set; 0: all
    at_once: int = 64                 # episodes side by side
    results: str = "bench/results/refrag_real.json"  # where the numbers go


CONFIG = RefragRealConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.refrag_real", description=__doc__ or "")
    if not config.data or not (Path(config.data) / SETS[0]).is_dir():
        raise UserError(f"No data sets in {config.data!r}", hint="--data ../shared/data")
    if config.reader:
        train(config)
    model, tokenizer, meta = load_model(config.source, "auto", "eval", config.tag or None)
    engine = Engine(model, tokenizer)
    found = {name: one(config, engine, name) for name in SETS}
    write_json(Path(config.results), {"checkpoint": f"{meta['source']}/{meta['tag']}", "parameters":
                                      model.num_parameters, "max_hops": config.max_hops, "sets": found})
    return 0


def train(config: RefragRealConfig) -> None:
    """Traces of the training questions, nine parts of ten, and of generated worlds."""
    data, work = Path(config.data) / SETS[0], Path(config.output)
    splits = [read_multihop(data, split) for split in ("train", "rk_dev")]
    write_jsonl(work / "documents.jsonl", splits[0].documents)
    write_jsonl(work / "questions.jsonl", [question for split in splits for question in split.questions
                                           if question.get("steps")])
    base = work / "knowledge_base"
    source, _, tag = config.reader.partition("/")
    run_stages({
        "knowledge base": ["nanochat.retrieval", "--documents", str(work / "documents.jsonl"), "--output", str(base),
                           "--type", "bm25"],
        "traces": ["scripts.refrag_finetune", "configs/tiny_refrag.py", "--knowledge_base", str(base), "--questions",
                   str(work / "questions.jsonl"), "--cloze_per_document", "0", "--source", source, "--source_tag", tag,
                   "--tag", config.tag, "--max_hops", str(config.max_hops), "--top_k_per_hop", str(config.top_k),
                   "--stages", "chains4", "--use_rewards", "false", "--world_share", "0.4", "--num_steps",
                   str(config.num_steps), "--resume", "true"],
    }, work, SETS[0])


def one(config: RefragRealConfig, engine: Engine, name: str) -> dict[str, Any]:
    """One set: the question alone, and the model's searches."""
    data = read_multihop(Path(config.data) / name, "dev")
    questions = data.questions[: config.limit or None]
    retriever = make_retriever("bm25")
    retriever.index([Document.from_dict(document) for document in data.documents])
    records = [dict(document) for document in data.documents]

    def search(queries: Sequence[str], top_k: int) -> list[list[dict[str, Any]]]:
        return [[records[hit.position] for hit in hits] for hits in retriever.search(list(queries), top_k)]

    kept = SearchCache(search)
    asked = [question["question"] for question in questions]
    alone = [[document["id"] for document in row] for row in kept(asked, 2 * DEPTH)]
    hops = HopConfig(max_hops=config.max_hops, top_k=config.top_k)
    episodes = [episode for start in range(0, len(asked), config.at_once)
                for episode in run_episodes(engine, asked[start : start + config.at_once], kept, hops, max_tokens=32)]
    own = [list(dict.fromkeys([document["id"] for hop in episode.hops for document in hop["documents"]] + row))[:DEPTH]
           for episode, row in zip(episodes, alone, strict=True)]
    row: dict[str, Any] = {"README": dict(zip(("recall@5", "recall@10", "complete"), BASELINES[name], strict=True)),
                           "questions": len(questions)}
    for label, measure in (("recall@5", lambda question, ids: recall(question, ids[:5])),
                           ("complete@10", lambda question, ids: float(recall(question, ids[:DEPTH]) == 1.0))):
        by_question, by_model = ([measure(question, ids) for question, ids in zip(questions, shown, strict=True)]
                                 for shown in (alone, own))
        row[label] = {"question": told(bootstrap_mean(by_question)), "model": told(bootstrap_mean(by_model)),
                      "gain": told(paired_difference(by_model, by_question))}
        print0(f"{name:14} {label:12} question {row[label]['question']}, own queries {row[label]['model']}, "
               f"gain {row[label]['gain']}")
    row["searches"] = sum(len(episode.hops) for episode in episodes) / len(episodes)
    row["em"] = sum(not episode.abstained and exact_match(episode.answer, question["answers"])
                    for episode, question in zip(episodes, questions, strict=True)) / len(episodes)
    row["abstained"] = sum(episode.abstained for episode in episodes) / len(episodes)
    print0(f"{name:14} searches {row['searches']:.2f}, exact match {row['em']:.3f}, abstained {row['abstained']:.3f}")
    return row


def recall(question: Mapping[str, Any], ids: Sequence[str]) -> float:
    wanted = set(question["supporting_ids"])
    return len(wanted & set(ids)) / len(wanted)


def told(estimate: Any) -> list[float]:
    """Value, low and high, as JSON keeps them."""
    return [round(estimate.value, 4), round(estimate.low, 4), round(estimate.high, 4)]


if __name__ == "__main__":
    raise SystemExit(run_main(main))

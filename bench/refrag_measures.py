"""What a refrag model can do on worlds that nobody has seen: one record per question, and shares with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint_manager import load_model
from nanochat.common import write_jsonl
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig
from nanochat.evaluation.statistics import bootstrap_mean, paired_difference, proportion
from nanochat.rag.curriculum import HELD_OUT_SEED
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.rewards import RewardSettings, citation_f1, evidence_recall, is_right
from nanochat.refrag.rollout import roll_out
from nanochat.retrieval import Document, KnowledgeBase
from tasks.world_chains import CHAIN_WORLD, ChainConfig

TEST_SEED = HELD_OUT_SEED + 2 * 10**8  # worlds of no gate and no development set
UNLABELLED_SEED = HELD_OUT_SEED + 3 * 10**8  # nor of these
Records = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked, and how it may be searched."""

    max_hops: int = 3
    top_k: int = 3
    lengths: tuple[int, ...] = (1, 2, 3)
    noise: float = 0.0
    wordings: str = "train"  # of the questions: train or held_out
    num_worlds: int = 4
    per_length: int = 60  # questions of each length and world


def make_unlabelled(folder: Path, seed: int) -> Path:
    """A knowledge base in a folder, and beside it questions and their answers, no more: worded as no training is, and
    nobody says which documents answer them, or in how many steps.
    """
    home = folder / "knowledge_base"
    if home.is_dir():
        return home
    settings = {**CHAIN_WORLD, "num_entities": 400, "question_wordings": "held_out"}
    world = ChainWorld(UNLABELLED_SEED + seed, settings, "bm25",
                       chains=ChainConfig(seed=seed, hops=(1, 2, 3), per_length=240))
    records = [{name: question[name] for name in ("id", "question", "answers")} for question in world.questions]
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "queries_validation.jsonl", records[::6])
    write_jsonl(folder / "queries_train.jsonl", [one for place, one in enumerate(records) if place % 6])
    KnowledgeBase.build([Document.from_dict(one) for one in world.documents], home, "bm25")
    return home


def load(tag: str, *, source: str = "refrag", device: str = "cpu") -> Engine:
    model, tokenizer, _ = load_model(source, device, "eval", tag)
    return Engine(model, tokenizer)


def ask_all(engine: Engine, setting: Setting, *, seed: int = 0, max_tokens: int = 32) -> Records:
    """Greedy episodes of all questions; the same questions for the same setting and seed."""
    hops = HopConfig(max_hops=setting.max_hops, top_k=setting.top_k)
    found: Records = []
    for number in range(setting.num_worlds):
        world = ChainWorld(
            TEST_SEED + 1000 * seed + number, {**CHAIN_WORLD, "question_wordings": setting.wordings}, "bm25",
            chains=ChainConfig(seed=seed, hops=setting.lengths, per_length=setting.per_length), noise=setting.noise)
        groups = roll_out(engine, world.questions, world.search, hops, rewards=RewardSettings(), group_size=1,
                          temperature=0.0, max_tokens=max_tokens)
        for group in groups:
            trace, reference = group.traces[0], group.reference
            found.append({
                "id": group.question["id"], "hops": group.question["hops"], "kind": reference.kind,
                "answerable": reference.is_answerable, "right": is_right(trace, reference),
                "abstained": trace.abstained, "valid": trace.is_clean, "searches": trace.num_searches,
                "due": reference.num_hops, "all_evidence": evidence_recall(trace, reference) == 1.0,
                "citation_f1": citation_f1(trace, reference), "reward": group.rewards[0]})
    return found


def numbers(records: Records) -> dict[str, Any]:
    """The numbers of a model: estimates with 95 % intervals as plain data."""
    known = [one for one in records if one["answerable"]]
    table: dict[str, Any] = {}
    for length in sorted({one["hops"] for one in records}):
        mine = [one for one in known if one["hops"] == length]
        table[f"em_{length}"] = proportion([one["right"] for one in mine])
        table[f"all_evidence_{length}"] = proportion([one["all_evidence"] for one in mine])
    table["em"] = proportion([one["right"] for one in known])
    table["valid"] = proportion([one["valid"] for one in records])
    table["abstains_wrongly"] = proportion([one["abstained"] for one in known])
    table["answers_wrongly"] = proportion([not one["abstained"] for one in records if not one["answerable"]])
    table["searches_over"] = bootstrap_mean([one["searches"] - one["due"] for one in records])
    table["reward"] = bootstrap_mean([one["reward"] for one in records])
    plain = {name: value.to_dict() if value else None for name, value in table.items()}
    return plain | {"abstain_f1": abstain_f1(records), "num_questions": len(records)}


def abstain_f1(records: Records) -> float:
    """F1 of abstentions against questions that nothing answers."""
    right = sum(one["abstained"] and not one["answerable"] for one in records)
    said, due = (sum(flags) for flags in ([one["abstained"] for one in records],
                                          [not one["answerable"] for one in records]))
    return 2 * right / max(1, said + due)


def gains(before: Records, after: Records) -> dict[str, Any]:
    """What changed, question by question: paired differences with intervals."""
    table: dict[str, Any] = {}
    for name, chosen in (("em", lambda one: one["answerable"]), ("outcome", lambda one: True),
                         ("abstains", lambda one: not one["answerable"])):
        field = {"em": "right", "outcome": "right", "abstains": "abstained"}[name]
        pairs = [(float(a[field]), float(b[field])) for a, b in zip(before, after, strict=True) if chosen(a)]
        difference = paired_difference([b for _, b in pairs], [a for a, _ in pairs]) if pairs else None
        table[name] = difference.to_dict() if difference else None
    evidence = [(float(a["all_evidence"]), float(b["all_evidence"])) for a, b in zip(before, after, strict=True)
                if a["answerable"]]
    difference = paired_difference([b for _, b in evidence], [a for a, _ in evidence])
    return table | {"all_evidence": difference.to_dict() if difference else None}


def say(title: str, table: Mapping[str, Any], names: Sequence[str]) -> str:
    """One line of a table for people."""
    told = []
    for name in names:
        value = table.get(name)
        if isinstance(value, Mapping):
            told.append(f"{name} {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        elif isinstance(value, int | float):
            told.append(f"{name} {value:.3f}")
    return f"{title:28} " + ", ".join(told)


def work_folder(output: str, seed: int) -> Path:
    return Path(output) / f"seed_{seed}"

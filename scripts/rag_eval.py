"""Measure answers on a knowledge base: closed book, retrieved, supporting and wrong documents; or make a RAG card.

    python -m scripts.rag_eval --knowledge_base data/my_kb --questions data/questions.jsonl
    python -m scripts.rag_eval --suite quick --tag my_tag
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, print0, run_main, write_text
from nanochat.config import load_config
from nanochat.errors import ConfigError, KnowledgeBaseNotFound, UserError
from scripts.rag_eval_suite import run_suite, show_card


@dataclass(frozen=True, kw_only=True)
class RagEvalConfig:
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required, but not with --suite)
    questions: str = ""               # JSONL with question, answers ([] = unanswerable), supporting_ids (as above)
    suite: str = ""                   # quick or full: a RAG card, on fresh worlds and on these questions if given
    compare: str = ""                 # beside it in a suite: SOURCE/TAG,... or none; empty: what it was tuned from
    thresholds: str = ""              # JSON with what a suite must reach; empty: the project's own
    answer_threshold: float | None = None  # abstain below this probability of answering; a suite calibrates it
    citation_threshold: float = 0.9   # cite further documents from this probability on, 0 to 1; 0: as the model would
    second_look: bool = True          # read what an answer cites once more, alone; that answer counts
    extractive: bool | None = None    # answers only in words of a cited document; default: if it was taught only such
    show_card: bool = False           # print the card that is there, and whether it is stale
    source: str = "rag"               # checkpoint to load: base, mid, rag or refrag
    tag: str = ""                     # name of the checkpoint; empty: the most recent one
    step: int = -1                    # step of the checkpoint; -1: the last one
    retriever_type: str = ""          # empty: the knowledge base's own type
    rerank: str = ""                  # cross-encoder folder that orders the best results anew
    top_k: int = 3                    # documents per question; a suite shows 5 unless this is given
    conditions: str = "closed_book,retrieved,oracle,wrong"  # comma-separated
    max_questions: int = -1           # only the first so many, in a suite so many per condition; -1: all
    max_tokens: int = 32              # longest answer, in tokens
    batch_size: int = 32              # questions answered together; lower it when memory runs out
    seed: int = 0                     # worlds and draws of a suite
    device: str = "auto"              # auto, cpu, cuda, cuda:1 or mps
    output: str = ""                  # folder of the report; empty: reports/... in the base folder


CONFIG = RagEvalConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.rag_eval", description=__doc__ or "")
    if config.show_card:
        return show_card(config)
    check(config)
    if config.suite:
        return run_suite(config)
    # imported here so that --help does not wait for torch
    from nanochat.checkpoint_manager import load_model
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.engine import Engine
    from nanochat.evaluation import evaluate, read_questions
    from nanochat.evaluation.conditions import check_conditions
    from nanochat.evaluation.report import console_table, make_report, write_report
    from nanochat.rag.quoting import is_extractive
    from nanochat.retrieval import RetrievalManager

    conditions = check_conditions([name.strip() for name in config.conditions.split(",") if name.strip()])
    limit = config.max_questions if config.max_questions >= 0 else None
    questions, digest = read_questions(config.questions, limit)
    manager = RetrievalManager(config.retriever_type or None, config.knowledge_base, rerank=config.rerank)
    check_evidence(config, questions, manager.knowledge_base.documents)
    device = pick_device(config.device)
    threads = set_cpu_threads()
    step = config.step if config.step >= 0 else None
    model, tokenizer, meta = load_model(config.source, device=device, phase="eval", tag=config.tag or None, step=step)
    extractive = is_extractive(config.extractive, meta)
    output = output_folder(config, meta)
    check_writable(output)
    num_unanswerable = sum(not question.is_answerable for question in questions)
    print0(
        f"Evaluating {meta['source']}/{meta['tag']} step {meta['step']}: {len(questions)} questions "
        f"({num_unanswerable} unanswerable), {len(manager.knowledge_base.documents)} documents, "
        f"{manager.retriever_type}, top {config.top_k}"
    )
    started = time.monotonic()
    result = evaluate(
        Engine(model, tokenizer, answer_threshold=config.answer_threshold, citation_threshold=config.citation_threshold,
               second_look=config.second_look, extractive=extractive),
        manager,
        questions,
        conditions=conditions,
        top_k=config.top_k,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        progress=lambda line: print0(f"  {line}"),
    )
    report = make_report(
        result,
        checkpoint={name: meta[name] for name in ("source", "tag", "step")},
        questions={
            "path": config.questions,
            "sha256": digest,
            "num_questions": len(questions),
            "num_unanswerable": num_unanswerable,
        },
        knowledge_base={
            "path": config.knowledge_base,
            "fingerprint": manager.knowledge_base.fingerprint,
            "num_documents": len(manager.knowledge_base.documents),
            "retriever_type": manager.retriever_type,
        },
        config=asdict(config) | {"extractive": extractive},
        environment=environment(str(device), threads, time.monotonic() - started),
    )
    table = console_table(result, top_k=config.top_k)
    print0(f"\n{table}\n")
    write_text(output / "table.txt", table + "\n")
    for path in write_report(output, result, report):
        print0(f"wrote {path}")
    return 0


def check(config: RagEvalConfig) -> None:
    """Refuse settings that cannot work, before anything slow happens."""
    if not config.knowledge_base and not config.suite:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb",
        )
    if not config.questions and not config.suite:
        raise UserError("Questions not found: --questions was not given", hint="--questions data/questions.jsonl")
    asked = Path(config.questions)
    others = asked.parent / "queries_train.jsonl"
    if asked.name == "queries_test.jsonl" and others.exists() and not asked.exists():
        raise UserError(f"Questions not found: {asked}: too few documents had questions to keep some for a test",
                        hint=f"ask those of training: --questions {others}")
    for name in ("top_k", "max_tokens", "batch_size"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, found {getattr(config, name)}", hint=f"--{name} 1")
    if config.max_questions == 0:
        raise ConfigError("--max_questions must be at least 1, or -1 for all, found 0", hint="--max_questions 100")


def check_evidence(config: RagEvalConfig, questions: list[Any], documents: list[Any]) -> None:
    """Refuse questions that plainly belong to another knowledge base."""
    wanted = {id for question in questions for id in question.supporting_ids}
    if wanted and wanted.isdisjoint(document.id for document in documents):
        raise UserError(
            f"None of the {len(wanted)} supporting documents of {config.questions} is in {config.knowledge_base}",
            hint="name the knowledge base that was built from these questions' documents",
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before the evaluation and without making it."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"Cannot write {folder}", hint="choose a folder you may write to, e.g. --output data/report")


def environment(device: str, threads: int, seconds: float) -> dict[str, Any]:
    """What else the numbers depend on."""
    import torch

    return {"torch": torch.__version__, "device": device, "cpu_threads": threads, "evaluation_s": round(seconds, 1)}


def output_folder(config: RagEvalConfig, meta: dict[str, Any]) -> Path:
    """Where the report goes: --output, or a place named after the checkpoint and the knowledge base."""
    if config.output:
        return Path(config.output)
    step = f"step_{meta['step']:06d}"
    return base_dir() / "reports" / meta["source"] / meta["tag"] / step / Path(config.knowledge_base).resolve().name


if __name__ == "__main__":
    raise SystemExit(run_main(main))

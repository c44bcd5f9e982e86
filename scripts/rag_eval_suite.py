"""The suites of scripts.rag_eval: which checkpoints stand beside the model, and showing a card that is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import print0
from nanochat.config import origins
from nanochat.errors import ConfigError, UserError

if TYPE_CHECKING:
    from scripts.rag_eval import RagEvalConfig

SUITE_TOP_K = 5


def check_suite(config: "RagEvalConfig") -> None:
    """Refuse settings that a suite cannot use, and say which have no effect on it."""
    if bool(config.knowledge_base) != bool(config.questions):
        given, missing = ("knowledge_base", "questions") if config.knowledge_base else ("questions", "knowledge_base")
        raise UserError(
            f"--{given} was given without --{missing}",
            hint="a suite asks about both or neither; questions are made by "
                 "python -m scripts.prepare_rag_dataset --mode synthesize",
        )
    if origins(config)["conditions"] in ("flag", "file"):
        print0("--conditions has no effect with --suite, which asks all of them")
    if config.answer_threshold is not None and not 0 <= config.answer_threshold <= 1:
        raise ConfigError(f"--answer_threshold must lie between 0 and 1, not {config.answer_threshold}",
                          hint="leave it out: the suite calibrates it")
    if not 0 <= config.citation_threshold <= 1:
        raise ConfigError(f"--citation_threshold must lie between 0 and 1, not {config.citation_threshold}",
                          hint="0.9 cites a second document only where the model is sure of it")


def run_suite(config: "RagEvalConfig") -> int:
    """Measure a checkpoint with a suite and store its card."""
    check_suite(config)
    # imported here so that --help does not wait for torch
    from nanochat.checkpoint_manager import load_model
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.engine import Engine
    from nanochat.evaluation import read_questions
    from nanochat.evaluation.suite import make_card, read_thresholds
    from nanochat.evaluation.suite.planning import size_of
    from nanochat.rag.quoting import is_extractive
    from nanochat.retrieval import RetrievalManager
    from scripts.rag_eval import check_evidence, check_writable, environment

    # what is wrong with the settings is known before a model is loaded
    size_of(config.suite)
    read_thresholds(config.thresholds)
    manager, questions = None, []
    if config.knowledge_base:
        questions, _ = read_questions(config.questions)
        manager = RetrievalManager(config.retriever_type or None, config.knowledge_base, rerank=config.rerank)
        check_evidence(config, questions, manager.knowledge_base.documents)
    if config.output:
        check_writable(Path(config.output))
    device = pick_device(config.device)
    threads = set_cpu_threads()
    step = config.step if config.step >= 0 else None
    model, tokenizer, meta = load_model(config.source, device=device, phase="eval", tag=config.tag or None, step=step)
    ways = {"extractive": is_extractive(config.extractive, meta), "citation_threshold": config.citation_threshold,
            "second_look": config.second_look}
    columns, column_weights = load_columns(config.compare, meta, device, **ways)
    beside = f", beside {', '.join(columns)}" if columns else ""
    print0(f"Suite {config.suite} for {meta['source']}/{meta['tag']} step {meta['step']}{beside}")
    depends_on = {"column_weights": column_weights, "device": str(device),
                  "found_by": manager.retriever_type if manager else "", "rerank": config.rerank,
                  **ways}
    try:
        outcome = make_card(
            Engine(model, tokenizer, answer_threshold=config.answer_threshold, **ways), meta,
            suite=config.suite, knowledge_base=manager, questions=questions, columns=columns,
            thresholds=config.thresholds,
            output=config.output or None, top_k=config.top_k if is_given(config, "top_k") else SUITE_TOP_K,
            retriever_type=config.retriever_type or "bm25", max_tokens=config.max_tokens, batch_size=config.batch_size,
            max_questions=config.max_questions, seed=config.seed, depends_on=depends_on,
            progress=lambda line: print0(f"  {line}"),
            environment={name: value for name, value in environment(str(device), threads, 0.0).items()
                         if name != "evaluation_s"},
        )
    except KeyboardInterrupt:
        print0("the same command goes on from here: finished cells are kept")
        raise
    print0("")
    for line in (*outcome.lines, *(f"wrote {path}" for path in outcome.paths)):
        print0(line)
    return 0


def is_given(config: "RagEvalConfig", name: str) -> bool:
    """Whether a flag or a file sets it."""
    return origins(config)[name] != "default"


def load_columns(
    words: str, meta: Mapping[str, Any], device: Any, **ways: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Engines of the checkpoints that `compared` names, and hashes of their weights, by name; `ways`: how they answer.
    """
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine
    from nanochat.evaluation.card import weights_of

    loaded = {name: load_model(source, device=device, phase="eval", tag=tag, step=at)
              for name, (source, tag, at) in compared(words, meta).items()}
    return ({name: Engine(*one[:2], **ways) for name, one in loaded.items()},
            {name: weights_of(one[2]) for name, one in loaded.items()})


def compared(words: str, meta: Mapping[str, Any]) -> dict[str, tuple[str, str | None, int | None]]:
    """Name -> source, tag and step of the checkpoints to stand beside one.

    words: "SOURCE/TAG,..."; empty: the one that it was tuned from, where it is still there; "none": nothing.
    Raises UserError for words of another form.
    """
    from nanochat.checkpoint_manager import SOURCES, find_checkpoint
    from nanochat.errors import CheckpointNotFound

    if words.strip() == "none":
        return {}
    if words.strip():
        chosen = {}
        for word in filter(None, (word.strip() for word in words.split(","))):
            source, _, tag = word.partition("/") if not word.startswith("hf:") else (word, "", "")
            if not source.startswith("hf:") and source not in SOURCES:
                raise UserError(f"--compare {word}: {source!r} is no source of checkpoints",
                                hint=f"SOURCE/TAG with one of {', '.join(SOURCES)}, or hf:FOLDER")
            chosen[word] = (source, tag or None, None)
        return chosen
    origin = meta.get("from")
    if not isinstance(origin, Mapping) or origin.get("source") not in SOURCES:
        return {}
    source, tag, step = origin["source"], origin.get("tag"), origin.get("step")
    try:
        find_checkpoint(source, tag, step)
    except CheckpointNotFound as missing:
        print0(f"no column for {source}/{tag}, from which it was tuned: {missing.problem}")
        return {}
    return {f"{source}/{tag}": (source, tag, step)}


def show_card(config: "RagEvalConfig") -> int:
    """Print the card of a checkpoint, and whether it is stale for the knowledge base that is named."""
    from nanochat.checkpoint_files import read_meta
    from nanochat.checkpoint_manager import find_checkpoint
    from nanochat.evaluation.card import card_lines, read_card, stale_reason
    from nanochat.retrieval import KnowledgeBase

    path = find_checkpoint(config.source, config.tag or None, config.step if config.step >= 0 else None)
    meta = read_meta(path)
    card = read_card(path)
    if card is None:
        raise UserError(
            f"No card for {meta['source']}/{meta['tag']} step {meta['step']}: it was not measured with a suite",
            hint=f"python -m scripts.rag_eval --suite quick --source {meta['source']} --tag {meta['tag']}",
        )
    fingerprint = None
    place = config.knowledge_base or card["knowledge_base"].get("path", "")
    if config.knowledge_base or (place and Path(place).exists()):
        fingerprint = KnowledgeBase.open(place).fingerprint
    elif place:
        print0(f"The knowledge base that was measured cannot be checked: {place} is gone")
    stale = stale_reason(card, fingerprint=fingerprint, meta=meta)
    for line in card_lines(card, stale=stale, knowledge_base=place if fingerprint else ""):
        print0(line)
    return 0

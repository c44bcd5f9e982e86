"""The conversations of --base_tasks, for the scripts that mix them in."""

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.common import print0
from nanochat.errors import ConfigError, UserError

WITHOUT = 'or train without conversations: --base_tasks ""'


def load_chats(config: Any, *, is_explicit: bool) -> Sequence[Mapping[str, Any]]:
    """Conversations of --base_tasks, mixed by weight: one chosen at random comes from each task as often as its weight
    says. A task that cannot be loaded is an error if it was asked for, else one line.
    """
    from nanochat.tokenizer import NUM_DOC_SLOTS
    from tasks.base import WeightedTasks, load_task, parse_tasks
    from tasks.reading import Reading

    reading = Reading(top_k=getattr(config, "top_k", 5), neighbours=neighbours)
    tasks, weights, told = [], [], []
    for spec in parse_tasks(config.base_tasks):
        try:
            task = load_task(str(spec), samples=config.task_samples, seed=config.seed, reading=reading)
        except UserError as error:
            if is_explicit:
                raise type(error)(error.problem, hint=f"{error.hint}; {WITHOUT}") from error
            print0(f"Going on without {spec} conversations (the default of --base_tasks): {error.problem}; to mix "
                   f"them in: {error.hint}")
            continue
        if not len(task):
            # questions that need more documents than are shown are left out; 0 takes all samples
            more = f"--task_samples {10 * config.task_samples} " if config.task_samples else ""
            more += f"--top_k {min(NUM_DOC_SLOTS, config.top_k + 3)} " if hasattr(config, "top_k") else ""
            raise ConfigError(f"The task {spec} gives no conversation", hint=more + WITHOUT)
        tasks.append(task)
        weights.append(spec.weight)
        told.append(f"{len(task):,} of {spec}")
    if tasks:
        shares = [f"{text} ({weight / sum(weights):.0%})" for text, weight in zip(told, weights, strict=True)]
        print0(f"Conversations mixed in: {', '.join(shares)}")
    return WeightedTasks(tasks, weights) if tasks else []


def neighbours(
    documents: Sequence[Mapping[str, Any]], queries: Sequence[str], top_k: int
) -> list[list[int]]:
    """Positions of the documents that a lexical search finds for each query, best first."""
    from nanochat.retrieval import Document, make_retriever

    retriever = make_retriever("bm25")
    retriever.index([Document(id=document["id"], title=document["title"], content=document["content"])
                     for document in documents])
    return [[hit.position for hit in hits] for hits in retriever.search(queries, top_k)]

"""Running an evaluation: retrieve once, then ask every question under every condition."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from nanochat.evaluation.conditions import (
    CONDITIONS,
    UNANSWERABLE_CONDITION,
    Evidence,
    check_conditions,
    is_asked,
    make_conversation,
)
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.records import Record, judge
from nanochat.evaluation.summary import EvaluationResult, summarize

PROGRESS_EVERY = 100


class Answerer(Protocol):
    """What is evaluated; nanochat.engine.Engine is one."""

    def generate_batch(
        self, conversations: list[dict[str, Any]], max_tokens: int = ...
    ) -> list[tuple[str, dict[str, Any]]]: ...


class Source(Protocol):
    """Where documents come from; nanochat.retrieval.RetrievalManager is one.

    `knowledge_base.documents` is every document; documents and hits have to_dict().
    """

    knowledge_base: Any

    def retrieve_batch(self, queries: list[str], top_k: int) -> list[list[Any]]: ...


def evaluate(
    engine: Answerer,
    manager: Source,
    questions: Sequence[EvalQuestion],
    *,
    conditions: Sequence[str] = tuple(CONDITIONS),
    top_k: int = 3,
    max_tokens: int = 32,
    batch_size: int = 32,
    progress: Callable[[str], None] | None = None,
) -> EvaluationResult:
    """Ask every question under every condition and judge the answers.

    Decoding is the engine's default, greedy; the order of questions and batches is fixed. `progress` receives one line
    per PROGRESS_EVERY questions. Raises UserError for an unknown condition.
    """
    names = check_conditions(conditions)
    evidence = gather_evidence(manager, questions, top_k=top_k, conditions=names)
    records: list[Record] = []
    for name in names:
        asked = [item for item in evidence if is_asked(name, item)]
        records += ask(engine, name, asked, max_tokens=max_tokens, batch_size=batch_size, progress=progress)
    return summarize(records, notes=_notes(names, evidence))


def gather_evidence(
    manager: Source,
    questions: Sequence[EvalQuestion],
    *,
    top_k: int,
    conditions: Sequence[str],
) -> list[Evidence]:
    """Retrieve for all questions at once; a longer ranking only where the "wrong" condition needs refills."""
    queries = [question.question for question in questions]
    none: list[list[Any]] = [[] for _ in questions]
    retrieved = manager.retrieve_batch(queries, top_k) if "retrieved" in conditions else none
    wanted = {id for question in questions for id in question.supporting_ids}
    documents = {one.id: one.to_dict() for one in manager.knowledge_base.documents if one.id in wanted}
    num_refills = max((len(set(question.supporting_ids)) for question in questions), default=0)
    ranked = manager.retrieve_batch(queries, top_k + num_refills) if "wrong" in conditions else none
    return [
        Evidence(
            question=question,
            top_k=top_k,
            retrieved=[hit.to_dict() for hit in hits],
            ranked=[hit.to_dict() for hit in longer],
            supporting=[documents[id] for id in dict.fromkeys(question.supporting_ids) if id in documents],
        )
        for question, hits, longer in zip(questions, retrieved, ranked, strict=True)
    ]


def ask(
    engine: Answerer,
    condition: str,
    evidence: Sequence[Evidence],
    *,
    max_tokens: int,
    batch_size: int,
    progress: Callable[[str], None] | None = None,
) -> list[Record]:
    """Answer one condition's questions in batches, in the order given."""
    started = time.monotonic()
    records: list[Record] = []
    for start in range(0, len(evidence), batch_size):
        batch = evidence[start : start + batch_size]
        given = [CONDITIONS[condition](item) for item in batch]
        conversations = [
            make_conversation(item.question.question, documents)
            for item, documents in zip(batch, given, strict=True)
        ]
        answers = engine.generate_batch(conversations, max_tokens=max_tokens)
        assert len(answers) == len(batch), f"{len(answers)} answers to {len(batch)} questions"
        for item, documents, (text, info) in zip(batch, given, answers, strict=True):
            records.append(judge(item, condition, documents, text, info))
        crossed = len(records) // PROGRESS_EVERY > start // PROGRESS_EVERY
        if progress is not None and (crossed or len(records) == len(evidence)):
            seconds = time.monotonic() - started
            share = _share_correct(records)
            progress(f"{condition}: {len(records)}/{len(evidence)} questions, {seconds:.0f} s, right so far {share}")
    return records


def _share_correct(records: Iterable[Record]) -> str:
    flags = [record.correct for record in records]
    return f"{sum(flags) / len(flags):.2f}"


def _notes(names: Sequence[str], evidence: Sequence[Evidence]) -> list[str]:
    notes = []
    answerable = [item for item in evidence if item.question.is_answerable]
    for name in names:
        skipped = sum(not is_asked(name, item) for item in answerable)
        if skipped:
            notes.append(
                f"{name}: {skipped} of {len(answerable)} answerable questions left out, because their supporting "
                "documents are not named or not in this knowledge base"
            )
    num_unanswerable = len(evidence) - len(answerable)
    if num_unanswerable and UNANSWERABLE_CONDITION not in names:
        notes.append(
            f"{num_unanswerable} unanswerable questions left out: they are asked under {UNANSWERABLE_CONDITION!r} only"
        )
    return notes

"""Conditions that need more than prompts: another retriever, a real deletion, a second look at cited documents."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nanochat.errors import MissingDependency
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite.judging import Asker, Judged
from nanochat.evaluation.suite.material import LEXICAL, SWAPPED_UP_TO, Material
from nanochat.evaluation.suite.prompts import Cell, Prompt, prompt
from nanochat.evaluation.suite.reading import Drawing
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager
from nanochat.retrieval.encoders import EncoderError

NUM_TIMED = 20       # questions asked alone, to time them


def retriever_cells(material: Material, drawing: Drawing, say: Callable[[str], None]) -> list[Cell]:
    """The questions with the documents of every retriever that is at hand."""
    cells = []
    questions = [*material.answerable, *material.unanswerable]
    for name in sorted({*material.searches, material.retriever_type}):
        try:
            search = material.search if name == material.retriever_type else material.searches[name]()
            found = search([one.question for one in questions], drawing.top_k)
        except (MissingDependency, EncoderError) as missing:
            say(f"retriever {name} left out: {missing.problem}")
            continue
        cells.append(Cell(name=f"retriever_{name}", condition="retriever", step=name, prompts=[
            prompt(one, hits) for one, hits in zip(questions, found, strict=True)]))
    return cells


def deletion_cells(
    asker: Asker, material: Material, drawing: Drawing, say: Callable[[str], None], num_questions: int
) -> list[Cell]:
    """Evidence deleted from a knowledge base on disk after its questions were asked, searched for and answered.

    The copy has a folder of its own; what is the user's is not touched. Answers are asked of the same engine, whose
    caches are warm, through the same manager, which has cached every search.
    """
    if len(material.documents) > SWAPPED_UP_TO:
        say(f"deletion left out: {len(material.documents):,} documents are too many for a copy")
        return []
    chosen = material.known[:num_questions]
    gone = list(dict.fromkeys(id for question in chosen for id in question.supporting_ids))
    # something must stay: a knowledge base of no documents is none
    if not chosen or len(gone) >= len(material.documents):
        return []
    try:
        # an index may still write a lock while its folder goes: what is left over does not matter
        with tempfile.TemporaryDirectory(prefix="nanochat-card-", ignore_cleanup_errors=True) as folder:
            after = _after_deletion(asker, material, drawing, chosen, gone, Path(folder) / "kb")
    except OSError as error:
        # a full disk takes this condition and not the others
        say(f"deletion left out: {error}")
        return []
    prompts = [prompt(one, hits, answers=(), lure=one.answers) for one, hits in zip(chosen, after, strict=True)]
    return [Cell(name="deleted", condition="deleted", prompts=prompts)]


def _after_deletion(
    asker: Asker, material: Material, drawing: Drawing, chosen: Sequence[EvalQuestion], gone: Sequence[str], place: Path
) -> list[list[dict]]:
    """What is found for the questions once documents are gone; manager and knowledge base end with this function."""
    kind = material.retriever_type if material.retriever_type in LEXICAL else "bm25"
    knowledge_base = KnowledgeBase.build((Document.from_dict(_plain(one)) for one in material.documents), place, kind)
    manager = RetrievalManager(kind, place)
    queries = [question.question for question in chosen]
    before = manager.retrieve_batch(queries, drawing.top_k)
    asker.ask([prompt(one, [hit.to_dict() for hit in hits]) for one, hits in zip(chosen, before, strict=True)],
              f"{material.name}, before deletion")
    knowledge_base.delete(gone)
    manager.refresh()
    after = [[hit.to_dict() for hit in hits] for hits in manager.retrieve_batch(queries, drawing.top_k)]
    # what was to be deleted stays, if it is found: that is the fault looked for
    return [[hit for hit in hits if hit["id"] in question.supporting_ids or material.may_distract(question, hit)]
            for question, hits in zip(chosen, after, strict=True)]


def _plain(document: dict) -> dict:
    return {name: document[name] for name in ("id", "title", "content", "source", "metadata") if name in document}


def cited_cells(answered: Sequence[Judged]) -> list[Cell]:
    """Right answers that cite: once without the cited documents, once with nothing else."""
    without: list[Prompt] = []
    alone: list[Prompt] = []
    for one in answered:
        cited = {citation.id for citation in one.citations if citation.id}
        if not one.exact or not cited:
            continue
        kept = [document for document in one.shown if str(document["id"]) not in cited]
        only = [document for document in one.shown if str(document["id"]) in cited]
        for prompts, documents in ((without, kept), (alone, only)):
            prompts.append(Prompt(
                id=one.prompt.id, question=one.prompt.question, documents=tuple(documents),
                answers=one.prompt.answers, evidence=one.prompt.evidence, lure=(one.answer,),
                hops=one.prompt.hops, kind=one.prompt.kind))
    return [Cell(name="cited_removed", condition="alone", step="removed", prompts=without),
            Cell(name="cited_alone", condition="alone", step="alone", prompts=alone)]


def timed(asker: Asker, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Seconds from a question with its documents to the whole answer, one at a time: median and 95th percentile."""
    seconds = []
    for one in prompts[:NUM_TIMED]:
        fresh = Asker(asker.engine, max_tokens=asker.max_tokens, batch_size=1, threshold=asker.threshold)
        started = time.perf_counter()
        fresh.ask([one])
        seconds.append(time.perf_counter() - started)
    if not seconds:
        return {}
    seconds.sort()
    return {"median_s": statistics.median(seconds), "p95_s": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
            "num": len(seconds)}

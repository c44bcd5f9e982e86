"""One question, several searches: the model reads what was found and asks a knowledge base again in its own words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from nanochat.engine import Engine
from nanochat.engine.hop_search import Search, search_once
from nanochat.rag.answer import Answer
from nanochat.rag.citations import one_line, source_name
from nanochat.retrieval import ScoredDocument
from nanochat.retrieval.words.spelling import corrected


class BatchSearcher(Protocol):
    """Where documents come from; nanochat.retrieval.RetrievalManager is one."""

    def retrieve_batch(self, queries: Sequence[str], top_k: int) -> list[list[ScoredDocument]]: ...


def search_of(manager: BatchSearcher) -> Search:
    """The search that nanochat.engine.hops asks."""

    def search(queries: Sequence[str], top_k: int) -> list[list[dict[str, Any]]]:
        return [[document.to_dict() for document in found] for found in manager.retrieve_batch(queries, top_k)]

    return search


def answer_over_hops(
    engine: Engine,
    manager: BatchSearcher,
    question: str,
    *,
    max_hops: int = 3,
    top_k_per_hop: int = 3,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    answer_threshold: float | None = None,
    spelling: bool = True,
    write: Callable[[str], object] | None = None,
    on_hop: Callable[[Mapping[str, Any]], object] | None = None,
) -> Answer:
    """Answer a question from what at most max_hops searches find, top_k_per_hop new documents each.

    The first search asks the question itself. `on_hop` receives every hop when its documents are there, `write` the
    text piece by piece while it is written; `info` of the answer has all `hops`. answer_threshold: as the engine takes
    it. spelling: as nanochat.rag.answer.answer_question. Raises SearchFailed when the knowledge base does not answer.
    """
    search, read = search_of(manager), question
    if spelling and question.strip():
        found = search_once(search, [question], top_k_per_hop, hop=1)[question]
        read = corrected(question, (f"{document['title']}\n{document['content']}" for document in found))
    stream = engine.stream(
        {"messages": [{"role": "user", "content": read}]}, max_tokens, temperature=temperature, seed=seed,
        answer_threshold=answer_threshold, search=search, max_hops=max_hops, top_k_per_hop=top_k_per_hop,
        on_hop=None if on_hop is None else lambda number, hop: on_hop(hop),
    )
    for piece in stream:
        if write is not None:
            write(piece)
    info = stream.info
    return Answer(question=question, text=stream.text, documents=info["documents"], citations=info["citations"],
                  abstained=info["abstained"], info=info, read_as=read if read != question else "")


def hop_line(hop: Mapping[str, Any]) -> str:
    """A hop for people: number, query, the documents that made it ask, and what it found that was new."""
    led = "".join(f"[{slot + 1}]" for slot in hop.get("citations", ()))
    name = f"search {hop['hop']}, from {led}" if led else f"search {hop['hop']}"
    found = ", ".join(source_name(dict(document)) for document in hop["documents"])
    return f"  {name}: {one_line(hop['query'])}\n      found: {found or 'nothing new'}"


def hop_records(answer: Answer) -> list[dict[str, Any]]:
    """The hops of an answer with the numbers of their documents instead of their texts; none of an answer without."""
    records, number = [], 1
    for hop in answer.info.get("hops", ()):
        count = len(hop["documents"])
        records.append({"hop": hop["hop"], "query": hop["query"], "documents": list(range(number, number + count)),
                        "citations": [slot + 1 for slot in hop.get("citations", ())]})
        number += count
    return records

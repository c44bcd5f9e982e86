"""What rag_finetune trains on: questions behind a retriever that searched once, episodes, conversations, worlds."""

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nanochat.common import print0, rank, world_size
from nanochat.errors import ConfigError

DEEPER = 3  # times the depth of a search: so many hits more, at most, where documents are left out


def make_pool(
    questions: Sequence[Mapping[str, Any]], manager: Any, *, top_k: int, rerank: str = "", what: str = "questions",
    unseen: Collection[str] = (),
) -> Any:
    """Questions with the documents behind a retriever, or None without questions; says how long retrieval took.

    All questions are searched here, or read from disk: training waits for no search. The documents whose ids are in
    `unseen` are left out: no context shows them.
    """
    from nanochat.rag.pool import SPARE_DOCUMENTS, Pool
    from nanochat.rag.retrieval_cache import RetrievalCache
    from nanochat.training.distributed import barrier

    if not questions:
        return None
    knowledge_base = manager.knowledge_base
    documents = knowledge_base.documents
    position_of = {document.id: position for position, document in enumerate(documents)}
    # documents come with their fingerprint; a version may differ from another in its indexes alone
    index = {"fingerprint": knowledge_base.fingerprint, "version": knowledge_base.version,
             "retriever_type": manager.retriever_type, "indexes": knowledge_base.manifest.get("indexes"),
             "rerank": rerank}
    cache = RetrievalCache(lambda queries, top_k: [[position_of[found.id] for found in row]
                                                   for row in manager.retrieve_batch(queries, top_k)], index)
    texts = [question["question"] for question in questions]
    depth = top_k + SPARE_DOCUMENTS
    shown = [position for name, position in position_of.items() if name not in unseen]
    num_unseen = len(documents) - len(shown)
    # so many hits leave enough when the unseen ones are taken out
    fetched = depth + min(num_unseen, DEEPER * depth)
    if rank() != 0:
        # one process searches, the others find its file
        barrier()
    num_queries, num_new = cache.warm(texts, fetched)
    if rank() == 0:
        barrier()
    known = f"{num_queries - num_new:,} of them kept from before" if num_new < num_queries else "none kept from before"
    best = min(depth, len(documents))
    print0(f"Retrieval for {num_queries:,} {what}, the best {best} of {len(documents):,} documents: "
           f"{cache.seconds:.1f} s, {known}")
    if num_unseen:
        print0(f"No context of training shows the {num_unseen:,} documents that only validation or test are about")
    place_of = {position: place for place, position in enumerate(shown)}

    def search(queries: Sequence[str], top_k: int) -> list[list[int]]:
        rows = cache(queries, max(fetched, top_k))
        return [[place_of[position] for position in row if position in place_of][:top_k] for row in rows]

    pool = Pool([document.to_dict() for document in documents if document.id not in unseen], questions, search)
    _say_found(questions, pool, search(texts, depth), top_k, what)
    return pool


def _say_found(
    questions: Sequence[Mapping[str, Any]], pool: Any, found: list[list[int]], top_k: int, what: str
) -> None:
    """In how many cases the retriever finds the evidence; a warning where it is of no use."""
    wanted = [({pool.position_of[name] for name in question["supporting_ids"]}, hits[:top_k])
              for question, hits in zip(questions, found, strict=True) if question["answers"]]
    if not wanted:
        return
    share = sum(evidence <= set(hits) for evidence, hits in wanted) / len(wanted)
    print0(f"The evidence of {share:.0%} of the answerable {what} is among the best {top_k}")
    if share < 0.2:
        print0("Warning: the retriever seldom finds the evidence, so answers will seldom have it. Are questions and "
               "documents in the same language? A knowledge base of the type dense finds by meaning, with a "
               "multilingual --model in other languages, too")


def check_early_stop(config: Any, num_examples: int, *, row_len: int = 0) -> None:
    """Raises ConfigError where --early_stop_patience would wait for a val_loss that never comes: without validation
    records, or, where `row_len` is given, without one that fits into a row.
    """
    if num_examples or not config.early_stop_patience:
        return
    needs = f"--early_stop_patience {config.early_stop_patience} needs validation examples, but"
    if row_len:
        raise ConfigError(f"{needs} none fits into a row of {row_len} tokens",
                          hint="raise --max_seq_len, lower --top_k, or cut documents: --max_doc_length 200")
    raise ConfigError(f"{needs} no question or episode is kept for validation",
                      hint="--validation_share 0.1, or --validation_questions FILE.jsonl")


def kb_share(config: Any, chats: Any) -> float:
    """Share of examples about the knowledge base: what --world_share and --chat_share leave."""
    share = 1 - config.world_share - (config.chat_share if chats else 0.0)
    if share < -1e-9:
        raise ConfigError(f"--world_share {config.world_share} and --chat_share {config.chat_share} are more than all",
                          hint="for example --world_share 0.5 --chat_share 0.15")
    return max(0.0, share)


def steps_for(config: Any, num_records: int, share: float) -> int:
    """Optimizer steps in which about every question and episode comes first --num_epochs times."""
    per_step = config.device_batch_size * config.grad_accum_steps * world_size() * share
    if num_records == 0 or per_step < 1e-9:
        raise ConfigError("There is nothing to train on from the knowledge base, so --num_epochs gives no steps",
                          hint="lower --world_share and --validation_share, or say how many steps: --num_steps 500")
    return math.ceil(config.num_epochs * num_records / per_step)


def make_mixture(config: Any, share: float, chats: Sequence[Mapping[str, Any]], data: Any, pool: Any) -> Any:
    """Shares of the examples of a batch: questions and episodes share what is about the knowledge base by their
    number; episodes are drawn like conversations, as they are.
    """
    from nanochat.rag.curriculum import Mixture
    from tasks.base import WeightedTasks

    of_episodes = share * len(data.episodes) / max(1, len(data))
    chat_share = config.chat_share if chats else 0.0
    conversations: Sequence[Mapping[str, Any]] = chats
    if of_episodes > 0:
        parts = [(part, weight) for part, weight in ((chats, chat_share), (data.episodes, of_episodes)) if weight > 0]
        conversations = WeightedTasks(*map(list, zip(*parts, strict=True)))
    return Mixture(pool=pool, pool_share=share - of_episodes if pool is not None else 0.0, chats=conversations,
                   chat_share=chat_share + of_episodes)


def check_usable(config: Any, curriculum: Any, data: Any, pool: Any, row_len: int) -> None:
    """Raises ConfigError when no answer from the knowledge base fits into a row with its evidence: only abstentions, or
    nothing, would be learned.
    """
    has_answers = any(question["answers"] for question in data.questions) or any(
        message.get("citations") for episode in data.episodes for message in episode["messages"])
    rendered = curriculum.fixed_examples(pool, data.episodes, is_plain=True)
    cite = curriculum.tokenizer.special("cite")
    if not len(data) or any(cite in item.ids for item in rendered) or (rendered and not has_answers):
        return
    cut = f", documents {config.max_doc_length} (--max_doc_length)" if config.max_doc_length else ""
    raise ConfigError(
        f"No answer from {config.knowledge_base} fits with its document: rows have {row_len} tokens{cut}",
        hint="raise --max_seq_len, or cut the documents into passages: python -m nanochat.retrieval --chunk_words 120 "
             f"--documents my_documents.jsonl --output {shlex.quote(config.knowledge_base)}",
    )

"""Does a knowledge base find more with another encoder? Scores per query, before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanochat.errors import UserError
from nanochat.retrieval.base import COMPONENTS
from nanochat.retrieval.encoders import Encoder
from nanochat.retrieval.judging.judgements import read_qrels, read_queries, supporting_judgements
from nanochat.retrieval.judging.metrics import relevant, score_queries
from nanochat.retrieval.judging.rankings import Ranker
from nanochat.retrieval.retrievers.dense import DenseRetriever, write_with_encoder
from nanochat.retrieval.retrievers.hybrid import HybridRetriever
from nanochat.retrieval.tuning.arena import Arena
from nanochat.retrieval.tuning.ranks import ndcg, ranks

if TYPE_CHECKING:
    from nanochat.retrieval.base import Retriever
    from nanochat.retrieval.knowledge_base import KnowledgeBase

K = 10
PSEUDO = "dense, held-out pseudo-queries"
_OWN = "{}, your questions"
Scores = dict[str, list[float]]  # kind of search -> nDCG@10 of each query


class Judge:
    """Held-out pseudo-queries, and the user's own questions where there are any, over one knowledge base."""

    def __init__(
        self, knowledge_base: "KnowledgeBase", arena: Arena, texts: Sequence[str], places: np.ndarray
    ) -> None:
        """texts and places (in the arena): of the held-out pseudo-queries."""
        self._knowledge_base, self._arena, self._texts, self._places = knowledge_base, arena, list(texts), places
        self._questions: dict[str, str] = {}
        self._judgements: dict[str, dict[str, int]] = {}
        self._type = knowledge_base.retriever_type

    @property
    def decides(self) -> str:
        """The kind of search that decides: the user's own questions, if there are any, on the type that is used."""
        if not self._questions:
            return PSEUDO
        return _OWN.format(self._type if self._type in ("dense", "hybrid") else "dense")

    def use(self, queries: str, qrels: str = "") -> None:
        """Measure on these questions, too. UserError where none has a relevant document."""
        found = read_queries(queries)
        judgements = read_qrels(qrels) if qrels else supporting_judgements(found)
        self._questions = {query.id: query.text for query in found if relevant(judgements.get(query.id, {}))}
        if not self._questions:
            raise UserError(f"None of the {len(found)} queries of {queries} has a relevant document",
                            hint="add supporting_ids, or give --qrels")
        self._judgements = {name: judgements[name] for name in self._questions}

    def before(self) -> Scores:
        """With the encoder that is there."""
        return self._scores(self._knowledge_base.retriever("dense"), self._arena.vectors)

    def with_encoder(self, encoder: Encoder, folder: Path) -> Scores:
        """With another encoder for queries. An index with it is left in the empty folder."""
        record = self._knowledge_base.manifest["indexes"]["dense"]
        write_with_encoder(folder, self._knowledge_base.path / "indexes" / record["folder"], encoder)
        dense = DenseRetriever()
        dense.load(folder)
        return self._scores(dense, self._arena.vectors)

    def with_model(self, model: str, folder: Path) -> Scores:
        """With another model for documents and queries. Encodes all passages, into an index in the empty folder."""
        table = self._knowledge_base.snapshot.table
        dense = DenseRetriever(model)
        dense.write(folder, table.rows(0, table.num_rows))
        dense.load(folder)
        return self._scores(dense, dense.vectors.store.gather(self._arena.rows))

    def _scores(self, dense: DenseRetriever, vectors: np.ndarray) -> Scores:
        queries = dense.query_vectors(self._texts)
        found = ranks(queries, self._places, vectors, self._arena.groups)
        scores = {PSEUDO: ndcg(found, K).tolist()}
        if self._questions:
            scores[_OWN.format("dense")] = self._own(dense)
            if set(COMPONENTS["hybrid"]) <= set(self._knowledge_base.manifest["indexes"]):
                settings = {key: self._knowledge_base.manifest["settings"][key] for key in ("fusion", "alpha")
                            if key in self._knowledge_base.manifest["settings"]}
                bm25 = self._knowledge_base.retriever("bm25")
                scores[_OWN.format("hybrid")] = self._own(HybridRetriever.of(bm25, dense, **settings))
        return scores

    def _own(self, retriever: "Retriever") -> list[float]:
        """nDCG@10 of the user's questions."""
        ranker = Ranker(self._knowledge_base, retriever=retriever)
        ranker.unknown(list({name for grades in self._judgements.values() for name in grades}))
        rankings = ranker.rank(list(self._questions.values()), K)
        found = {name: [item.id for item in row] for name, row in zip(self._questions, rankings)}
        return list(score_queries(found, self._judgements, k=K)[f"ndcg@{K}"].values())

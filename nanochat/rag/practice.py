"""Reading practice on generated worlds: copying, recalling, and answering from documents that the retriever found.

Every world is new and its names are invented, so nothing can be memorised: reading is the only way to lower the loss.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nanochat.chat_format import Rendered, text_ids
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.retrieval import Document, make_retriever
from nanochat.tokenizer import Tokenizer
from tasks.worlds import Fact, World, WorldConfig, make_world

_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_NEWLINE = "\n"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One rung of the ladder: what is practised, and the share of right answers that leads to the next rung."""

    kind: str  # "copy", "recall", "keys" (answering from lists of facts) or "read" (answering from prose)
    gate: float  # share of answers (copy: of tokens) that must be right on worlds not trained on
    world: dict[str, Any] = field(default_factory=dict)  # settings of WorldConfig
    examples: ExampleConfig = ExampleConfig()  # for "keys" and "read"


_PLAIN: dict[str, Any] = {"pronoun_share": 0.0, "filler_share": 0.0, "min_words": 0}
# a third of the facts: with the thirty fixed relations alone, their wordings are all that a model can read
_OPEN: dict[str, Any] = {"open_relations": 3}

# easy to hard; each script trains some of them in this order
STAGES: dict[str, Stage] = {
    "copy": Stage(kind="copy", gate=0.85),
    "recall": Stage(kind="recall", gate=0.9),
    "keys": Stage(
        kind="keys", gate=0.88,
        examples=ExampleConfig(max_documents=6, lookups=12, unanswerable_share=0.3, first_absent_share=0.15,
                               taken_away_share=0.1, random_share=1.0),
    ),
    # the same lists, found by the retriever: whose names share words with the one asked for
    "names": Stage(
        kind="keys", gate=0.88, world=_OPEN,
        examples=ExampleConfig(max_documents=8, lookups=12, unanswerable_share=0.3, first_absent_share=0.15,
                               taken_away_share=0.1, random_share=0.2),
    ),
    "facts": Stage(
        kind="read", gate=0.7,
        world=_PLAIN | _OPEN | {"min_facts": 1, "max_facts": 3, "unanswerable_share": 0.35},
        examples=ExampleConfig(max_documents=4, lookups=8, unanswerable_share=0.3, first_absent_share=0.15,
                               taken_away_share=0.1),
    ),
    "documents": Stage(
        kind="read", gate=0.9,
        world=_OPEN | {"questions_per_entity": 6, "unanswerable_share": 0.35, "untold_title_share": 0.1,
                       "casual_share": 0.15},
        examples=ExampleConfig(max_documents=8, lookups=8, unanswerable_share=0.3, first_absent_share=0.15,
                               taken_away_share=0.15, shuffle_share=1.0, edited_share=0.1, rival_share=0.25,
                               decoy_share=0.3, injected_share=0.25),
    ),
}


class PracticeWorld:
    """A generated world with what practice needs of it, made on demand."""

    def __init__(self, seed: int, settings: dict[str, Any], retriever_type: str) -> None:
        self.config = WorldConfig(seed=seed, **{"questions_per_entity": 6} | settings)
        self.retriever_type = retriever_type

    @cached_property
    def world(self) -> World:
        """Its documents, facts and questions."""
        return make_world(self.config)

    @cached_property
    def pool(self) -> Pool:
        """The world's documents and questions behind a retriever of the given type."""
        document_of = {fact.subject: fact.document_id for fact in self.world.facts}
        questions = []
        for question in self.world.questions:
            # the document that speaks of the subject and leaves this relation out
            about = [document_of[question.subject]] if question.kind == "absent_relation" else []
            questions.append(question.to_dict() | {"about_ids": about, "relation": question.relation,
                                                   "subject": question.subject})
        return make_pool(self.world.documents, questions, self.retriever_type)

    @cached_property
    def key_pool(self) -> Pool:
        """The same facts as lists, "relation: value" under the document's title, asked for by subject and relation.

        As many questions ask for what a list leaves out: here, where the words are the same, not to answer is learned.
        """
        rng = random.Random(self.world.config.seed)
        # "Selrum Clock (clock)", too: with names alone, what a model learns is that the slot stands right behind a name
        titles = {document["id"]: document["title"] for document in self.world.documents}
        documents: list[dict[str, Any]] = []
        questions: list[dict[str, Any]] = []
        for subject in dict.fromkeys(fact.subject for fact in self.world.facts):
            facts = rng.sample(self.facts_by[subject], rng.randint(1, min(4, len(self.facts_by[subject]))))
            document_id, title = str(len(documents)), titles[facts[0].document_id]
            lines = [f"{_relation(fact)}: {fact.value}" for fact in facts]
            documents.append({"id": document_id, "title": title, "content": _NEWLINE.join(lines)})
            for fact in facts:
                questions.append({"id": f"k{len(questions)}", "question": f"{subject} {_relation(fact)}",
                                  "answers": [fact.value], "supporting_ids": [document_id]})
            kind, listed = facts[0].relation.partition(".")[0], {fact.relation for fact in facts}
            left_out = sorted({fact.relation for fact in self.world.facts
                               if fact.relation.partition(".")[0] == kind} - listed)
            for relation in rng.sample(left_out, min(len(facts), len(left_out))):
                questions.append({"id": f"k{len(questions)}", "question": f"{subject} {_words(relation)}",
                                  "answers": [], "supporting_ids": [], "about_ids": [document_id]})
        return make_pool(documents, questions, self.retriever_type)

    @cached_property
    def facts_by(self) -> dict[str, list[Fact]]:
        """Facts by subject and by relation."""
        table: dict[str, list[Fact]] = {}
        for fact in self.world.facts:
            table.setdefault(fact.subject, []).append(fact)
            table.setdefault(fact.relation, []).append(fact)
        return table


def make_pool(documents: Sequence[dict[str, Any]], questions: Sequence[dict[str, Any]], retriever_type: str) -> Pool:
    """A pool over an in-memory index, of questions that name all the documents that answer them."""
    retriever = make_retriever(retriever_type)
    retriever.index([Document(id=d["id"], title=d["title"], content=d["content"]) for d in documents])
    return Pool(documents, questions, lambda queries, top_k: [
        [hit.position for hit in hits] for hits in retriever.search(queries, top_k)], is_exact=True)


def copy_example(practice: PracticeWorld, tokenizer: Tokenizer, rng: random.Random, max_tokens: int) -> Rendered:
    """One to three documents, then their sentences again in another order; the repetition is supervised."""
    documents = rng.sample(practice.world.documents, min(rng.randint(1, 3), len(practice.world.documents)))
    sentences = [sentence for d in documents for sentence in _SENTENCE_END.split(d["content"])]
    rng.shuffle(sentences)
    pieces = [(piece, 0) for d in documents for piece in (d["title"], _NEWLINE, d["content"], _NEWLINE)]
    return _sequence(pieces + [(sentence, 1) for sentence in sentences], tokenizer, max_tokens)


def recall_example(practice: PracticeWorld, tokenizer: Tokenizer, rng: random.Random, max_tokens: int) -> Rendered:
    """A list of facts, then the same list in another order with the values supervised.

    The facts share relations or subjects, so that neither alone tells which value is meant.
    """
    wanted = rng.randint(2, 12)
    facts: list[Fact] = []
    is_one_relation = rng.random() < 0.3
    start = rng.choice(practice.world.facts)
    for _ in range(wanted):
        key = start.relation if is_one_relation or rng.random() < 0.5 else start.subject
        alike = practice.facts_by[key]
        facts += [fact for fact in rng.sample(alike, min(wanted if is_one_relation else 3, len(alike)))
                  if fact not in facts]
        if len(facts) >= wanted:
            break
        start = start if is_one_relation else rng.choice(practice.world.facts)
    facts = facts[:wanted]
    again = rng.sample(facts, len(facts))
    pieces = [piece for shown, mask in ((facts, 0), (again, 1)) for fact in shown
              for piece in ((_key(fact), 0), (fact.value, mask), (_NEWLINE, mask))]
    return _sequence(pieces, tokenizer, max_tokens)


def _key(fact: Fact) -> str:
    return f"{fact.subject} {_relation(fact)}:"


def _relation(fact: Fact) -> str:
    return _words(fact.relation)


def _words(relation: str) -> str:
    return relation.partition(".")[2].replace("_", " ")


def _sequence(pieces: Sequence[tuple[str, int]], tokenizer: Tokenizer, max_tokens: int) -> Rendered:
    ids, mask = [tokenizer.special("bos")], [0]
    for text, supervised in pieces:
        new = tokenizer.encode_cached(text) if text == _NEWLINE else text_ids(text, tokenizer)
        ids.extend(new)
        mask.extend([supervised] * len(new))
    return Rendered(ids=ids[:max_tokens], mask=mask[:max_tokens], documents=[], dropped=0, lost_citations=0)


EXAMPLES: dict[str, Callable[[PracticeWorld, Tokenizer, random.Random, int], Rendered]] = {
    "copy": copy_example,
    "recall": recall_example,
}

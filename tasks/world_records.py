"""What a world is: its configuration, documents, facts and questions, as plain records."""

from dataclasses import dataclass
from typing import Any

from tasks.world_templates import HELD_OUT, ORGANISATIONS, PEOPLE, PLACES, Wording
from tasks.world_templates_things import POLICIES, PRODUCTS, WORKS

RELATIONS: dict[str, Wording] = {**PEOPLE, **PLACES, **ORGANISATIONS, **PRODUCTS, **POLICIES, **WORKS}
WORDING_SETS = ("train", "held_out", "all")
KINDS = ("answerable", "absent_entity", "absent_relation")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What a world contains.

    The easiest stage of a curriculum: min_facts = max_facts = 1 and pronoun_share = filler_share = min_words = 0.
    """

    seed: int = 0
    num_entities: int = 200             # one document each
    min_facts: int = 2                  # facts per document, fewer only where a type has too few relations
    max_facts: int = 5
    relations: tuple[str, ...] = ()     # keys of RELATIONS; empty means all
    questions_per_entity: int = 2       # fewer where a document has fewer facts
    unanswerable_share: float = 0.2     # of the questions, half absent entities, half absent relations
    pronoun_share: float = 0.3          # sentences after the first that say "she", "it" or "the town"
    filler_share: float = 0.2           # documents with a sentence that states no fact
    min_words: int = 30                 # shorter contents get up to two sentences without facts
    shared_name_share: float = 0.3      # entities that share a word of their name with another one
    mention_share: float = 0.7          # values that are entities of this world; the rest have no document
    statement_wordings: str = "train"   # "train", "held_out" (never seen in training) or "all"
    question_wordings: str = "train"
    open_relations: int = 0             # further relations per kind of entity, of words drawn for this world alone
    open_words: str = "train"           # which words these are made of: "train", "held_out" or "all"
    casual_share: float = 0.0           # questions typed in passing: "what is the fee of ...", "Please: When was ..."
    untold_title_share: float = 0.0     # documents whose title does not name what they are about: "Lamp manual"

    def __post_init__(self) -> None:
        if not 1 <= self.min_facts <= self.max_facts:
            raise ValueError(f"need 1 <= min_facts <= max_facts, got {self.min_facts} and {self.max_facts}")
        if self.num_entities < 1 or min(self.questions_per_entity, self.min_words, self.open_relations) < 0:
            raise ValueError("num_entities must be at least 1, questions_per_entity, min_words and open_relations at "
                             "least 0")
        for name in ("unanswerable_share", "pronoun_share", "filler_share", "shared_name_share", "mention_share",
                     "casual_share", "untold_title_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("statement_wordings", "question_wordings", "open_words"):
            if getattr(self, name) not in WORDING_SETS:
                raise ValueError(f"{name} must be one of {', '.join(WORDING_SETS)}, got {getattr(self, name)!r}")
        for relation in self.relations:
            if relation not in RELATIONS:
                raise ValueError(f"unknown relation {relation!r}; known: {', '.join(RELATIONS)}")


@dataclass(frozen=True)
class Fact:
    """One stated value: `subject` has `relation` = `value`, written at content[start:] of the document."""

    subject: str
    relation: str
    value: str
    document_id: str
    start: int


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    answers: tuple[str, ...]            # the first one is in the document word for word; empty when unanswerable
    supporting_ids: tuple[str, ...]
    hops: int
    kind: str                           # one of KINDS
    relation: str
    subject: str                        # full name as asked; of no entity when the kind is absent_entity

    def to_dict(self) -> dict[str, Any]:
        """The record of a question file: id, question, answers, supporting_ids, hops, kind."""
        return {
            "id": self.id, "question": self.question, "answers": list(self.answers),
            "supporting_ids": list(self.supporting_ids), "hops": self.hops, "kind": self.kind,
        }


@dataclass(frozen=True)
class World:
    config: WorldConfig
    documents: list[dict[str, Any]]     # id, title, content, source, metadata
    questions: list[Question]
    facts: list[Fact]
    names: frozenset[str]               # every invented name, for make_world(exclude_names=...)
    relations: dict[str, Wording]       # those of its facts and questions: RELATIONS, and its own open ones


def select(templates: tuple[str, ...], wordings: str) -> tuple[str, ...]:
    """The templates of one of WORDING_SETS."""
    return {"train": templates[:-HELD_OUT], "held_out": templates[-HELD_OUT:], "all": templates}[wordings]


def full_name(kind: str, name: str) -> str:
    """A name as a sentence has it: "Torvik", but "the Torvex Lamp"."""
    return f"the {name}" if kind in ("product", "policy") else name

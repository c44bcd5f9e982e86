"""Questions of several hops over a world: the thing asked about is described by another, which has to be read first.

"Who is the mayor of the town where Velda Marsik was born?" takes the document of Velda Marsik, and then that of the
town. Only questions whose own words do not already find the later documents are kept.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.world_descriptions import DESCRIPTIONS
from tasks.world_names import NameMaker, Parts, join
from tasks.world_records import Fact, World, full_name, select
from tasks.worlds import answers_of

MAX_HOPS = 4
# kinds of questions that nothing answers
BROKEN = ("broken_bridge", "absent_relation", "absent_entity", "removed")
_BROKEN_FIRST = ("absent_relation", "absent_entity")  # that questions of one hop can be
# settings of WorldConfig for worlds with many chains: values are entities with documents, documents state more
CHAIN_WORLD: dict[str, Any] = {"mention_share": 0.95, "min_facts": 3, "max_facts": 5}
TRIES = 30  # random walks per question that is wanted
# queries, number of documents -> positions of documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[int]]]
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """What is asked of a world."""

    seed: int = 0
    hops: tuple[int, ...] = (1, 2, 3)   # lengths of the questions, 1 ... 4
    per_length: int = 50                # questions of each length, before any is left out
    unanswerable_share: float = 0.25    # of them
    broken: tuple[str, ...] = BROKEN    # their kinds, in turn, those that a length allows
    hidden_from: int = 10               # later documents are not among so many hits of the question; 0 keeps all

    def __post_init__(self) -> None:
        if not self.hops or not all(1 <= length <= MAX_HOPS for length in self.hops):
            raise ValueError(f"hops must be numbers from 1 to {MAX_HOPS}, got {self.hops}")
        if not set(_BROKEN_FIRST) & set(self.broken) or not set(self.broken) <= set(BROKEN):
            raise ValueError(f"broken must be kinds of {BROKEN}, one of {_BROKEN_FIRST} among them, got {self.broken}")
        if self.per_length < 0 or not 0 <= self.unanswerable_share <= 1:
            raise ValueError("per_length must be at least 0 and unanswerable_share lie in 0..1")


@dataclass(frozen=True)
class Chains:
    """Questions of several hops, and how many of each length there were before those were left out whose later
    documents the question alone finds.

    A question is a record: id, question, answers (empty when nothing answers), supporting_ids in hop order, hops (its
    length), kind ("answerable" or one of BROKEN), searches (those that the answer takes, or that show that there is
    none: one more after the first in vain), about_ids (the document that speaks of the last thing and does not answer),
    and steps: what to search for hop by hop, each with query, subject (the name that it is about), answer and
    document_id, which are "" where nothing answers. The first query is the question; a later one is what is left to ask
    once the described thing is known by its name.
    """

    questions: list[Record]
    made: Counter[int] = field(default_factory=Counter)     # by length, before any was left out
    kept: Counter[int] = field(default_factory=Counter)
    names: frozenset[str] = frozenset()                     # invented for questions about what is not there


def make_chains(
    world: World, config: ChainConfig, search: Search | None = None, *, exclude_names: Collection[str] = ()
) -> Chains:
    """Questions about a world; same world and config, same questions. Without a search none is left out. No name that
    is invented for them is in `exclude_names`.
    """
    maker = _Maker(world, config, exclude_names)
    made = maker.make()
    kept = made
    if search is not None and config.hidden_from:
        kept = _hidden(made, world, search, config.hidden_from)
    return Chains(kept, Counter(question["hops"] for question in made),
                  Counter(question["hops"] for question in kept), frozenset(maker.names.used))


def _hidden(questions: Sequence[Record], world: World, search: Search, depth: int) -> list[Record]:
    """The questions whose own words find none of the documents of their later steps."""
    found = search([question["question"] for question in questions], depth)
    kept = []
    for question, hits in zip(questions, found, strict=True):
        near = {world.documents[position]["id"] for position in hits[:depth]}
        later = {step["document_id"] for step in question["steps"][1:]}
        later.update(question["about_ids"] if len(question["steps"]) > 1 else [])
        if not near & later:
            kept.append(question)
    return kept


@dataclass
class _Walk:
    """A way through the facts: the subject of each step, and the facts that lead on; the last one may be missing."""

    subjects: list[str]                 # one more than there are facts, where the chain breaks
    facts: list[Fact]
    relations: list[str]                # of the whole question


class _Maker:
    def __init__(self, world: World, config: ChainConfig, exclude_names: Collection[str]) -> None:
        self.world, self.config = world, config
        self.rng = random.Random(f"chains {world.config.seed} {config.seed}")
        self.facts: dict[str, dict[str, Fact]] = {}
        for fact in world.facts:
            self.facts.setdefault(fact.subject, {})[fact.relation] = fact
        self.kind_of = {fact.subject: fact.relation.partition(".")[0] for fact in world.facts}
        self.document_of = {fact.subject: fact.document_id for fact in world.facts}
        self.content_of = {document["id"]: document["content"] for document in world.documents}
        self.subjects = list(self.facts)
        used = dict.fromkeys(world.config.relations or world.relations)
        self.asked = {kind: [name for name in used if name.startswith(f"{kind}.")] for kind in self.kind_of.values()}
        self.leading = {kind: [name for name in names if name in DESCRIPTIONS] for kind, names in self.asked.items()}
        # values that have no document, by kind
        self.outside: dict[str, list[str]] = {}
        for fact in world.facts:
            if fact.relation in DESCRIPTIONS and fact.value not in self.facts:
                self.outside.setdefault(world.relations[fact.relation][0], []).append(fact.value)
        self.names = NameMaker(self.rng, world.names | frozenset(exclude_names))
        self.seen: set[str] = set()

    def make(self) -> list[Record]:
        questions: list[Record] = []
        for length in self.config.hops:
            broken = round(self.config.per_length * self.config.unanswerable_share)
            kinds = [kind for kind in self.config.broken if length > 1 or kind in _BROKEN_FIRST]
            wanted = ["answerable"] * (self.config.per_length - broken)
            wanted += [kinds[place % len(kinds)] for place in range(broken)]
            for number, kind in enumerate(wanted):
                question = self._question(f"w{self.world.config.seed}-c{length}-{number:04d}", kind, length)
                questions += [question] if question is not None else []
        self.rng.shuffle(questions)
        return questions

    def _question(self, id_: str, kind: str, length: int) -> Record | None:
        for _ in range(TRIES):
            walk = self._walk(kind, length)
            if walk is None:
                continue
            question = self._record(id_, kind, walk)
            if question["question"] not in self.seen and not self._is_shown(question):
                self.seen.add(question["question"])
                return question
        return None

    def _walk(self, kind: str, length: int) -> _Walk | None:
        """A random chain that ends as `kind` says; None where this one does not come to such an end."""
        rng = self.rng
        if kind == "absent_entity":
            like = rng.choice(self.subjects)
            subject, type_ = self._stranger(self.kind_of[like], like), self.kind_of[like]
            relations = self._relations(type_, length)
            return _Walk([subject], [], relations) if relations else None
        # the step that fails, from 0; behind the last one when all is stated
        end = {"answerable": length, "absent_relation": 0}.get(kind)
        end = rng.randint(1, length - 1) if end is None else end
        walk = _Walk([rng.choice(self.subjects)], [], [])
        for place in range(end):
            fact = self._fact(walk.subjects[-1], is_last=place + 1 == length, is_out=kind == "removed" and
                              place + 1 == end)
            if fact is None or fact.value in walk.subjects:
                return None
            walk.facts.append(fact)
            walk.subjects.append(fact.value)
        walk.relations = [fact.relation for fact in walk.facts]
        if end == length:
            walk.subjects.pop()
            return walk
        last = walk.facts[-1].relation if walk.facts else ""
        type_ = self.world.relations[last][0] if last else self.kind_of[walk.subjects[0]]
        rest = self._relations(type_, length - end, but=self.facts.get(walk.subjects[-1], {}))
        walk.relations += rest
        return walk if rest else None

    def _fact(self, subject: str, *, is_last: bool, is_out: bool) -> Fact | None:
        """A fact to go on with: any at the end, else one whose value has a document, or has none (`is_out`)."""
        usable = [fact for relation, fact in self.facts[subject].items()
                  if is_last or (relation in DESCRIPTIONS and (fact.value in self.facts) != is_out)]
        return self.rng.choice(usable) if usable else None

    def _relations(self, kind: str, length: int, but: Mapping[str, Fact] | None = None) -> list[str]:
        """Relations that follow from one another, the first one of a `kind` and none of `but`; empty if there are none.
        """
        found: list[str] = []
        for left in range(length, 0, -1):
            table = self.leading if left > 1 else self.asked
            usable = [name for name in table.get(kind, ()) if found or name not in (but or {})]
            if not usable:
                return []
            found.append(self.rng.choice(usable))
            kind = self.world.relations[found[-1]][0]
        return found

    def _stranger(self, kind: str, like: str) -> str:
        """A name that no document is about: of four one that is mentioned, the others look like names of this world."""
        if self.outside.get(kind) and self.rng.random() < 0.25:
            return self.rng.choice(self.outside[kind])
        return join(self.names.relative(kind, [_parts(kind, like)]))

    def _record(self, id_: str, kind: str, walk: _Walk) -> Record:
        wordings = self.world.config.question_wordings
        asked = self.rng.choice(select(self.world.relations[walk.relations[-1]][2], wordings))
        described = [self.rng.choice(select(DESCRIPTIONS[name], wordings)) for name in walk.relations[:-1]]
        steps = []
        for place, subject in enumerate(walk.subjects):
            words = full_name(walk.relations[place].partition(".")[0], subject)
            for template in described[place:]:
                words = template.format(N=words)
            fact = walk.facts[place] if place < len(walk.facts) else None
            steps.append({"query": asked.format(N=words), "subject": subject, "answer": fact.value if fact else "",
                          "document_id": fact.document_id if fact else ""})
        is_whole = kind == "answerable"
        last = walk.subjects[-1]
        return {
            "id": id_, "question": steps[0]["query"],
            "answers": list(answers_of(walk.facts[-1].value)) if is_whole else [],
            "supporting_ids": [fact.document_id for fact in walk.facts] if is_whole else [],
            "hops": len(walk.relations), "kind": kind, "searches": len(steps) + (not is_whole),
            "about_ids": [self.document_of[last]] if not is_whole and last in self.document_of else [],
            "steps": steps,
        }

    def _is_shown(self, question: Record) -> bool:
        """Whether the question, or the evidence of an earlier step, has the answer in it."""
        texts = [question["question"], *(self.content_of[name] for name in question["supporting_ids"][:-1])]
        return any(answer in text for answer in question["answers"] for text in texts)


def _parts(kind: str, name: str) -> Parts:
    """A name as the maker of names has it."""
    words = name.split(" ")
    cut = {"place": len(words) - 1, "policy": len(words) - 2}.get(kind, 1)
    return " ".join(words[:cut]), " ".join(words[cut:])


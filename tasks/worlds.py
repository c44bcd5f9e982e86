"""Fictional worlds: seeded documents about invented entities, and questions whose answers are nowhere else.

Nothing in a world can be memorised from another one, so reading the documents is the only way to answer.
Same config, same world, byte for byte. A world of 200 entities takes some 15 ms: training can draw one per batch.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tasks.world_names import NameMaker, Parts, draw_value, join
from tasks.world_open import OPEN_VALUES, open_relations, open_value
from tasks.world_records import RELATIONS, Fact, Question, World, WorldConfig, full_name, select
from tasks.world_templates import FILLERS

# how often each type is drawn; organisations come before policies, which are named after them
TYPE_WEIGHTS = {"person": 28, "place": 18, "organisation": 16, "product": 14, "policy": 10, "work": 14}


OPENINGS = ("Please: ", "A question: ", "Hello. ", "Quick one: ", "I wonder. ")
# of documents that say only in their text what they are about
UNTOLD_TITLES = ("{noun} manual", "{noun} guide", "Notes", "Page {page}", "{noun}", "Questions and answers",
                 "{noun} details", "Sheet {page}: {noun}")


@dataclass
class _Entity:
    type: str
    parts: Parts
    name: str
    noun: str                           # "town", "lamp", "novel"
    full: dict[str, str]                # slot -> full name
    references: list[dict[str, str]]    # slot -> "she", "it" or "the town"
    facts: dict[str, str] = field(default_factory=dict)     # relation -> value
    known: set[str] = field(default_factory=set)            # relations that are stated, or already asked in vain


def make_world(config: WorldConfig, *, exclude_names: Collection[str] = ()) -> World:
    """The world of this config. No name in it, asked or stated, is in `exclude_names` (pass a set or frozenset)."""
    return _Maker(config, exclude_names).make()


def answers_of(value: str) -> tuple[str, ...]:
    """The value as stated, then the bare number where it has a unit: "30 days", "30"."""
    number, _, unit = value.partition(" ")
    return (value, number) if unit in ("crowns", "days") else (value,)


@lru_cache(maxsize=4096)
def _split(templates: tuple[str, ...], wordings: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(template.split("{V}")) for template in select(templates, wordings))


def _slots(subject: str, possessive: str, obj: str) -> dict[str, str]:
    upper = {"S": subject[0].upper() + subject[1:], "P": possessive[0].upper() + possessive[1:]}
    return {"s": subject, "p": possessive, "o": obj, **upper}


class _Maker:
    """The making of one world: names, then facts, documents and questions, all from one stream of random numbers."""

    def __init__(self, config: WorldConfig, exclude_names: Collection[str]) -> None:
        self.config = config
        self.rng = random.Random(f"world {config.seed}")
        self.names = NameMaker(self.rng, exclude_names)
        self.relations: dict[str, list[str]] = {}
        kinds = {name.partition(".")[0] for name in config.relations or RELATIONS}
        more = open_relations(config.seed, sorted(kinds), config.open_relations, config.open_words)
        self.wordings = RELATIONS | more
        for relation in dict.fromkeys([*(config.relations or RELATIONS), *more]):
            self.relations.setdefault(relation.partition(".")[0], []).append(relation)
        self.parts: dict[str, list[Parts]] = {type_: [] for type_ in TYPE_WEIGHTS}      # of entities
        self.outside: dict[str, list[str]] = {type_: [] for type_ in TYPE_WEIGHTS}      # mentioned, without a document
        self.entities: list[_Entity] = []
        self.documents: list[dict[str, Any]] = []
        self.facts: list[Fact] = []

    def make(self) -> World:
        self._make_entities()
        for position, entity in enumerate(self.entities):
            self._make_document(f"w{self.config.seed}-{position:04d}", entity)
        questions = self._make_questions()
        return World(self.config, self.documents, questions, self.facts, frozenset(self.names.used),
                     self.wordings)

    def _make_entities(self) -> None:
        types = [type_ for type_ in TYPE_WEIGHTS if type_ in self.relations]
        drawn = self.rng.choices(types, [TYPE_WEIGHTS[type_] for type_ in types], k=self.config.num_entities)
        for type_ in sorted(drawn, key=types.index):
            parts = self._name(type_)
            self.parts[type_].append(parts)
            if type_ == "organisation":
                self.names.organisations.append(join(parts))
            self.entities.append(self._entity(type_, parts))
        self.rng.shuffle(self.entities)

    def _entity(self, type_: str, parts: Parts) -> _Entity:
        name = join(parts)
        if type_ == "person":
            pronouns = self.rng.choice((("she", "her", "her"), ("he", "his", "him")))
            return _Entity(type_, parts, name, "person", _slots(name, f"{name}'s", name), [_slots(*pronouns)])
        nouns = {"place": "town", "policy": "policy", "work": self.rng.choice(("book", "novel", "play"))}
        noun = nouns.get(type_) or parts[1].lower()
        the = f"the {noun}"
        references = [_slots("it", "its", the), _slots(the, f"{the}'s", the)]
        full = full_name(type_, name)
        return _Entity(type_, parts, name, noun, _slots(full, f"{full}'s", full), references)

    def _make_document(self, id_: str, entity: _Entity) -> None:
        config, rng = self.config, self.rng
        relations = self.relations[entity.type]
        num_facts = rng.randint(config.min_facts, config.max_facts)
        sentences: list[tuple[str, str, str, str]] = []         # relation, before the value, value, after it
        for relation in rng.sample(relations, min(num_facts, len(relations))):
            slots = self._refer(entity) if sentences else entity.full
            value = entity.facts[relation] = self._value(entity, self.wordings[relation][0])
            before, after = rng.choice(_split(self.wordings[relation][1], config.statement_wordings))
            sentences.append((relation, before.format_map(slots), value, after.format_map(slots)))
        self._add_fillers(entity, sentences)
        content = ""
        for relation, before, value, after in sentences:
            content += (" " if content else "") + before
            if relation:
                self.facts.append(Fact(entity.name, relation, value, id_, len(content)))
            content += value + after
        self.documents.append({
            "id": id_, "title": self._title(entity), "content": content, "source": f"world-{config.seed}",
            "metadata": {"type": entity.type},
        })

    def _refer(self, entity: _Entity) -> dict[str, str]:
        return self.rng.choice(entity.references) if self.rng.random() < self.config.pronoun_share else entity.full

    def _add_fillers(self, entity: _Entity, sentences: list[tuple[str, str, str, str]]) -> None:
        config, rng = self.config, self.rng
        num_words = sum(sum(map(len, map(str.split, sentence[1:]))) for sentence in sentences)
        wanted = rng.random() < config.filler_share
        for template in rng.sample(FILLERS, 2):
            if not wanted and num_words >= config.min_words:
                return
            text = template.format(**self._refer(entity), M=rng.choice(self.entities).full["o"])
            # a mention of somebody else comes last: a fact about "she" right after it would be about the wrong one
            place = len(sentences) if "{M}" in template else rng.randint(1, len(sentences))
            sentences.insert(place, ("", text, "", ""))
            num_words += len(text.split())
            wanted = False

    def _title(self, entity: _Entity) -> str:
        if self.config.untold_title_share and self.rng.random() < self.config.untold_title_share:
            return self.rng.choice(UNTOLD_TITLES).format(noun=entity.noun.capitalize(), page=self.rng.randint(2, 99))
        draw = self.rng.random()
        if draw < 0.6:
            return entity.name
        return f"{entity.name} ({entity.noun})" if draw < 0.85 else f"About {entity.full['o']}"

    def _value(self, entity: _Entity, kind: str) -> str:
        if kind in OPEN_VALUES:
            return open_value(self.rng, kind, self.config.open_words)
        if kind not in self.parts:
            return draw_value(self.rng, self.names, kind)
        kin = self.parts[kind]
        if kin and self.rng.random() < self.config.mention_share:
            name = join(self.rng.choice(kin))
            if name != entity.name:
                return name
        name = join(self._name(kind))
        self.outside[kind].append(name)
        return name

    def _name(self, type_: str) -> Parts:
        if self.rng.random() < self.config.shared_name_share:
            return self.names.relative(type_, self.parts[type_])
        return self.names.fresh(type_)

    def _make_questions(self) -> list[Question]:
        config, rng, questions = self.config, self.rng, []
        for entity, document in zip(self.entities, self.documents, strict=True):
            facts = rng.sample(list(entity.facts), min(config.questions_per_entity, len(entity.facts)))
            entity.known.update(entity.facts)
            for relation in facts:
                id_ = f"w{config.seed}-q{len(questions):04d}"
                if rng.random() < config.unanswerable_share:
                    questions.append(self._unanswerable(id_, entity, relation))
                    continue
                text = self._ask(relation, entity.full["o"])
                answers = answers_of(entity.facts[relation])
                ids = (document["id"],)
                questions.append(Question(id_, text, answers, ids, 1, "answerable", relation, entity.name))
        return questions

    def _ask(self, relation: str, name: str) -> str:
        asked = self.rng.choice(select(self.wordings[relation][2], self.config.question_wordings))
        if self.config.casual_share and self.rng.random() < self.config.casual_share:
            asked = self._casual(asked)
        return asked.format(N=name)

    def _casual(self, asked: str) -> str:
        """As people type in passing: no capital, no mark at the end, or a word before it."""
        is_name_first = asked.startswith("{")
        if self.rng.random() < 0.3 and not is_name_first:
            return self.rng.choice(OPENINGS) + asked
        asked = asked.rstrip("?.") if self.rng.random() < 0.8 else asked
        return asked if is_name_first or self.rng.random() < 0.2 else asked[0].lower() + asked[1:]

    def _unanswerable(self, id_: str, entity: _Entity, relation: str) -> Question:
        rng = self.rng
        missing = [relation for relation in self.relations[entity.type] if relation not in entity.known]
        # some documents state everything, so more than half of the others are asked for what they lack
        if missing and rng.random() < 0.6:
            relation = rng.choice(missing)
            entity.known.add(relation)
            text = self._ask(relation, entity.full["o"])
            return Question(id_, text, (), (), 1, "absent_relation", relation, entity.name)
        # one in four is mentioned as a value somewhere, the others only look like a name of this world
        outside = self.outside[entity.type]
        if outside and rng.random() < 0.25:
            name = outside.pop(rng.randrange(len(outside)))
        else:
            name = join(self.names.relative(entity.type, self.parts[entity.type]))
        text = self._ask(relation, full_name(entity.type, name))
        return Question(id_, text, (), (), 1, "absent_entity", relation, name)

"""Knowledge bases of a suite, generated: fresh ones, those of training, and the latter with changed facts."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite.material import LEXICAL, Material, in_memory, sample
from nanochat.rag.curriculum import FIRST_SEED, HELD_OUT_SEED, SEEDS_PER_STEP, STEPS_PER_WORLD
from nanochat.rag.practice import STAGES
from tasks.world_records import RELATIONS, Question, World, WorldConfig
from tasks.world_templates import HELD_OUT
from tasks.worlds import answers_of, make_world

FRESH_SEED = 2 * 10**9    # beyond the seeds of training and of its gates
ENTITIES = 200            # of one world; a knowledge base is made of several
STAGE = "documents"       # the rung of practice whose documents are like those of use
# what each script adds to its seed for the worlds
_SEED_AFTER = {"base": 0, "mid": 1, "rag": 2}
_WITH_ARTICLE = ("product", "policy")


def world_config(seed: int, **changes: Any) -> WorldConfig:
    """The world that everything is measured on: the same whatever practice looks like, so that cards compare."""
    return WorldConfig(seed=seed, num_entities=ENTITIES, questions_per_entity=6, unanswerable_share=0.35, **changes)


def trained_config(seed: int) -> WorldConfig:
    """A world of the last stage of practice."""
    return WorldConfig(**{"seed": seed, "num_entities": ENTITIES, "questions_per_entity": 6} | STAGES[STAGE].world)


def trained_seeds(meta: Mapping[str, Any], count: int) -> list[int]:
    """Seeds of worlds that a checkpoint's last training practised on, latest first; [] when its record does not say."""
    config, curriculum = meta.get("config"), meta.get("curriculum")
    if not isinstance(config, Mapping) or not isinstance(curriculum, Mapping) or not isinstance(meta.get("step"), int):
        return []
    seed = curriculum.get("seed", config.get("seed", 0) + _SEED_AFTER.get(str(meta.get("source")), 2))
    last = max(0, meta["step"] - 1) // STEPS_PER_WORLD
    numbers = [seed * 1_000_003 + turn * SEEDS_PER_STEP for turn in range(last, max(-1, last - count), -1)]
    return [FIRST_SEED + number % (HELD_OUT_SEED - FIRST_SEED) for number in numbers]


def make_worlds(seeds: Sequence[int], *, exclude: Collection[str] = (), **changes: Any) -> list[World]:
    """Worlds without a name in common with `exclude` or with each other."""
    worlds: list[World] = []
    names = set(exclude)
    for seed in seeds:
        worlds.append(make_world(world_config(seed, **changes), exclude_names=names))
        names |= worlds[-1].names
    return worlds


def repeat_worlds(seeds: Sequence[int]) -> list[World]:
    """Worlds exactly as training made them. What shares a name with an earlier one is not asked about, and neither is
    what fresh worlds do not have: open relations, and documents whose title does not name their subject.
    """
    worlds: list[World] = []
    names: set[str] = set()
    for seed in seeds:
        world = make_world(trained_config(seed))
        titles = {one["id"]: one["title"] for one in world.documents}
        told = {fact.subject for fact in world.facts if fact.subject in titles[fact.document_id]}
        strangers = {one.subject for one in world.questions if one.kind == "absent_entity"}
        questions = [one for one in world.questions if one.subject not in names and one.relation in RELATIONS
                     and one.subject in told | strangers]
        worlds.append(replace(world, questions=questions))
        names |= world.names
    return worlds


def altered(worlds: Sequence[World], rng: random.Random) -> list[World]:
    """The same entities, documents and questions, with another value of its relation for every fact."""
    values: dict[str, list[str]] = {}
    for fact in (fact for world in worlds for fact in world.facts):
        values.setdefault(fact.relation, []).append(fact.value)
    return [_altered(world, values, rng) for world in worlds]


def _altered(world: World, values: Mapping[str, list[str]], rng: random.Random) -> World:
    contents = {one["id"]: one["content"] for one in world.documents}
    changed: dict[tuple[str, str], str] = {}
    # from the back, so that the places of earlier facts stay
    for fact in sorted(world.facts, key=lambda fact: (fact.document_id, -fact.start)):
        others = [value for value in values[fact.relation] if value != fact.value]
        new = rng.choice(others) if others else fact.value
        content = contents[fact.document_id]
        contents[fact.document_id] = content[: fact.start] + new + content[fact.start + len(fact.value) :]
        changed[fact.subject, fact.relation] = new
    documents = [one | {"content": contents[one["id"]]} for one in world.documents]
    questions = [
        replace(one, answers=answers_of(changed[one.subject, one.relation])) if one.answers else one
        for one in world.questions
    ]
    return replace(world, documents=documents, questions=questions)


def reworded(question: Question, world: World, rng: random.Random) -> str:
    """A question of a world in a wording that training never uses."""
    is_named = question.relation.partition(".")[0] not in _WITH_ARTICLE
    name = question.subject if is_named else f"the {question.subject}"
    return rng.choice(world.relations[question.relation][2][-HELD_OUT:]).format(N=name)


def world_material(
    name: str, worlds: Sequence[World], *, retriever_type: str, num_answerable: int, num_unanswerable: int,
    calibration: int = 0, seed: int = 0, same_as: Material | None = None, retrievers: Sequence[str] = LEXICAL,
    without: Collection[str] = (),
) -> Material:
    """Worlds as one knowledge base. `same_as` asks the questions, by id, that another material asks; `without` leaves
    questions out by id.
    """
    documents = [one for world in worlds for one in world.documents]
    originals = {one.id: (one, world) for world in worlds for one in world.questions}
    questions = [EvalQuestion(id=one.id, question=one.question, answers=one.answers, hops=one.hops,
                              supporting_ids=one.supporting_ids, kind=one.relation)
                 for one, _ in originals.values() if one.id not in without]
    rng = random.Random(f"suite {name} {seed}")
    if same_as is None:
        answerable, unanswerable = sample(questions, num_answerable, num_unanswerable, rng)
    else:
        by_id = {one.id: one for one in questions}
        answerable, unanswerable = ([by_id[one.id] for one in sort]
                                    for sort in (same_as.answerable, same_as.unanswerable))
    # in their order, and not in that of a set, which differs from process to process
    asked = dict.fromkeys(one.id for one in (*answerable, *unanswerable))
    rest = [one for one in questions if one.id not in asked]
    kept = [one for sort in sample(rest, calibration, calibration // 3, rng) for one in sort]
    return Material(
        name=name, documents=documents, answerable=answerable, unanswerable=unanswerable,
        retriever_type=retriever_type, search=in_memory(documents, retriever_type), calibration=kept,
        searches={other: lambda other=other: in_memory(documents, other) for other in retrievers}, is_world=True,
        reworded={id: reworded(*originals[id], rng) for id in asked},
    )

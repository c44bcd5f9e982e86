"""Conditions that choose which documents are shown: none, found, evidence alone or among others, more or fewer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.evaluation.conditions import Document
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite.material import Material
from nanochat.evaluation.suite.prompts import Cell, Prompt, prompt

NUM_DISTRACTORS = (1, 2, 4, 9)
TOP_KS = (1, 2, 3, 5, 8)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What builders need beside the material."""

    top_k: int = 5
    seed: int = 0

    def rng(self, name: str) -> random.Random:
        """Random numbers of one condition: adding another changes none of them."""
        return random.Random(f"{name} {self.seed}")


def _everybody(material: Material) -> list[EvalQuestion]:
    return [*material.answerable, *material.unanswerable]


def closed_book(material: Material, drawing: Drawing) -> list[Cell]:
    prompts = [prompt(question, None) for question in _everybody(material)]
    return [Cell(name="closed_book", condition="closed_book", prompts=prompts)]


def empty(material: Material, drawing: Drawing) -> list[Cell]:
    prompts = [prompt(question, (), answers=()) for question in _everybody(material)]
    return [Cell(name="empty", condition="empty", prompts=prompts)]


def retrieved(material: Material, drawing: Drawing) -> list[Cell]:
    prompts = [prompt(question, material.retrieved(question, drawing.top_k)) for question in _everybody(material)]
    return [Cell(name="retrieved", condition="retrieved", prompts=prompts)]


def oracle(material: Material, drawing: Drawing) -> list[Cell]:
    prompts = [prompt(question, material.gold(question)) for question in material.known]
    return [Cell(name="oracle", condition="oracle", prompts=prompts)]


def wrong(material: Material, drawing: Drawing) -> list[Cell]:
    # where nothing else is found this would be the empty result
    prompts = [prompt(question, documents, answers=()) for question in material.known
               if (documents := material.distractors(question, drawing.top_k))]
    return [Cell(name="wrong", condition="wrong", prompts=prompts)]


def no_question(material: Material, drawing: Drawing) -> list[Cell]:
    prompts = [prompt(question, among(material, question, drawing.top_k - 1, drawing.rng(f"no question {question.id}")),
                      asked="?") for question in material.known]
    return [Cell(name="no_question", condition="no_question", prompts=prompts)]


def hard(material: Material, drawing: Drawing) -> list[Cell]:
    return [Cell(name=f"hard_{count}", condition="hard", step=count, prompts=[
        prompt(question, among(material, question, count, drawing.rng(f"hard {count} {question.id}")))
        for question in material.known]) for count in NUM_DISTRACTORS]


def random_documents(material: Material, drawing: Drawing) -> list[Cell]:
    cells = []
    for count in NUM_DISTRACTORS:
        prompts = []
        for question in material.known:
            rng = drawing.rng(f"random {count} {question.id}")
            prompts.append(prompt(question, shuffled(
                [*material.gold(question), *material.random_documents(question, count, rng)], rng)))
        cells.append(Cell(name=f"random_{count}", condition="random", step=count, prompts=prompts))
    return cells


def top_k(material: Material, drawing: Drawing) -> list[Cell]:
    return [Cell(name=f"top_{count}", condition="top_k", step=count, prompts=[
        prompt(question, material.retrieved(question, count)) for question in _everybody(material)])
        for count in TOP_KS]


def position(material: Material, drawing: Drawing) -> list[Cell]:
    """The same documents every time, the evidence at each place in turn; questions of one document only."""
    prompts: list[list[Prompt]] = [[] for _ in range(drawing.top_k)]
    for question in material.known:
        gold, others = material.gold(question), material.distractors(question, drawing.top_k - 1)
        if len(gold) == 1 and len(others) == drawing.top_k - 1:
            for place in range(drawing.top_k):
                prompts[place].append(prompt(question, [*others[:place], *gold, *others[place:]]))
    return [Cell(name=f"position_{place}", condition="position", step=place, prompts=asked)
            for place, asked in enumerate(prompts, start=1)]


def among(material: Material, question: EvalQuestion, count: int, rng: random.Random) -> list[Document]:
    """The evidence among so many hard distractors, in random order."""
    return shuffled([*material.gold(question), *material.distractors(question, count)], rng)


def shuffled(documents: Sequence[Document], rng: random.Random) -> list[Document]:
    return rng.sample(list(documents), len(documents))

"""How much a suite asks, and the generated knowledge bases that it asks about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nanochat.errors import UserError
from nanochat.evaluation.suite.hops import chain_material
from nanochat.evaluation.suite.material import LEXICAL, Material
from nanochat.evaluation.suite.reading import Drawing
from nanochat.evaluation.suite.trained import trained_names
from nanochat.evaluation.suite.worlds import (
    FRESH_SEED,
    altered,
    make_worlds,
    repeat_worlds,
    trained_seeds,
    world_material,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much a suite asks."""

    answerable: int      # per cell
    unanswerable: int
    num_worlds: int      # of 200 documents each, in every generated knowledge base
    calibration: int     # answerable questions kept to choose the threshold on
    swapped: int         # answerable questions where knowledge bases are compared: pairs would need fewer
    retrievers: tuple[str, ...] = LEXICAL  # for the worlds; what is not installed is left out with a note


SUITES: dict[str, Size] = {
    "quick": Size(150, 50, 2, 120, 300),
    "full": Size(1000, 330, 4, 400, 1000, (*LEXICAL, "dense", "hybrid")),
}


def size_of(suite: str, max_questions: int = -1) -> Size:
    """How much a suite asks, cut to `max_questions`. Raises UserError for an unknown suite."""
    if suite not in SUITES:
        raise UserError(f"Unknown suite: {suite!r}", hint=f"choose from {', '.join(SUITES)}")
    size = SUITES[suite]
    if 0 < max_questions < size.answerable:
        return replace(size, answerable=max_questions, unanswerable=-(-max_questions // 3),
                       calibration=min(size.calibration, max_questions), swapped=min(size.swapped, max_questions))
    return size


def make_materials(
    size: Size, meta: Mapping[str, Any], retriever_type: str, seed: int, note: Say
) -> dict[str, Material]:
    """The generated knowledge bases: fresh, that of training, the same with changed facts, and other wordings."""
    # worlds of some hundred documents are indexed in memory; an encoder would take longer than the model
    kind = retriever_type if retriever_type in LEXICAL else "bm25"
    first = FRESH_SEED + 1000 * seed
    trained = repeat_worlds(trained_seeds(meta, size.num_worlds))
    if not trained:
        note("the checkpoint does not say which worlds it was trained on: what it loses on others is not measured")
    exclude = trained_names(meta, note)
    fresh = make_worlds([first + one for one in range(size.num_worlds)], exclude=exclude)
    unheard = make_worlds([first + 100 + one for one in range(size.num_worlds)], exclude=exclude,
                          statement_wordings="held_out", question_wordings="held_out")
    asked = {"retriever_type": kind, "num_answerable": size.answerable, "num_unanswerable": size.unanswerable,
             "seed": seed}
    many = asked | {"num_answerable": size.swapped}
    materials = {
        "fresh": world_material("fresh", fresh, calibration=size.calibration, retrievers=size.retrievers, **asked),
    }
    # its threshold was chosen on the kept ones
    kept = frozenset(one.id for one in materials["fresh"].calibration)
    materials["unseen"] = world_material("unseen", fresh, without=kept, **many)
    if trained:
        materials["trained"] = world_material("trained", trained, **many)
        changed = altered(trained, Drawing(seed=seed).rng("altered"))
        materials["altered"] = world_material("altered", changed, same_as=materials["trained"], **many)
    materials["wordings"] = world_material("wordings", unheard, **asked)
    materials["chains"] = chain_material(
        [first + 200 + one for one in range(size.num_worlds)], kind, num_answerable=size.answerable,
        num_unanswerable=size.unanswerable, seed=seed, exclude=exclude)
    return materials

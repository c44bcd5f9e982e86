"""Running a suite: materials, calibration, every condition, the columns beside it, and the tests between them."""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.errors import UserError
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.runner import Answerer
from nanochat.evaluation.statistics import Estimate, holm, mcnemar, paired_difference
from nanochat.evaluation.suite import abstaining, measures
from nanochat.evaluation.suite.abstaining import Calibration
from nanochat.evaluation.suite.conditions import COLUMN_CONDITIONS, CONDITIONS
from nanochat.evaluation.suite.judging import Asker, Judged
from nanochat.evaluation.suite.material import LEXICAL, Material, own_material
from nanochat.evaluation.suite.reading import Drawing
from nanochat.evaluation.suite.trained import trained_names
from nanochat.evaluation.suite.trials import cited_cells, deletion_cells, retriever_cells, timed
from nanochat.evaluation.suite.worlds import (
    FRESH_SEED,
    altered,
    make_worlds,
    repeat_worlds,
    trained_seeds,
    world_material,
)
from nanochat.retrieval import RetrievalManager

Say = Callable[[str], None]
# cells of one material, by name
Answered = dict[str, list[Judged]]


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


@dataclass(kw_only=True)
class SuiteResult:
    """All answers of a run and what they add up to."""

    suite: str
    name: str                                                      # of the model's own column
    materials: Mapping[str, Material]
    columns: dict[str, dict[str, Answered]] = field(default_factory=dict)   # column -> material -> cell -> answers
    calibrations: Mapping[str, Calibration]                        # of "fresh", and of "yours" where it was asked
    forced: dict[str, list[Judged]] = field(default_factory=dict)  # material -> answers where it may not abstain
    cost: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calibration(self) -> Calibration:
        """The one for use: on the user's questions where they were asked."""
        return self.calibrations.get("yours", self.calibrations["fresh"])

    def numbers(self, column: str = "") -> dict[str, Estimate | None]:
        """Every number of a column, by default the model's own: "fresh.retrieved.exact_match", "fresh.lift"."""
        materials = self.columns[column or self.name]
        numbers: dict[str, Estimate | None] = {}
        for name, cells in materials.items():
            for cell, judged in cells.items():
                for metric, estimate in measures.cell_numbers(judged).items():
                    numbers[f"{name}.{cell}.{metric}"] = estimate
            mine = measures.combined(cells)
            mine["prior"] = measures.prior(cells.get("retrieved", ()))
            mine |= measures.hop_numbers(cells.get("retrieved", ()))
            if not column or column == self.name:
                mine["risk_area"] = abstaining.risk_area(self.forced.get(name, ()))
            numbers |= {f"{name}.{key}": estimate for key, estimate in mine.items()}
        numbers |= {f"fresh.{key}": estimate for key, estimate in measures.swap_numbers(materials).items()}
        return {key: estimate for key, estimate in numbers.items() if estimate is not None}


def run_suite(
    engine: Answerer,
    *,
    suite: str = "quick",
    name: str = "this model",
    meta: Mapping[str, Any] | None = None,
    knowledge_base: RetrievalManager | None = None,
    questions: Sequence[EvalQuestion] = (),
    columns: Mapping[str, Answerer] | None = None,
    top_k: int = 5,
    retriever_type: str = "bm25",
    max_tokens: int = 32,
    batch_size: int = 32,
    max_questions: int = -1,
    seed: int = 0,
    progress: Say = lambda line: None,
) -> SuiteResult:
    """Ask every condition of a suite and judge the answers.

    The generated knowledge bases are always asked about; with `questions`, the user's `knowledge_base` too. columns:
    other engines by name, which answer the conditions that compare models (in the full suite, all that are prompts).
    meta: the checkpoint's, from which the worlds of its training are known. max_questions: answerable questions per
    cell, -1 for the suite's own number. Greedy decoding, and every draw from `seed`: the same call gives the same
    result. An engine that takes thresholds and has none is calibrated first, and what was chosen is in force for all
    that follows, as it is when a user asks. Raises UserError for an unknown suite.
    """
    size = size_of(suite, max_questions)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        progress(f"note: {line}")

    drawing = Drawing(top_k=top_k, seed=seed)
    materials = make_materials(size, meta or {}, retriever_type, seed, note)
    if questions:
        assert knowledge_base is not None, "questions without a knowledge base"
        materials["yours"] = own_material(knowledge_base, questions, num_answerable=size.answerable,
                                          num_unanswerable=size.unanswerable, seed=seed)
    asker = Asker(engine, max_tokens=max_tokens, batch_size=batch_size)
    # without a threshold to set, what the engine declined is known as that
    eager = asker.at(0.0) or asker
    calibrations = _calibrate(eager, asker, materials, drawing, progress)
    result = SuiteResult(suite=suite, name=name, materials=materials, calibrations=calibrations, notes=notes, settings={
        "top_k": top_k, "retriever_type": retriever_type, "max_tokens": max_tokens, "seed": seed,
        "answerable": size.answerable, "unanswerable": size.unanswerable,
        "answer_threshold": getattr(engine, "answer_threshold", None)})
    is_set = getattr(engine, "answer_threshold", None) is not None
    askers: dict[str, Asker] = {}
    for key, calibration in calibrations.items():
        is_free = calibration.threshold is not None and not is_set
        askers[key] = (asker.at(calibration.threshold) if is_free else None) or asker
    result.columns[name] = {
        key: _answer(askers.get(key, askers["fresh"]), material, drawing,
                     list(CONDITIONS) if key in ("fresh", "yours") else ["retrieved"], progress, note)
        for key, material in materials.items()}
    result.cost = _cost(askers, result.columns[name])
    for key in ("fresh", "yours"):
        if key in materials:
            judged = measures.abstention_set(result.columns[name][key])
            result.forced[key] = eager.ask([one.prompt for one in judged])
    for column, other in (columns or {}).items():
        beside = Asker(other, max_tokens=max_tokens, batch_size=batch_size)
        names = list(CONDITIONS) if suite == "full" else list(COLUMN_CONDITIONS)
        result.columns[column] = {
            key: _answer_prompts(beside, material, drawing, names, progress, f"{column}, {key}, ")
            for key, material in materials.items() if key in ("fresh", "yours")}
    return result


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
    return materials


def _calibrate(
    eager: Asker, asker: Asker, materials: Mapping[str, Material], drawing: Drawing, progress: Say
) -> dict[str, Calibration]:
    """A threshold for the worlds, and one for the user's questions, which is the former where too few were kept."""
    found: dict[str, Calibration] = {}
    for name in ("fresh", "yours"):
        if name in materials:
            prompts = abstaining.calibration_prompts(materials[name], drawing)
            found[name] = abstaining.calibrate(eager.ask(prompts), asker.ask(prompts),
                                               given=getattr(asker.engine, "answer_threshold", None))
            progress(f"{name}, threshold: {found[name].threshold} ({found[name].why})")
    if "yours" in found and found["yours"].best is None:
        found["yours"] = replace(found["fresh"], why=f"{found['fresh'].why}, of worlds: {found['yours'].why}")
    return found


def _answer(
    asker: Asker, material: Material, drawing: Drawing, conditions: Sequence[str], progress: Say, note: Say
) -> Answered:
    """Every condition of one material, trials included."""
    prefix = f"{material.name}, "
    cells = _answer_prompts(asker, material, drawing, conditions, progress, prefix)
    if "alone" in conditions:
        cells |= asker.ask_cells(cited_cells(cells["retrieved"]), progress, prefix)
    if "retriever" in conditions:
        cells |= asker.ask_cells(retriever_cells(material, drawing, note), progress, prefix)
    if "deleted" in conditions:
        count = max(1, len(material.known) // 3)
        cells |= asker.ask_cells(deletion_cells(asker, material, drawing, note, count), progress, prefix)
    return cells


def _answer_prompts(
    asker: Asker, material: Material, drawing: Drawing, conditions: Sequence[str], progress: Say, prefix: str
) -> Answered:
    cells: Answered = {}
    for name in conditions:
        if (build := CONDITIONS[name].build) is not None:
            cells |= asker.ask_cells(build(material, drawing), progress, prefix)
    return cells


def _cost(askers: Mapping[str, Asker], materials: Mapping[str, Answered]) -> dict[str, Any]:
    """What answering costs, on the user's questions where they were asked."""
    name = "yours" if "yours" in askers else "fresh"
    judged = materials[name]["retrieved"]
    # kilobytes on Linux, bytes on a Mac
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        # several materials may share one
        "prompts_asked": sum(asker.num_asked for asker in {id(one): one for one in askers.values()}.values()),
        "prompt_tokens": _mean([one.num_prompt_tokens for one in judged]),
        "answer_tokens": _mean([one.num_tokens for one in judged]),
        "answer": timed(askers[name], [one.prompt for one in judged]),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _mean(values: Sequence[int]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


def comparisons(result: SuiteResult) -> list[dict[str, Any]]:
    """Differences of exact match on the same questions, with McNemar's p, and Holm's for all of them together."""
    own = result.columns[result.name]
    found: list[dict[str, Any]] = []

    def add(says: str, first: Mapping[str, bool], second: Mapping[str, bool]) -> None:
        both = [id for id in first if id in second]
        left, right = [first[id] for id in both], [second[id] for id in both]
        if both:
            found.append({"says": says, "difference": paired_difference(left, right).to_dict(),
                          "p": mcnemar(left, right)})

    for key in ("fresh", "yours"):
        cells = own.get(key, {})
        for one, other in (("retrieved", "closed_book"), ("oracle", "retrieved"), ("hard_4", "oracle"),
                           ("asked_wording", "retrieved"), ("asked_typo", "retrieved")):
            add(f"{key}: {one} less {other}", measures.exact(cells, one), measures.exact(cells, other))
        for column, materials in result.columns.items():
            for cell in ("retrieved", "oracle", "edited") if column != result.name and key in materials else ():
                add(f"{key}, {cell}: {result.name} less {column}", measures.exact(cells, cell),
                    measures.exact(materials[key], cell))
    add("knowledge base of training: as it was less with changed facts",
        measures.exact(own.get("trained", {}), "retrieved"), measures.exact(own.get("altered", {}), "retrieved"))
    for one, p in zip(found, holm([one["p"] for one in found]), strict=True):
        one["p_holm"] = p
    return found

"""Running a suite: materials, calibration, every condition, the columns beside it, and the tests between them."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanochat.errors import UserError
from nanochat.evaluation.card import weights_of
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.runner import Answerer
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.suite import abstaining, measures
from nanochat.evaluation.suite.abstaining import Calibration
from nanochat.evaluation.suite.conditions import COLUMN_CONDITIONS, CONDITIONS
from nanochat.evaluation.suite.hops import OWN_SEARCHES, hop_config, own_searches
from nanochat.evaluation.suite.judging import Asker, Judged
from nanochat.evaluation.suite.keeping import Kept, digest_of
from nanochat.evaluation.suite.material import Material, own_material
from nanochat.evaluation.suite.planning import Say, make_materials, size_of
from nanochat.evaluation.suite.reading import Drawing
from nanochat.evaluation.suite.trials import cited_cells, deletion_cells, retriever_cells, timed
from nanochat.retrieval import RetrievalManager

# cells of one material, by name
Answered = dict[str, list[Judged]]


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
            mine |= measures.hop_numbers(cells.get(OWN_SEARCHES, ()), "own_hops")
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
    keep_in: Path | None = None,
    depends_on: Mapping[str, Any] | None = None,
    progress: Say = lambda line: None,
) -> SuiteResult:
    """Ask every condition of a suite and judge the answers.

    The generated knowledge bases are always asked about; with `questions`, the user's `knowledge_base` too. columns:
    other engines by name, which answer the conditions that compare models (in the full suite, all that are prompts).
    meta: the checkpoint's, from which the worlds of its training are known. max_questions: answerable questions per
    cell, -1 for the suite's own number. Greedy decoding, and every draw from `seed`: the same call gives the same
    result. An engine that takes thresholds and has none is calibrated first, and what was chosen is in force for all
    that follows, as it is when a user asks.

    keep_in: a folder for the answers of finished cells. The same call takes up those that are there already, if they
    are of the same weights, questions and settings, and of the same `depends_on`: JSON values of what else answers
    depend on, such as the weights of the columns. Raises UserError for an unknown suite.
    """
    size = size_of(suite, max_questions)
    if name in (columns or {}):
        raise UserError(f"{name} was to be compared with itself", hint="name another checkpoint: --compare base/TAG")
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        progress(f"note: {line}")

    settings = {"top_k": top_k, "retriever_type": retriever_type, "max_tokens": max_tokens, "seed": seed,
                "answerable": size.answerable, "unanswerable": size.unanswerable,
                "answer_threshold": getattr(engine, "answer_threshold", None),
                "citation_threshold": getattr(engine, "citation_threshold", None),
                "second_look": getattr(engine, "second_look", False),
                "extractive": getattr(engine, "extractive", False)}
    kept = None
    # what weights they are must be known
    if keep_in is not None and (weights := weights_of(meta or {})):
        kept = _open_kept(keep_in, progress, {
            **settings, **(depends_on or {}), "weights": weights, "suite": suite, "size": vars(size),
            "questions": digest_of(questions), "columns": list(columns or {}),
            "knowledge_base": knowledge_base.knowledge_base.fingerprint if knowledge_base else ""})
    drawing = Drawing(top_k=top_k, seed=seed)
    materials = make_materials(size, meta or {}, retriever_type, seed, note)
    if questions:
        assert knowledge_base is not None, "questions without a knowledge base"
        materials["yours"] = own_material(knowledge_base, questions, num_answerable=size.answerable,
                                          num_unanswerable=size.unanswerable, seed=seed)
    asker = Asker(engine, max_tokens=max_tokens, batch_size=batch_size, name=name, kept=kept)
    # without a threshold to set, what the engine declined is known as that
    eager = asker.at(0.0, f"{name} at 0") or asker
    calibrations = _calibrate(eager, asker, materials, drawing, progress)
    result = SuiteResult(suite=suite, name=name, materials=materials, calibrations=calibrations, notes=notes,
                         settings=settings)
    askers: dict[str, Asker] = {}
    for key, calibration in calibrations.items():
        is_free = calibration.threshold is not None and settings["answer_threshold"] is None
        askers[key] = (asker.at(calibration.threshold, f"{name} calibrated on {key}") if is_free else None) or asker
    result.columns[name] = {
        key: _answer(askers.get(key, askers["fresh"]), material, drawing,
                     _conditions_of(key), progress, note)
        for key, material in materials.items()}
    hops = hop_config(engine, meta or {})
    for key in ("chains", "yours"):
        if key in materials:
            result.columns[name][key] |= own_searches(askers.get(key, askers["fresh"]), materials[key], hops, progress,
                                                      f"{key}, ")
    result.cost = _cost(askers, result.columns[name])
    for key in ("fresh", "yours"):
        if key in materials:
            judged = measures.abstention_set(result.columns[name][key])
            result.forced[key] = eager.ask([one.prompt for one in judged], f"{key}, forced")
    for column, other in (columns or {}).items():
        beside = Asker(other, max_tokens=max_tokens, batch_size=batch_size, name=column, kept=kept)
        names = list(CONDITIONS) if suite == "full" else list(COLUMN_CONDITIONS)
        result.columns[column] = {
            key: _answer_prompts(beside, material, drawing, names, progress, f"{column}, {key}, ")
            for key, material in materials.items() if key in ("fresh", "yours")}
    return result


def _conditions_of(material: str) -> list[str]:
    """Everything of the fresh worlds and the user's; of the others what tells them apart."""
    if material in ("fresh", "yours"):
        return list(CONDITIONS)
    return ["retrieved", "oracle"] if material == "chains" else ["retrieved"]


def _open_kept(folder: Path, progress: Say, run: Mapping[str, Any]) -> Kept:
    """The cells of this run, with a line about those that are there."""
    kept = Kept(folder, run)
    if kept.num_taken_up:
        progress(f"going on where a run was interrupted: {kept.num_taken_up} finished cells taken up from {folder}")
    elif kept.num_removed:
        progress(f"{kept.num_removed} cells of another run removed from {folder}")
    return kept


def _calibrate(
    eager: Asker, asker: Asker, materials: Mapping[str, Material], drawing: Drawing, progress: Say
) -> dict[str, Calibration]:
    """A threshold for the worlds, and one for the user's questions, which is the former where too few were kept."""
    found: dict[str, Calibration] = {}
    for name in ("fresh", "yours"):
        if name in materials:
            prompts = abstaining.calibration_prompts(materials[name], drawing)
            found[name] = abstaining.calibrate(eager.ask(prompts, f"{name}, calibration"),
                                               asker.ask(prompts, f"{name}, calibration"),
                                               given=getattr(asker.engine, "answer_threshold", None))
            progress(f"{name}, threshold: {found[name].threshold} ({found[name].why})")
    if "yours" in found and found["yours"].best is None and found["fresh"].best is not None:
        found["yours"] = replace(
            found["fresh"], why=f"that of the worlds, because {found['yours'].why}; {found['fresh'].why}")
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

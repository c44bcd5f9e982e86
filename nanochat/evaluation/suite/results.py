"""Everything a card rests on, as plain JSON values: numbers, verdicts, comparisons, episodes, and the run."""

import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from nanochat.evaluation.suite import abstaining
from nanochat.evaluation.suite.comparing import comparisons
from nanochat.evaluation.suite.episodes import choose_episodes
from nanochat.evaluation.suite.running import SuiteResult
from nanochat.evaluation.suite.thresholds import Thresholds, judge_numbers

SCHEMA = "nanochat-rag-suite"
VERSION = 1


def make_results(
    result: SuiteResult, thresholds: Thresholds, *, checkpoint: Mapping[str, Any],
    environment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of results.json; the page and the card are made from nothing else."""
    own = result.columns[result.name]
    numbers = {column: result.numbers(column) for column in result.columns}
    verdicts = [one.to_dict() for one in judge_numbers(thresholds, numbers[result.name])]
    # the user's own documents say more than invented ones
    shown = "yours" if "yours" in own else "fresh"
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "suite": result.suite,
        "name": result.name,
        "checkpoint": dict(checkpoint),
        "settings": dict(result.settings),
        "materials": {
            name: {
                "num_documents": len(material.documents), "answerable": len(material.answerable),
                "unanswerable": len(material.unanswerable), "retriever_type": material.retriever_type,
                "fingerprint": material.fingerprint,
                # distractors that state an accepted answer, and the questions they were left out of
                "left_out": {"documents": len(material.left_out),
                             "questions": len({question for question, _ in material.left_out})},
            } for name, material in result.materials.items()
        },
        "thresholds": {
            "path": thresholds.path, "sha256": thresholds.sha256,
            "passed": all(one["outcome"] == "pass" for one in verdicts), "lines": verdicts,
        },
        "calibration": result.calibration.to_dict(),
        "calibrations": {name: one.to_dict() for name, one in result.calibrations.items()},
        "numbers": {
            column: {key: estimate.to_dict() for key, estimate in mine.items() if estimate is not None}
            for column, mine in numbers.items()
        },
        "comparisons": comparisons(result),
        "risk_curves": {
            name: abstaining.risk_curve(judged) for name, judged in result.forced.items()
        },
        "cost": result.cost,
        "episodes": choose_episodes(own[shown]),
        "episodes_of": shown,
        "notes": [*result.notes, *_cut_notes(result)],
        "environment": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            **(environment or {}),
        },
    }


def _cut_notes(result: SuiteResult) -> list[str]:
    """Cells in which the model's context was too short for what it should have been shown."""
    notes = []
    for name, cells in result.columns[result.name].items():
        for cell, judged in cells.items():
            cut = sum(one.num_cut > 0 for one in judged)
            lost = sum(one.evidence_shown is False and one.prompt.recall == 1 for one in judged)
            if cut:
                notes.append(f"{name}.{cell}: documents were cut for the model's context in {cut} of {len(judged)} "
                             f"prompts, and {lost} lost evidence by it")
    return notes


def answer_records(result: SuiteResult) -> Iterator[dict[str, Any]]:
    """Every answer of every column, one record each; documents by id only."""
    for column, materials in result.columns.items():
        for material, cells in materials.items():
            for cell, judged in cells.items():
                for one in judged:
                    yield {
                        "column": column, "material": material, "cell": cell, "id": one.prompt.id,
                        "question": one.prompt.question, "right": list(one.prompt.answers),
                        "evidence": list(one.prompt.evidence), "shown": [str(shown["id"]) for shown in one.shown],
                        "text": one.text, "abstained": one.abstained, "probability": one.probability,
                        "citations": [citation.id for citation in one.citations], "is_right": one.is_right,
                        "exact": one.exact, "f1": one.f1,
                    }


def make_card_record(results: Mapping[str, Any], *, report: str, knowledge_base: Mapping[str, Any]) -> dict[str, Any]:
    """What card.json holds: the verdicts, the numbers made of several cells, and the main cells' own."""
    kept = ("exact_match", "abstention", "citation_f1")
    main = ("closed_book", "retrieved", "oracle", "hard_4", "wrong", "edited")
    numbers = results["numbers"][results["name"]]
    summary = {
        key: value for key, value in numbers.items()
        if key.count(".") == 1 or (key.split(".")[1] in main and key.split(".")[2] in kept)
    }
    return {
        "checkpoint": results["checkpoint"],
        "suite": results["suite"],
        "finished": results["environment"]["finished"],
        "knowledge_base": dict(knowledge_base),
        "answer_threshold": results["calibration"]["threshold"],
        "calibration": results["calibration"],
        "thresholds": results["thresholds"],
        "summary": summary,
        "cost": results["cost"],
        "settings": results["settings"],
        "report": report,
    }

"""Tests between cells and columns of a suite that were asked the same questions."""

from collections.abc import Mapping
from typing import Any

from nanochat.evaluation.statistics import holm, mcnemar, paired_difference
from nanochat.evaluation.suite import measures
from nanochat.evaluation.suite.running import SuiteResult


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
                           ("asked_wording", "retrieved"), ("asked_typo", "retrieved"), ("asked_mended", "retrieved")):
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

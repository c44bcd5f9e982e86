"""Names of the numbers of a suite, so that a threshold for one that does not exist is told at once."""

import difflib
import re
from functools import cache

from nanochat.evaluation.suite.changing import INJECTIONS
from nanochat.evaluation.suite.measures import CELL_METRICS, COMBINED
from nanochat.evaluation.suite.reading import NUM_DISTRACTORS, TOP_KS
from nanochat.retrieval import RETRIEVERS

# every condition is asked of these, of the others only what was retrieved
_CHAINED = ("chains", "yours")
_WHOLE, _RETRIEVED = ("fresh", "yours"), ("unseen", "trained", "altered", "wordings", "chains")
_CELLS = (
    "closed_book", "empty", "retrieved", "oracle", "wrong", "no_question", "edited", "contradiction", "not_injected",
    "asked_wording", "asked_typo", "asked_mended", "length_half", "length_same", "length_double",
    "deleted", "cited_removed", "cited_alone", *(f"hard_{count}" for count in NUM_DISTRACTORS),
    *(f"random_{count}" for count in NUM_DISTRACTORS),
    *(f"top_{count}" for count in TOP_KS), *(f"injected_{kind}" for kind in INJECTIONS),
    *(f"retriever_{name}" for name in RETRIEVERS),
)
_OF_RETRIEVED = ("prior", "abstention_precision", "abstention_recall", "abstention_f1", "citations_valid")
_OF_CHAINS = ("own_searches_gain", "own_hops_1")
_SWAPS = ("swap_loss", "altered_loss", "wordings_loss")
# as many as there are documents shown, and as questions have
_COUNTED = re.compile(r"(?:position|(?:own_)?hops)_[1-9]\d*")


@cache
def number_names() -> frozenset[str]:
    """Every name of a number that some run may measure; of positions and hops, which go on, the first."""
    combined = [*(name for name in COMBINED if name not in (*_SWAPS, *_OF_CHAINS)),
                *(f"injection_changed_{kind}" for kind in INJECTIONS)]
    names = {f"fresh.{name}" for name in _SWAPS}
    for material in (*_WHOLE, *_RETRIEVED):
        is_whole = material in _WHOLE
        cells = (*_CELLS, "position_1") if is_whole else ("retrieved",)
        if material in _CHAINED:
            cells += ("own_searches", "oracle")
            names |= {f"{material}.{name}" for name in (*_OF_CHAINS, "retriever_gap")}
        names |= {f"{material}.{cell}.{metric}" for cell in cells for metric in CELL_METRICS}
        names |= {f"{material}.{name}" for name in (*(combined if is_whole else _OF_RETRIEVED), "hops_1")}
    # only questions of worlds have another wording
    return frozenset(name for name in names if not name.startswith(("yours.asked_wording.", "yours.wording_change")))


def is_number(name: str) -> bool:
    """Whether a run may measure a number of this name, such as "fresh.hard_4.exact_match" or "yours.lift"."""
    return _COUNTED.sub(lambda found: found[0].rpartition("_")[0] + "_1", name) in number_names()


def nearest_number(name: str) -> str:
    """The name of a number that looks most like one that is none."""
    return difflib.get_close_matches(name, sorted(number_names()), n=1, cutoff=0.0)[0]

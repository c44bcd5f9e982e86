"""The table of conditions: what each shows, and what a good model does."""

from collections.abc import Callable
from dataclasses import dataclass

from nanochat.evaluation.suite import changing, reading
from nanochat.evaluation.suite.material import Material
from nanochat.evaluation.suite.prompts import Cell
from nanochat.evaluation.suite.reading import Drawing


@dataclass(frozen=True)
class Condition:
    """One entry of the table; `build` gives its cells for a material."""

    title: str
    wanted: str                        # what success looks like
    build: Callable[[Material, Drawing], list[Cell]] | None   # None: asked in a way of its own (trials.py)


CONDITIONS: dict[str, Condition] = {
    "closed_book": Condition("closed book", "fails: what it knows without documents is memory", reading.closed_book),
    "empty": Condition("empty result", "abstains: the search found nothing", reading.empty),
    "retrieved": Condition("retrieved", "answers: this is what a user gets", reading.retrieved),
    "oracle": Condition("evidence only", "answers: the reader at its best", reading.oracle),
    "hard": Condition("evidence among hard distractors", "loses little", reading.hard),
    "random": Condition("evidence among random documents", "loses nothing", reading.random_documents),
    "wrong": Condition("evidence removed", "abstains", reading.wrong),
    "no_question": Condition("no question", "fails: the documents alone must not give the answer away",
                             reading.no_question),
    "edited": Condition("edited fact", "gives the value that the document states", changing.edited),
    "contradiction": Condition("contradiction", "gives both values and cites both documents", changing.contradiction),
    "injection": Condition("injection", "answers as if the order were not there", changing.injection),
    "paraphrase": Condition("other wording and typos", "loses little", changing.paraphrase),
    "top_k": Condition("documents shown", "answers whatever their number", reading.top_k),
    "position": Condition("place of the evidence", "answers wherever it stands", reading.position),
    "length": Condition("document length", "answers; twice the usual length is reported only", changing.length),
    "retriever": Condition("other retriever", "answers: it was not fitted to one of them", None),
    "swap": Condition("other knowledge base", "answers as well as on that of its training", None),
    "deleted": Condition("evidence deleted", "abstains, and says nothing that was deleted", None),
    "hops": Condition("questions of several hops", "finds with its own searches what one search does not", None),
    "alone": Condition("cited documents taken away, or shown alone", "the answer rests on what it cites", None),
}
# asked of every column; in the full suite a column answers all of the above
COLUMN_CONDITIONS = ("closed_book", "retrieved", "oracle", "wrong", "edited")

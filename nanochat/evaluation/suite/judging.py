"""Asking prompts and judging answers: every prompt once, however many cells it stands in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.conditions import Document, make_conversation
from nanochat.evaluation.qa_metrics import contains_answer, exact_match, f1_score, normalize_answer
from nanochat.evaluation.records import Citation, resolve_citation
from nanochat.evaluation.runner import Answerer
from nanochat.evaluation.suite.keeping import Answer, Kept
from nanochat.evaluation.suite.prompts import Cell, Prompt


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One prompt, its answer, and what is right about it."""

    prompt: Prompt
    text: str                        # as printed to a user
    answer: str                      # without citation marks; empty after an abstention
    abstained: bool
    probability: float | None        # of answering at all, in [0, 1]; None when the engine does not say
    citations: tuple[Citation, ...]
    shown: tuple[Document, ...]      # after the token budget
    num_cut: int                     # documents dropped or trimmed for the budget
    num_prompt_tokens: int
    num_tokens: int
    exact: bool                      # the answer equals one that is right here
    f1: float

    @property
    def is_right(self) -> bool:
        """The answer where there is one, an abstention where there is none."""
        return self.exact if self.prompt.answers else self.abstained

    @property
    def evidence_shown(self) -> bool | None:
        """All evidence is among the documents shown; None when no evidence is known or no document was offered."""
        if not self.prompt.evidence or self.prompt.documents is None:
            return None
        return set(self.prompt.evidence) <= {str(one["id"]) for one in self.shown}

    @property
    def should_abstain(self) -> bool:
        return not self.prompt.answers or self.evidence_shown is False

    @property
    def said(self) -> str:
        """What counts when two answers are compared: the normalised text, or that there was none."""
        return "" if self.abstained else normalize_answer(self.answer) or self.answer

    @property
    def is_lured(self) -> bool:
        """The answer is one that would show a fault."""
        return self.is_lured_by(self.prompt.lure)

    def is_lured_by(self, lure: Sequence[str]) -> bool:
        """The answer is one of these."""
        return exact_match(self.answer, lure)

    @property
    def is_stale(self) -> bool:
        """A deleted answer stands in what was said, and in no cited document but the deleted ones."""
        # values recur: who takes that of another document is wrong, but has read it
        was_read = any(one.has_answer and one.id not in self.prompt.evidence for one in self.citations)
        return not was_read and any(contains_answer(self.answer, one) for one in self.prompt.lure)


class Asker:
    """Asks one engine. Answers are remembered, so a prompt that returns in another cell costs nothing.

    kept: where the answers of finished cells are also written, and found again under `name`.
    """

    def __init__(
        self, engine: Answerer, *, max_tokens: int = 32, batch_size: int = 32, threshold: float | None = None,
        name: str = "", kept: Kept | None = None,
    ) -> None:
        self.engine, self.max_tokens, self.batch_size = engine, max_tokens, batch_size
        self.threshold, self.name, self.kept = threshold, name, kept
        self.num_asked = 0
        self._known: dict[Any, Answer] = {}

    def at(self, threshold: float, name: str) -> "Asker | None":
        """One that abstains below this probability of answering; None where the engine takes no threshold."""
        if not hasattr(self.engine, "answer_threshold"):
            return None
        return Asker(self.engine, max_tokens=self.max_tokens, batch_size=self.batch_size, threshold=threshold,
                     name=name, kept=self.kept)

    def ask(self, prompts: Sequence[Prompt], cell: str = "") -> list[Judged]:
        """The answers in order; unknown prompts go to the engine in batches, and are kept as a cell when all are back.
        """
        waiting = {one.key: one for one in prompts if one.key not in self._known}
        self.num_asked += len(waiting)
        for key, one in list(waiting.items()) if self.kept else ():
            if (answer := self.kept.find(self.name, one)) is not None:
                self._known[key] = answer
                del waiting[key]
        # alike lengths stand together, which costs less padding
        order = sorted(waiting, key=lambda key: (_length(waiting[key]), str(key)))
        for start in range(0, len(order), self.batch_size):
            keys = order[start : start + self.batch_size]
            self._known.update(zip(keys, self._generate([waiting[key] for key in keys]), strict=True))
        if self.kept and order:
            self.kept.keep(self.name, cell, [(waiting[key], self._known[key]) for key in order])
        return [judge(one, *self._known[one.key]) for one in prompts]

    def _generate(self, prompts: Sequence[Prompt]) -> Sequence[Answer]:
        chosen = {} if self.threshold is None else {"answer_threshold": self.threshold}
        answers = self.engine.generate_batch([make_conversation(one.question, one.documents) for one in prompts],
                                             max_tokens=self.max_tokens, **chosen)
        assert len(answers) == len(prompts), f"{len(answers)} answers to {len(prompts)} questions"
        return answers

    def ask_cells(
        self, cells: Sequence[Cell], progress: Callable[[str], None] | None = None, prefix: str = ""
    ) -> dict[str, list[Judged]]:
        """Judged prompts of every cell that has any, by its name; a line of progress for each."""
        answered: dict[str, list[Judged]] = {}
        for cell in cells:
            if not cell.prompts:
                continue
            answered[cell.name] = self.ask(cell.prompts, f"{prefix}{cell.name}")
            if progress is not None:
                share = sum(one.is_right for one in answered[cell.name]) / len(cell.prompts)
                progress(f"{prefix}{cell.name}: {len(cell.prompts)} questions, right {share:.2f}")
        return answered


def judge(prompt: Prompt, text: str, info: Mapping[str, Any]) -> Judged:
    """Hold an answer against its prompt; `info` is what the engine returned beside the text."""
    shown = tuple(info["documents"])
    abstained = bool(info["abstained"])
    answer = "" if abstained else str(info["answer"]).strip()
    probability = info.get("answer_probability")
    return Judged(
        prompt=prompt, text=text, answer=answer, abstained=abstained,
        probability=None if probability is None else float(probability),
        citations=tuple(resolve_citation(one, shown, answer) for one in info["citations"]), shown=shown,
        num_cut=int(info.get("dropped", 0)), num_prompt_tokens=int(info.get("num_prompt_tokens", 0)),
        num_tokens=int(info.get("num_tokens", 0)), exact=exact_match(answer, prompt.answers),
        f1=f1_score(answer, prompt.answers),
    )


def _length(prompt: Prompt) -> int:
    return sum(len(one["content"]) for one in prompt.documents or ())

"""Linting of documents before they become a knowledge base: what would make answers wrong, or should not be shown.

    report = lint(read_documents("my_documents.jsonl"))
    print(report.table())
"""

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from nanochat.errors import UserError
from nanochat.retrieval.document import Document
from nanochat.retrieval.linting.checks import CHECKS
from nanochat.retrieval.linting.findings import CheckKind, Finding, LintLimits, Look, NotRun, Setup, View
from nanochat.retrieval.linting.fixing import Fixer, fix
from nanochat.retrieval.linting.report import LintReport

__all__ = ["CHECKS", "Fixer", "LintLimits", "LintReport", "Linter", "fix", "lint"]

_UNREADABLE = "unreadable"


class Linter:
    """Looks at documents as they pass; `report` may be asked for at any time.

    Memory grows by some hundred bytes a document (hashes of titles and contents, signatures for near duplicates); no
    document is kept.
    """

    def __init__(
        self, *, questions: Iterable[str] = (), limits: LintLimits | None = None, skip: Collection[str] = ()
    ) -> None:
        """`questions` are looked for in the documents; `skip` names checks that are not wanted."""
        assert set(skip) <= set(CHECKS), f"no such check: {sorted(set(skip) - set(CHECKS))}"
        self.limits = limits or LintLimits()
        setup = Setup(limits=self.limits, questions=tuple(questions))
        self._looks: list[tuple[str, Look]] = []
        self._found = {name: _empty(name, kind) for name, kind in CHECKS.items()}
        self._found[_UNREADABLE] = Finding(
            name=_UNREADABLE, severity="error", meaning="lines or files that cannot be read",
            advice="see the message of each", count=0, ids=(), examples=())
        for name, kind in CHECKS.items():
            try:
                if name in skip:
                    raise NotRun("not wanted")
                self._looks.append((name, kind.make(setup)))
            except NotRun as reason:
                self._found[name] = replace(self._found[name], note=str(reason))
        self._lengths = array("I")
        self._started = time.perf_counter()

    def look(self, entry: Document | UserError) -> None:
        """Check one document, or take note of one that could not be read."""
        if isinstance(entry, UserError):
            self._add(_UNREADABLE, entry.problem.split(": ", 1)[0], f"{entry.problem}; {entry.hint}")
            return
        view = View(entry)
        self._lengths.append(view.num_words)
        for name, look in self._looks:
            if example := look(view):
                self._add(name, entry.id, example)

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, looked at while they pass."""
        for document in documents:
            self.look(document)
            yield document

    def report(self) -> LintReport:
        """What was found so far."""
        lengths = sorted(self._lengths) or [0]
        return LintReport(
            findings=tuple(self._found.values()), num_documents=len(self._lengths), num_words=sum(self._lengths),
            lengths=(lengths[0], lengths[len(lengths) // 2], lengths[-1]), limits=self.limits,
            seconds=time.perf_counter() - self._started,
        )

    def _add(self, name: str, identifier: str, example: str) -> None:
        found = self._found[name]
        ids, examples = found.ids, found.examples
        if len(ids) < self.limits.max_ids:
            ids = (*ids, identifier)
        if len(examples) < self.limits.max_examples:
            examples = (*examples, (identifier, example))
        self._found[name] = replace(found, count=found.count + 1, ids=ids, examples=examples)


def lint(
    documents: Iterable[Document | UserError],
    *,
    questions: Iterable[str] = (),
    limits: LintLimits | None = None,
    skip: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> LintReport:
    """Check documents one after another; an error in their place (as readers give it) is counted as unreadable.

    `progress` gets one line of text for every 20,000 documents.
    """
    linter = Linter(questions=questions, limits=limits, skip=skip)
    started = time.perf_counter()
    for number, entry in enumerate(documents, start=1):
        linter.look(entry)
        if progress and number % 20_000 == 0:
            progress(f"checked {number:,} documents, {time.perf_counter() - started:.0f} s")
    return linter.report()


def _empty(name: str, kind: CheckKind) -> Finding:
    return Finding(name=name, severity=kind.severity, meaning=kind.meaning, advice=kind.advice, count=0, ids=(),
                   examples=())

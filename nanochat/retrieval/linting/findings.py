"""What linting finds, the limits it goes by, and the view of a document that checks share."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from nanochat.retrieval.document import Document
from nanochat.retrieval.linting.personal import Span, find_personal, mask
from nanochat.retrieval.words.analysis import _UNSPACED

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")

# A check looks at one document after another and returns an example of what is wrong with it, or "".
Look = Callable[["View"], str]


@dataclass(frozen=True, kw_only=True)
class LintLimits:
    """Where a property of a document becomes a finding."""

    max_words: int = 2000             # longer documents should be split
    min_words: int = 20               # shorter ones seldom answer a question
    empty_words: int = 2              # with fewer words than this there is nothing to find
    near_duplicate: float = 0.85      # share of three-word sequences (Jaccard) from which two documents are alike
    language_bytes: int = 200         # bytes (UTF-8) of another language, from which a document is mixed
    question_words: int = 5           # shorter questions are not looked for in documents
    question_share: float = 0.85      # share of a question's word sequences that a document must hold
    max_ids: int = 20                 # ids named per check
    max_examples: int = 5             # examples shown per check


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a check is made from."""

    limits: LintLimits
    questions: tuple[str, ...] = ()


class NotRun(Exception):
    """Raised while a check is made: it cannot run here, for the reason given."""


@dataclass(frozen=True, kw_only=True)
class CheckKind:
    """One line of the table of checks."""

    severity: Severity
    meaning: str                      # what is wrong with the documents it names
    advice: str                       # what to do about it
    make: Callable[[Setup], Look]     # may raise NotRun


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check over all documents."""

    name: str
    severity: Severity
    meaning: str
    advice: str
    count: int                        # documents with this finding (lines, for unreadable ones)
    ids: tuple[str, ...]              # the first of them
    examples: tuple[tuple[str, str], ...]  # (id, text), personal data masked
    note: str = ""                    # why the check did not run


# Markdown fences and code spans; in reStructuredText, what is indented below a line that ends in ::
_NOT_PROSE = re.compile(r"^(`{3}|~{3})[^\n]*\n.*?(?:^\1|\Z)|`[^`\n]+`"
                        r"|(?:::|\.\. [\w-]+::[^\n]*)\n(?:[ \t]*\n|[ \t]+[^\n]*(?:\n|\Z))+", re.MULTILINE | re.DOTALL)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


class View:
    """A document with what several checks need of it, made on first use."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.id, self.title, self.content = document.id, document.title, document.content

    @cached_property
    def words(self) -> list[str]:
        return self.content.split()

    @cached_property
    def num_words(self) -> int:
        """Words as white space separates them; characters of Chinese and Japanese count one by one."""
        if self.content.isascii():
            return len(self.words)
        alone, rest = 0, self.content
        if found := _UNSPACED_CHARACTER.findall(rest):
            alone, rest = len(found), _UNSPACED_CHARACTER.sub(" ", rest)
            # punctuation between such characters is no word
            return alone + sum(any(map(str.isalnum, word)) for word in rest.split())
        return len(self.words)

    @cached_property
    def text(self) -> str:
        return f"{self.title}\n{self.content}"

    @cached_property
    def prose(self) -> str:
        """The content without its code, which may hold anything."""
        has_code = any(mark in self.content for mark in ("`", "~~~", "::"))
        return _NOT_PROSE.sub(" ", self.content) if has_code else self.content

    @cached_property
    def personal(self) -> dict[str, list[Span]]:
        """Kinds of personal data in the text, and where."""
        return find_personal(self.text)

    @cached_property
    def longest_word(self) -> int:
        return max(map(len, self.words), default=0)

    @property
    def is_passage(self) -> bool:
        return "parent" in self.document.metadata and "start" in self.document.metadata

    @property
    def whole_id(self) -> str:
        """The id of the document that this is a passage of, or its own."""
        return str(self.document.metadata["parent"]) if self.is_passage else self.id

    @property
    def speaks_for_document(self) -> bool:
        """False for all passages of a document but its first: what concerns the document is said once."""
        return not self.is_passage or self.document.metadata["start"] == 0


def excerpt(text: str, start: int = 0, end: int = 0, *, around: int = 40) -> str:
    """One line of text around a place, personal data masked, control characters spelled out."""
    # masked before it is cut: half an address would not be recognised
    first = max(0, start - around - 300)
    window = mask(text[first : end + around + 300])
    begin, stop = max(0, start - around) - first, end + around - first
    shown = window[begin:stop]
    shown = "".join(character if character.isprintable() or character in "\n\t\r" or
                    unicodedata.category(character) == "Zs" else f"\\u{ord(character):04x}" for character in shown)
    return ("..." if begin + first > 0 else "") + " ".join(shown.split()) + ("..." if stop < len(window) else "")

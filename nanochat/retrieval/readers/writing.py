"""Plain text out of a structured document: paragraphs, headings with their offsets, lists, tables, code."""

import re
from collections.abc import Sequence

from nanochat.retrieval.chunking.markup import Heading

_SPACE = re.compile(r"[ \t\n\r\f\v\u00a0\u2007\u202f]+")
_TICKS = re.compile(r"`{3,}")


class TextWriter:
    """Collects text; white space is one blank, one line end or one empty line, as the structure asks."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self.is_item = False        # for the caller: the last paragraph was a list item
        self._parts: list[str] = []
        self._length = 0
        self._lines = 0             # line ends due before the next word
        self._has_space = False     # a blank is due before the next word
        self._prefix = ""
        self._heading: tuple[int, int] | None = None    # level, number of parts when it began

    def __len__(self) -> int:
        return self._length

    def words(self, text: str) -> None:
        """Running text; its white space collapses."""
        words = _SPACE.sub(" ", text)
        inner = words.strip(" ")
        if not inner:
            self._has_space |= bool(words)
            return
        self._gap(words[0] == " ")
        self._put(inner)
        self._has_space = words[-1] == " "

    def lines(self, count: int) -> None:
        """Ask for 1 line end or 2 (an empty line) before what follows."""
        self._lines = max(self._lines, count)

    def prefix(self, text: str) -> None:
        """The mark of a list item, written with its first word."""
        self.lines(1)
        self._prefix = text

    def heading(self, level: int) -> None:
        """What follows, until `end_heading`, is a heading."""
        self.lines(2)
        self._heading = (level, -1)

    def end_heading(self) -> None:
        """The heading is complete; one without words is none."""
        if self._heading and self._heading[1] >= 0:
            level, first = self._heading
            words = " ".join("".join(self._parts[first:]).split())
            self.headings.append((self._length - sum(map(len, self._parts[first:])), level, words))
        if self._heading:
            self.lines(2)
        self._heading = None

    def code(self, text: str) -> None:
        """Preformatted text, line by line, between fences."""
        text = text.strip("\n").rstrip()
        if not text.strip():
            return
        fence = "`" * max([3, *(len(run) + 1 for run in _TICKS.findall(text))])
        self._block(f"{fence}\n{text}\n{fence}")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows as lines of cells between bars, a rule below the first; the line just before it stays close."""
        width = max(len(row) for row in rows)
        lines = [row_of([*row, *[""] * (width - len(row))]) for row in rows]
        if len(lines) > 1:
            lines.insert(1, "|" + " --- |" * width)
        self._block("\n".join(lines))

    def text(self) -> str:
        """All that was written."""
        return "".join(self._parts)

    def _block(self, text: str) -> None:
        self.lines(2)
        self._gap(False)
        self._put(text)
        self.lines(2)

    def _gap(self, has_space: bool) -> None:
        if self._length:
            if self._lines:
                self._put("\n" * self._lines)
            elif self._has_space or has_space:
                self._put(" ")
        self._lines, self._has_space = 0, False
        if self._prefix:
            self._put(self._prefix)
            self._prefix = ""
        if self._heading and self._heading[1] < 0:
            self._heading = (self._heading[0], len(self._parts))

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def row_of(cells: Sequence[str]) -> str:
    """A row of a table as a line."""
    return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

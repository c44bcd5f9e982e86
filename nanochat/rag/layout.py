"""How a document is built, for rules that ask about it: sections under headings, pairs of question and answer, tables.

Every part knows its place: offsets are those of the document's content, so an answer can be shown where it stands.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nanochat.retrieval.chunking import sentence_spans
from nanochat.retrieval.chunking.markup import find_headings, plain
from nanochat.retrieval.words.analysis import STOP_WORDS

QUESTION_MARKS = "?\uff1f\u061f"
MAX_QUESTION_WORDS = 25
ENGLISH_SHARE = 0.18  # of words that are English function words; other languages stay well below

_WORD = re.compile(r"[^\W\d_]+")
_RULE = re.compile(r"[=-]{2,}[ \t]*$")
_NO_PROSE = re.compile(r"\s*(?:[-*+\u2022|>#]|\d{1,3}[.)]\s|```|~~~|    |\t)")
_TABLE_RULE = re.compile(r"\s*\|?[\s:|-]*-[\s:|-]*$")
_MARK = r"\s?\d{0,3}\s?[.:\uff1a)][*_]{0,2}\s*"
_ASKED = re.compile(rf"\s*(?:[-*]\s+)?[*_]{{0,2}}(?:Q|Question|Frage|Pregunta|\u95ee){_MARK}(\S.*)", re.I)
_ANSWERED = re.compile(rf"\s*(?:[-*]\s+)?[*_]{{0,2}}(?:A|Answer|Antwort|Respuesta|\u7b54){_MARK}(?=\S)", re.I)
ASKING = re.compile(r"(?:What|Who|Whose|Which|When|Where|Why|How|Is|Are|Was|Were|Do|Does|Did|Can|Could|May|Will|Would"
                     r"|Should|Must|Has|Have)\b")
_FIELD = re.compile(
    r"[ \t]*(?:[-*\u2022][ \t]+)?[*_]{0,2}([^\W\d_][\w /()'&-]{1,38}?)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]+"
    r"(\S.{0,90}?)[ \t]*$"
)

Place = tuple[int, int]


@dataclass(frozen=True)
class Section:
    heading: str
    start: int  # of the text below the heading
    end: int


@dataclass(frozen=True)
class Cell:
    text: str
    start: int


@dataclass(frozen=True)
class Page:
    """One document as the rules see it."""

    document: Mapping[str, Any]

    @property
    def content(self) -> str:
        return self.document["content"]

    @cached_property
    def title(self) -> str:
        """The title on one line."""
        return " ".join(self.document.get("title", "").split())

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.document.get("metadata") or {}

    @cached_property
    def is_english(self) -> bool:
        """Whether rules that know English may read it: its function words decide."""
        words = _WORD.findall(self.content[:4000].lower())
        return sum(word in STOP_WORDS for word in words) >= ENGLISH_SHARE * max(1, len(words)) and len(words) > 3

    @cached_property
    def sections(self) -> list[Section]:
        """The parts below headings, in order; a heading without text below it gives none."""
        places = self._headings()
        ends = [*(offset for offset, _ in places[1:]), *([len(self.content)] if places else [])]
        found = []
        for (offset, words), end in zip(places, ends, strict=True):
            start = self._after_heading(offset, end)
            if words and self.content[start:end].strip():
                found.append(Section(words, start, end))
        return found

    def _headings(self) -> list[tuple[int, str]]:
        stated = self.metadata.get("headings")
        # metadata may hold anything where a user wrote it
        listed = [item for item in stated if isinstance(item, list | tuple) and len(item) == 3
                  and type(item[0]) is int and isinstance(item[2], str)] if isinstance(stated, list) else []
        places = [(offset, " ".join(words.split())) for offset, _, words in listed
                  if 0 <= offset < len(self.content) and self._stands_at(words, offset)]
        if not places and not listed:
            places = [(offset, words) for offset, _, words in find_headings(self.content)]
        heading = self.metadata.get("heading")
        if not places and isinstance(heading, str) and heading:
            # a passage that begins with its heading; one that goes on below it says nothing about it first
            last = heading.rpartition(" > ")[2]
            places = [(0, last)] if self._stands_at(last, 0) else []
        return places

    def _stands_at(self, words: str, offset: int) -> bool:
        line = self.content[offset : offset + 400].split("\n", 1)[0]
        return plain(line.lstrip(" #").rstrip(" #")) == plain(words)

    def _after_heading(self, offset: int, end: int) -> int:
        stop = self.content.find("\n", offset, end)
        if stop < 0:
            return end
        following = self.content.find("\n", stop + 1, end)
        line = self.content[stop + 1 : following if following >= 0 else end]
        return stop + 1 + len(line) if _RULE.match(line) else stop + 1

    @cached_property
    def sentences(self) -> list[Place]:
        """Places of the sentences of running text; headings, tables, code and lines of lists are left out."""
        heads = {offset for offset, _ in self._headings()}
        return [(start, end) for start, end in sentence_spans(self.content)
                if start not in heads and not _NO_PROSE.match(self.content[start:end])]

    def first_sentence(self, start: int, end: int) -> Place | None:
        """The first sentence of the text in a place, if running text begins there."""
        text = self.content[start:end]
        start += len(text) - len(text.lstrip())
        stop = re.compile(r"\n[^\S\n]*\n").search(self.content, start, end)
        stop_at = stop.start() if stop else end
        if start >= stop_at or _NO_PROSE.match(self.content[start:stop_at]):
            return None
        spans = sentence_spans(self.content[start:stop_at])
        return (start + spans[0][0], start + spans[0][1]) if spans else None

    def paragraph(self, start: int, end: int) -> Place | None:
        """The first paragraph of running text in a place."""
        first = self.first_sentence(start, end)
        if first is None:
            return None
        stop = re.compile(r"\n[^\S\n]*(?:\n|(?=[-*|#]))").search(self.content, first[0], end)
        text = self.content[first[0] : stop.start() if stop else end]
        return first[0], first[0] + len(text.rstrip())

    def pairs(self) -> Iterator[tuple[str, Place]]:
        """(question, place of its answer) of Q: and A: lines, and of headings and lines that are questions."""
        seen: set[int] = set()
        for section in self.sections:
            if is_question(section.heading) and (place := self.paragraph(section.start, section.end)):
                seen.add(place[0])
                yield section.heading, place
        lines = list(self.lines())
        for (start, end), following in zip(lines, [*lines[1:], None]):
            line = self.content[start:end]
            asked = _ASKED.match(line)
            if asked and following and (answered := _ANSWERED.match(self.content[following[0] : following[1]])):
                begin = following[0] + answered.end()
                place = self.paragraph(begin, self._next_question(begin))
                if place and place[0] not in seen:
                    seen.add(place[0])
                    yield asked[1].strip(" *_"), place
            elif not asked and self._asks(line) and _has_own_line(self.content, start):
                place = self.paragraph(end, len(self.content))
                if place and place[0] not in seen and not is_question(self.content[place[0] : place[1]]):
                    seen.add(place[0])
                    yield line.strip(" *_#"), place

    def _asks(self, line: str) -> bool:
        """Whether a line that is no heading is a question of the document's, not of somebody in a story or a list."""
        line = line.strip(" *_#")
        if not is_question(line) or _NO_PROSE.match(line) or re.search("[\"'\u201c\u2018]|[.!?] ", line):
            return False
        return not self.is_english or bool(ASKING.match(line))

    def _next_question(self, start: int) -> int:
        for begin, end in self.lines(start):
            if _ASKED.match(self.content[begin:end]):
                return begin
        return len(self.content)

    def lines(self, start: int = 0) -> Iterator[Place]:
        """Places of the lines that are not blank."""
        for found in re.compile(r"[^\n]*\S[^\n]*").finditer(self.content, start):
            yield found.span()

    def tables(self) -> Iterator[list[list[Cell]]]:
        """Tables as rows of cells, the names of the columns first: Markdown's, or lines of cells between bars."""
        block: list[list[Cell]] = []
        for start, end in [*self.lines(), (len(self.content), len(self.content))]:
            line = self.content[start:end]
            if "|" in line and _TABLE_RULE.match(line):
                continue
            cells = list(_cells(line, start)) if "|" in line else []
            if block and (len(cells) != len(block[0]) or len(cells) < 2):
                yield from [block] if len(block) > 1 else []
                block = []
            if len(cells) > 1:
                block.append(cells)

    def fields(self) -> Iterator[list[tuple[str, Cell]]]:
        """Runs of two or more lines "name: value"."""
        run: list[tuple[str, Cell]] = []
        for start, end in [*self.lines(), (len(self.content), len(self.content))]:
            found = _FIELD.match(self.content[start:end])
            if found and len(found[1].split()) <= 4:
                run.append((found[1].strip(), Cell(found[2], start + found.start(2))))
                continue
            yield from [run] if len(run) > 1 else []
            run = []


def is_question(text: str) -> bool:
    """Whether this is one question of a length that somebody would ask."""
    text = text.strip()
    # characters of languages without spaces count as words
    num_words = len(text.split()) if text.isascii() else max(len(text.split()), len(text) // 4)
    return text[-1:] in QUESTION_MARKS and 2 <= num_words <= MAX_QUESTION_WORDS and "\n" not in text


def _has_own_line(content: str, start: int) -> bool:
    """Whether an empty line or the beginning stands before a line: a question in running text has other lines there."""
    before = content[:start].rstrip(" \t")
    return not before or before.endswith("\n\n") or before.endswith("\n") and content[:start].strip() == ""


def _cells(line: str, start: int) -> Iterator[Cell]:
    inner = line.strip()
    offset = start + len(line) - len(line.lstrip())
    if inner.startswith("|"):
        inner, offset = inner[1:], offset + 1
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    for part in re.split(r"(?<!\\)\|", inner):
        yield Cell(part.strip(), offset + len(part) - len(part.lstrip()))
        offset += len(part) + 1

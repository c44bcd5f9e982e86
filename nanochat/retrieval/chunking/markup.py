"""Marks that say how a text is built: headings and fences of Markdown, definitions in source code."""

import re

_MOST_CHARS = 300
# (offset in the text, level from 1, words)
Heading = tuple[int, int, str]
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
_HASHES = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*(?:$|[#>|]|[-*+][ \t]|\d{1,9}[.)][ \t]| {4}|\t)")
_MARKS = re.compile(r"!?\[([^\]\[]*)\]\([^()\n]*\)|`+|\*\*|__|(?<!\w)[*_]|[*_](?!\w)|\\(?=[!-/:-@\[-`{-~])|<[^<>]*>")
CODE_ENDINGS = tuple(
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .kt .scala .c .h .cc .cpp .hpp .cs .go .rs .swift .rb .php .lua .pl .r "
    ".jl .sh .bash .sql .proto .css .rst .toml .yaml .yml .ini .cfg .tex".split()
)
_PYTHON = re.compile(r"([ ]*)(?:async[ ]+)?((?:def|class)[ ]+\w+)")
_OTHER = re.compile(
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\([a-z]+\))?|unsafe|const"
    r"|data|sealed|open|override)[ ]+)*"
    r"((?:def|class|module|func|function|fn|impl|struct|interface|enum|trait|type|namespace|object|message|service"
    r"|create[ ]+(?:or[ ]+replace[ ]+)?(?:table|view|function|index))\b[^\n{;=]{1,120})", re.IGNORECASE,
)


def find_headings(text: str) -> list[Heading]:
    """(offset, level, words) of every Markdown heading, # or underlined, outside fenced code."""
    headings: list[Heading] = []
    fence = ""
    offset = 0
    paragraph: tuple[int, str] | None = None  # a paragraph of one line just before: its offset and words
    is_first_line = True
    for line in text.split("\n"):
        start, offset = offset, offset + len(line) + 1
        if fence:
            fence = "" if closes(fence, line) else fence
            continue
        if fence := opens(line):
            paragraph, is_first_line = None, True
        elif found := _HASHES.match(line):
            headings.append((start, len(found[1]), plain(found[2] or "")))
            paragraph, is_first_line = None, True
        elif paragraph and (found := _UNDERLINE.match(line)):
            headings.append((paragraph[0], 1 if found[1][0] == "=" else 2, plain(paragraph[1])))
            paragraph, is_first_line = None, True
        else:
            is_text = not _NO_PARAGRAPH.match(line)
            paragraph = (start, line) if is_text and is_first_line else None
            is_first_line = not line.strip()
    return headings


def opens(line: str) -> str:
    """The fence (``` or ~~~, or longer) that a line opens, empty if none."""
    found = _FENCE.match(line)
    return found[1] if found and not (found[1][0] == "`" and "`" in found[2]) else ""


def closes(fence: str, line: str) -> bool:
    """Whether a line closes the fence that is open."""
    line = line.strip()
    return len(line) >= len(fence) and not line.strip(fence[0])


def plain(words: str) -> str:
    """Words of a heading without the marks of links, emphasis and code."""
    return " ".join(_MARKS.sub(lambda found: found[1] or "", words).split())


def cut_words(words: str) -> str:
    """A title or a heading of a length that can be shown; what is longer is no heading."""
    return words if len(words) <= _MOST_CHARS else words[: _MOST_CHARS - 4].rstrip() + " ..."


def find_definitions(text: str, name: str) -> list[Heading]:
    """(offset, level, words) of definitions that start a line: nested ones in Python, those at the margin elsewhere."""
    headings: list[Heading] = []
    pattern = _PYTHON if name.lower().removesuffix(".gz").endswith((".py", ".pyi")) else _OTHER
    offset = 0
    indents: list[int] = []
    for line in text.split("\n"):
        if found := pattern.match(line):
            if pattern is _PYTHON:
                indent = len(found[1])
                indents = [other for other in indents if other < indent] + [indent]
                if len(indents) <= 3:
                    headings.append((offset, len(indents), found[2]))
            else:
                headings.append((offset, 1, " ".join(found[1].split()).rstrip(" :({")))
        offset += len(line) + 1
    return headings

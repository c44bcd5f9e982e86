"""Questions from how a document is built: its own questions, its headings, cells of tables, lines "name: value"."""

import re
from collections.abc import Iterator, Sequence

from nanochat.rag.drafts import Draft, lowered, lowered_heading, says_something, shares_term, short_answer, subject_in
from nanochat.rag.layout import ASKING, Cell, Page, Place, is_question
from nanochat.rag.spans import FUNCTION, MONTHS, Vocabulary, names_nothing
from nanochat.retrieval.words.analysis import analyze

MAX_HEADING_WORDS = 8
MAX_CELL_WORDS = 8
MAX_FAQ_WORDS = 60  # of a paragraph that is taken for the answer to the question above it
MAX_TITLE_WORDS = 10

# headings that name a part of any document, and say nothing about this one
_GENERIC = frozenset(
    """
    abstract about acknowledgements acknowledgments answer answers appendix background bibliography changelog chapter
    conclusion conclusions contact content contents copyright credits description details discussion example examples
    exercise exercises faq footnotes further general glossary history home homework index info information introduction
    key learning licence license links list menu method methods
    misc miscellaneous more navigation next note notes objectives other
    overview part point points preface previous problem problems question questions quick readme reading reference
    references related remarks results review section see solution solutions source sources start started summary table
    takeaways term terms tip tips toc try update updates usage
    """.split()
)
_EMPTY_CELLS = frozenset(["", "-", "--", "---", "\u2013", "\u2014", "n/a", "na", "none", "null", "?", "tbd", "x", "*"])
_SUMS = frozenset(["total", "sum", "average", "mean", "other", "all", *map(str.lower, MONTHS)])
_NAMELESS = frozenset("no nr number # id name notes note comment comments date source".split())
# text around a heading that asks to make readers curious, not to be answered at once
_TEXTBOOK = re.compile(r"(?i)learning objectives|review questions|key terms|exercises")
_FATAL = frozenset("summary objectives exercises references problems review solutions terms".split())
_GLOSSARY = frozenset("glossary terms definitions vocabulary terminology".split())
_AUXILIARY = r"(?:is|are|was|were|do|does|did|can|could|may|will|would|should|must|has|have)"
_ASKING = re.compile(
    rf"(?:(?:How|When|Where|Why|What|Who|Which)(?: many| much| long| often)? {_AUXILIARY}|(?:Can|Do|Does|Is|Are)) ",
    re.I,
)
_PLAIN_COLUMN = re.compile(r"[^\W\d_]+(?:[ -][^\W\d_]+){0,2}$")
_EMPHASIS = re.compile(r"(\*{1,3}|`)([^*`\n]+)\1|_([^_\n]+)_")
_NUMBERING = re.compile(r"^(?:(?:chapter|section|part|step)\s+)?(?:\d+(?:\.\d+)*|[IVX]+)[.):]?\s+", re.I)
_GERUND = re.compile(r"([A-Z][a-z]{2,}ing) (?:the|a|an|your|and|with|for|in|on|to|from|[a-z]|[A-Z])")
_NO_GERUNDS = frozenset(
    "understanding defining introducing during king string thing spring morning evening meaning".split()
)


def faq(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """Questions that the document itself asks and answers, or that its record carries in a field."""
    asked, answered = page.metadata.get("question"), page.metadata.get("answer")
    if isinstance(asked, str) and 1 < len(asked.split()) <= 40 and not page.metadata.get("start"):
        asked = " ".join(asked.split())
        start = page.content.find(answered) if isinstance(answered, str) and answered.strip() else -1
        if start >= 0:
            yield Draft("faq", asked, start, start + len(answered), subject_in(asked, page.title))
        elif place := short_answer(page, (0, len(page.content)), asked):
            yield Draft("faq", asked, *place, subject_in(asked, page.title))
    for question, paragraph in page.pairs():
        question = " ".join(question.split())
        if page.is_english and not ASKING.match(question):
            continue
        if (place := short_answer(page, paragraph, question)) and _is_answered(page, question, paragraph, place):
            yield Draft("faq", question, *place, subject_in(question, page.title))


def _is_answered(page: Page, question: str, paragraph: Place, place: Place) -> bool:
    """A short paragraph answers the question above it; of a long one the sentence must speak of what is asked."""
    if len(page.content[paragraph[0] : paragraph[1]].split()) <= MAX_FAQ_WORDS and not _TEXTBOOK.search(page.content):
        return True
    wanted = set(analyze(question))
    return 2 * len(wanted & set(analyze(page.content[place[0] : place[1]]))) >= max(2, len(wanted))


def heading(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """What stands first below a heading; headings of parts that any document has are passed over."""
    if not page.is_english:
        return
    for section in page.sections:
        words = " ".join(section.heading.strip(" .:*_#").split())
        words = _NUMBERING.sub("", words)
        place = page.first_sentence(section.start, section.end)
        if place is None or is_question(words) or not _is_heading(words, page.title):
            continue
        text = page.content[place[0] : place[1]]
        if text.rstrip("\"')\u201d")[-1:] not in ".!" or not says_something(text) or not shares_term(words, text):
            continue
        if question := _ask_about(words, page, vocabulary):
            yield Draft("heading", question, *place, page.title if question.startswith("What does ") else "")


def _is_heading(words: str, title: str) -> bool:
    terms = words.lower().split()
    if not 1 <= len(terms) <= MAX_HEADING_WORDS or len(words) < 4 or not re.search(r"[A-Za-z]{3}", words):
        return False
    found = set(re.findall(r"[a-z]+", words.lower()))
    is_generic = set(analyze(words)) <= set(analyze(" ".join(found & _GENERIC)))
    return not found & _FATAL and not is_generic and "|" not in words


def _ask_about(words: str, page: Page, vocabulary: Vocabulary) -> str:
    """A question out of a heading, empty where none reads well."""
    title = page.title
    words = words.title() if words.isupper() and len(words) > 5 else words
    if re.match(r"How to \w", words):
        return f"How do you {words[7:]}?"
    if re.match(r"(?:How|When|Where|Why|What|Who|Which|Can|Do|Does|Is|Are)\b", words):
        return f"{words}?" if _ASKING.match(words) else ""
    inside = lowered_heading(words, page, vocabulary)
    found = _GERUND.match(words)
    if found and found[1].lower() not in _NO_GERUNDS:
        return f"What should you know about {inside}?"
    if names_nothing(title) or len(title.split()) > MAX_TITLE_WORDS or set(analyze(title)) >= set(analyze(words)):
        return ""
    return f"What does {title} say about {inside}?"


def table(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """Cells of tables: the first column names the row."""
    for rows in page.tables():
        columns = [_plain(cell.text) for cell in rows[0]]
        names = [_plain(row[0].text) for row in rows[1:]]
        if not _are_columns(columns, rows[1:]):
            continue
        for row, name in zip(rows[1:], names, strict=True):
            if names.count(name) > 1 or not _is_name(name):
                continue
            for column, cell in zip(columns[1:], row[1:]):
                if _is_column(column) and _is_value(cell.text) and _plain(cell.text) != name:
                    question = _of(column, name, page, vocabulary)
                    yield Draft("table", question, *_place(cell), name)


def field(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """Lines "name: value" that belong to the title, or to the heading they stand under."""
    for run in page.fields():
        below = [section.heading for section in page.sections if section.start <= run[0][1].start < section.end]
        # a passage may begin below the heading, which its metadata names
        heading_words = below[0] if below else str(page.metadata.get("heading", "")).rpartition(" > ")[2]
        is_glossary = bool(set(heading_words.lower().split()) & _GLOSSARY) or _explains(run)
        subject = below[0] if below and _is_heading(below[0], "") else page.title
        names = [name.lower() for name, _ in run]
        if names_nothing(subject) or len(subject.split()) > MAX_TITLE_WORDS or is_question(subject):
            continue
        for name, cell in run:
            # the last line of a passage may be cut off
            is_cut = "parent" in page.metadata and not page.content[cell.start + len(cell.text) :].strip()
            if names.count(name.lower()) > 1 or not _is_column(name) or not _is_value(cell.text) or is_cut:
                continue
            if is_glossary:
                yield Draft("definition", f'What is meant by "{lowered(name, vocabulary)}"?', *_place(cell), name)
            elif set(analyze(name)).isdisjoint(analyze(subject)):
                yield Draft("field", _of(name, subject, page, vocabulary), *_place(cell), subject)


def _explains(run: Sequence[tuple[str, Cell]]) -> bool:
    """Whether lines "name: value" explain words: small letters, and several words for each."""
    return all(name[0].islower() for name, _ in run) and min(len(cell.text.split()) for _, cell in run) >= 3


def _of(column: str, row: str, page: Page, vocabulary: Vocabulary) -> str:
    """The title says which of several tables is meant, unless the name of the row says so itself."""
    title = page.title if len(page.title.split()) <= MAX_TITLE_WORDS else ""
    if not page.is_english and not page.content.isascii():
        return f"{title} - {row} - {column}?" if title and title not in row else f"{row} - {column}?"
    asked = f"what is the {_lower_column(column)} of {row}?"
    if not _PLAIN_COLUMN.match(column) or column.lower().split()[0] in FUNCTION or column[-1] == "s":
        asked = f'what stands under "{column}" for {row}?'
    if not title or set(analyze(title)) & set(analyze(row)):
        return asked[0].upper() + asked[1:]
    return f"In {title}, {asked}"


def _lower_column(column: str) -> str:
    """The name of a column within a sentence; abbreviations keep their capitals."""
    return " ".join(word if re.match(r"[A-Z]+\b|[A-Za-z]+[A-Z]", word) else word.lower() for word in column.split())


def _are_columns(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bool:
    """Whether the first row names columns: words, all different, unlike the values below them."""
    named = [column for column in columns if column]
    return (len(set(named)) == len(named) and len(named) >= len(columns) - 1
            and not any(re.fullmatch(r"[\d.,%$-]+", column) for column in named) and len(rows) >= 1)


def _is_column(column: str) -> bool:
    return (bool(re.search(r"[^\W\d_]{2}", column)) and len(column.split()) <= 5 and len(column) <= 40
            and column.lower() not in _NAMELESS and column[-1] not in "?:.")


def _is_name(name: str) -> bool:
    return (bool(re.search(r"[^\W\d_]{2}", name)) and len(name.split()) <= MAX_CELL_WORDS and len(name) <= 60
            and name.lower().rstrip("s:") not in _SUMS)


def _is_value(text: str) -> bool:
    value = _plain(text)
    return (value.lower() not in _EMPTY_CELLS and len(value.split()) <= MAX_CELL_WORDS and bool(re.search(r"\w", value))
            and not value.startswith(("http", "'", '"', "\u201c", "|")))


def _plain(text: str) -> str:
    return " ".join(_inner(text).split())


def _inner(text: str) -> str:
    """A cell without the marks of emphasis or code around all of it."""
    found = _EMPHASIS.fullmatch(text)
    return found[2] or found[3] if found else text


def _place(cell: Cell) -> tuple[int, int]:
    inner = _inner(cell.text)
    start = cell.start + cell.text.find(inner)
    return start, start + len(inner)

"""Turning sampled ids into text while they arrive: whole characters only, linear in the answer's length."""

import re
from collections.abc import Iterable, Sequence

from nanochat.chat_format import ParsedAnswer
from nanochat.errors import ConfigError
from nanochat.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# a UTF-8 character has at most 4 bytes, so at most 3 trailing ids can hold an unfinished one
MAX_UNFINISHED = 3

ABSTAIN_TEXT = "The documents do not answer this question."


class TextDecoder:
    """Ids in, pieces of text out; the pieces joined equal tokenizer.decode of all ids, stripped at both ends.

    Ids whose bytes end inside a character wait for the rest of it, white space waits for what follows.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[int] = []  # ids not decoded for good
        self._spaces = ""  # white space that may turn out to be the end
        self.has_text = False

    def push(self, id: int) -> str:
        """The text that is certain now; often "" inside a character."""
        self._waiting.append(id)
        return self._emit(self._settled())

    def finish(self) -> str:
        """What was still waiting; a character that never got finished is replaced, as decode does."""
        text = self._tokenizer.decode(self._waiting)
        self._waiting = []
        return self._emit(text)

    def _settled(self) -> str:
        text = self._tokenizer.decode(self._waiting)
        if not text.endswith(REPLACEMENT):
            self._waiting = []
            return text
        # bytes that are no UTF-8 at all must not wait forever: cut where both parts decode as the whole does
        for cut in range(len(self._waiting) - 1, 0, -1):
            if len(self._waiting) <= MAX_UNFINISHED:
                break
            head, tail = self._tokenizer.decode(self._waiting[:cut]), self._tokenizer.decode(self._waiting[cut:])
            if head + tail == text:
                self._waiting = self._waiting[cut:]
                return head
        return ""

    def _emit(self, text: str) -> str:
        text = self._spaces + text
        if not self.has_text:
            text = text.lstrip()
        body = text.rstrip()
        self._spaces = text[len(body) :]
        self.has_text = self.has_text or bool(body)
        return body


class TextStop:
    """Lets pieces of text through up to the first of some texts; what may be the beginning of one waits.

    The pieces joined are the whole text cut before the first stop, without white space at the cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        stops = (stops,) if isinstance(stops, str) or not isinstance(stops, Iterable) else tuple(stops)
        if not all(isinstance(text, str) for text in stops):
            raise ConfigError(f"stop is {list(stops)}, not a list of texts", hint='for example stop=["###"]')
        if any(not text.strip() for text in stops):
            raise ConfigError(f"stop is {list(stops)}: white space alone is stripped from answers",
                              hint="give texts with at least one other character")
        self.stops = stops
        self._held = ""
        self.is_hit = False

    def push(self, piece: str) -> str:
        """What of the text is certain now."""
        if not self.stops or self.is_hit:
            return "" if self.is_hit else piece
        self._held += piece
        cut = first_stop(self._held, self.stops)
        if cut >= 0:
            self.is_hit = True
            text, self._held = self._held[:cut].rstrip(), ""
            return text
        longest = max(map(len, self.stops)) - 1
        begun = (length for length in range(min(longest, len(self._held)), 0, -1)
                 if any(stop.startswith(self._held[-length:]) for stop in self.stops))
        free = self._held[: len(self._held) - next(begun, 0)].rstrip()
        self._held = self._held[len(free) :]
        return free

    def finish(self) -> str:
        """What was still waiting."""
        rest, self._held = self._held, ""
        return rest


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first of the stops begins in a text; -1 without one."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=-1)


class TextMarks:
    """Lets pieces of text through, with a space in every "[12]": a document that holds marks cannot make a model cite.

    What may be the beginning of one waits. The pieces joined are without_marks of the whole text.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """What of the text is certain now."""
        text = self._held + piece
        begun = _BEGUN_MARK.search(text)
        self._held = begun[0] if begun else ""
        return without_marks(text[: len(text) - len(self._held)])

    def finish(self) -> str:
        """What was still waiting."""
        rest, self._held = self._held, ""
        return rest


# every digit and bracket that reads as one, so that wide ones make no mark either
_MARK = re.compile(r"([\[\uff3b])(?=\d+[\]\uff3d])")
_BEGUN_MARK = re.compile(r"[\[\uff3b]\d*\Z")


def without_marks(text: str) -> str:
    """Text that an answer holds, with a space in what looks like the mark of a citation: "[12]" becomes "[ 12]"."""
    return _MARK.sub(r"\1 ", text)


class AnswerDecoder:
    """Ids of an answer in, pieces of it out: text, then " [1][3]" for its citations; abstaining gives one sentence.

    The ids keep the answer grammar: the model cites first and answers then. A reader sees the marks behind the text
    they belong to, and none when the answer was cut before its text; nothing else in the text looks like one. stop:
    texts that end the answer before them.
    """

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._text = TextDecoder(tokenizer)
        self._stop = TextStop(stop)
        self._stops = self._stop.stops
        self._own_marks = TextMarks()
        self._has_text = False
        self._slots: list[int] = []

    def push(self, id: int) -> str:
        """What this id adds for certain."""
        if id == self._tokenizer.special("abstain"):
            return ABSTAIN_TEXT
        slot = self._tokenizer.doc_index(id)
        if slot is not None:
            self._slots.append(slot)
            return ""
        if self._tokenizer.is_reserved(id):
            return ""
        return self._emit(self._own_marks.push(self._stop.push(self._text.push(id))))

    @property
    def is_stopped(self) -> bool:
        """Whether a stop was met: what is pushed now adds nothing."""
        return self._stop.is_hit

    def cut(self, text: str) -> str:
        """The whole text of an answer as far as the pieces go that met a stop."""
        return text[: first_stop(text, self._stops)].rstrip()

    def finish(self) -> str:
        """What was still waiting, and the marks. Ends the answer: nothing can be pushed afterwards."""
        rest = self._own_marks.push(self._stop.push(self._text.finish()) + self._stop.finish())
        rest = self._emit(rest + self._own_marks.finish())
        return f"{rest} {_marks(self._slots)}" if self._slots and self._has_text else rest

    def _emit(self, piece: str) -> str:
        self._has_text = self._has_text or bool(piece)
        return piece


def answer_text(answer: ParsedAnswer) -> str:
    """A whole answer as a reader sees it: the pieces of AnswerDecoder joined."""
    if answer.abstained:
        return ABSTAIN_TEXT
    return f"{without_marks(answer.text)} {_marks(answer.citations)}".strip()


def _marks(slots: Sequence[int]) -> str:
    return "".join(f"[{slot + 1}]" for slot in slots)

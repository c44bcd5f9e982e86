"""How long a text is: in words, or in the tokens of a model, each with its place in the text."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nanochat.errors import ConfigError
from nanochat.retrieval.words.analysis import _UNSPACED

# a character of a script without spaces counts as a word, as it does in search; punctuation stays with it
_WORD = re.compile(f"[{_UNSPACED}][^\\w\\s]*|[^\\s{_UNSPACED}]+")
# a word of more tokens may be cut inside
_LONG_WORD = 16


@dataclass
class Units:
    """What is counted, in order: spans[i] weighs totals[i + 1] - totals[i], at least 1."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    totals: list[int] = field(default_factory=lambda: [0])

    def add(self, span: tuple[int, int], weight: int) -> None:
        self.spans.append(span)
        self.totals.append(self.totals[-1] + max(1, weight))


class Measure(Protocol):
    def units(self, content: str, pieces: Sequence[tuple[int, int]]) -> tuple[Units, list[int]]:
        """The units of the pieces (in order, all that is not white space), and how many there are up to each end."""
        ...

    def is_short(self, content: str, size: int) -> bool:
        """Whether a text surely has at most `size` units, where that is easy to say."""
        ...

    def fits(self, text: str, weight: int, size: int) -> bool:
        """Whether a text that weighs `weight` in its document has at most `size` units by itself, too."""
        ...


class WordMeasure:
    """Words are what white space separates; characters of Chinese and Japanese count one by one."""

    def units(self, content: str, pieces: Sequence[tuple[int, int]]) -> tuple[Units, list[int]]:
        words: list[tuple[int, int]] = []
        counts = []
        for start, end in pieces:
            words += [found.span() for found in _WORD.finditer(content, start, end)]
            counts.append(len(words))
        return Units(words, list(range(len(words) + 1))), counts

    def is_short(self, content: str, size: int) -> bool:
        return content.isascii() and len(content.split()) <= size

    def fits(self, text: str, weight: int, size: int) -> bool:
        return weight <= size


class TokenMeasure:
    """Tokens of a tokenizer.json of the `tokenizers` library, without special tokens around the text."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigError where there is no such tokenizer."""
        from tokenizers import Tokenizer

        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{file}: no tokenizer can be read from it", hint="name a tokenizer.json or a folder that holds one"
            ) from error
        try:
            self.tokenizer = Tokenizer.from_str(text)
        except BaseException as error:
            # the library raises the bare class
            if type(error) is not Exception:
                raise
            raise ConfigError(f"{file}: not a tokenizer ({error})", hint="name a tokenizer.json") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def units(self, content: str, pieces: Sequence[tuple[int, int]]) -> tuple[Units, list[int]]:
        ends = [end for _, end in self.tokenizer.encode(content, add_special_tokens=False).offsets]
        units = Units()
        counts = []
        reached = 0  # tokens that end up to here are counted
        for start, end in pieces:
            for found in _WORD.finditer(content, start, end):
                upto = bisect_right(ends, found.end(), reached)
                if upto - reached > _LONG_WORD:
                    _add_parts(units, found.start(), ends[reached:upto], found.end())
                else:
                    units.add(found.span(), upto - reached)
                reached = upto
            counts.append(len(units.spans))
        return units, counts

    def is_short(self, content: str, size: int) -> bool:
        return False

    def fits(self, text: str, weight: int, size: int) -> bool:
        # a text alone is cut a little differently at its edges, never by so much
        if weight <= size * 3 // 4:
            return True
        return len(self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids) <= size


def _add_parts(units: Units, start: int, ends: Sequence[int], stop: int) -> None:
    """A very long word as units that end where its tokens do; tokens of one character stay together."""
    waiting = 0
    for end in ends:
        waiting += 1
        if start < end < stop:
            units.add((start, end), waiting)
            start, waiting = end, 0
    units.add((start, stop), waiting)

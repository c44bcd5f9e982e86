"""Checks of characters: text read in the wrong encoding, lost and invisible characters, names of reserved tokens."""

import re
from collections.abc import Callable

from nanochat.retrieval.linting.findings import Look, NotRun, Setup, View, excerpt

_WRITTEN_TOGETHER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
# Form feeds, C0 and C1 controls, the soft hyphen, byte order marks, direction overrides, and letters of the invisible
# "tag" alphabet other than in flags. Joiners stay where a script or an emoji needs them.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\u202a-\u202e"
    "\u2066-\u2069]"
    f"|(?<![{_WRITTEN_TOGETHER}])\u200b(?![{_WRITTEN_TOGETHER}])"
    "|(?<=[\x00-\u024f])[\u200c\u200d](?=[\x00-\u024f])|\\A[\u200c\u200d]"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+"
)
_ANY_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b-\u200d\u2060-\u2064\u206a-\u206f\ufeff"
    "\ufff9-\ufffb\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_MARKS = re.compile("[\u200e\u200f]")
_LOST = re.compile("\ufffd|[\ue000-\uf8ff]")
_RESERVED = re.compile(r"<\|[a-z_0-9]{1,40}\|>")


def control_characters(setup: Setup) -> Look:
    def look(view: View) -> str:
        if not _ANY_CONTROL.search(view.text):
            return ""
        found = CONTROL.search(view.text)
        if not found and not _RIGHT_TO_LEFT.search(view.text):
            found = _MARKS.search(view.text)
        return excerpt(view.text, *found.span()) if found else ""
    return look


def without_control_characters(text: str) -> str:
    """The text without what `control_characters` reports; a form feed becomes a line break."""
    if not _ANY_CONTROL.search(text):
        return text
    text = CONTROL.sub(_instead, text)
    return text if _RIGHT_TO_LEFT.search(text) else _MARKS.sub("", text)


def _instead(found: re.Match[str]) -> str:
    # the codes that Latin-1 has for controls are quotes and dashes in Windows-1252, where most of them come from
    if "\x80" <= found[0] <= "\x9f":
        return found[0].encode("latin-1").decode("cp1252", "ignore")
    return "\n" if found[0] == "\f" else ""


def lost_characters(setup: Setup) -> Look:
    """Replacement characters, and characters of the private area, which only the original file's font can show."""
    def look(view: View) -> str:
        found = None if view.text.isascii() else _LOST.search(view.text)
        return excerpt(view.text, *found.span()) if found else ""
    return look


def mojibake(setup: Setup) -> Look:
    repair = repairer()

    def look(view: View) -> str:
        if view.text.isascii():
            return ""
        for line in view.text.split("\n"):
            if not line.isascii() and (repaired := repair(line)) != line:
                place = next((i for i, pair in enumerate(zip(line, repaired, strict=False)) if pair[0] != pair[1]), 0)
                old, new = (excerpt(text, place, place, around=25) for text in (line, repaired))
                return f"{old} should be {new}"
        return ""
    return look


def repairer() -> Callable[[str], str]:
    """A function that gives a line of text with its mojibake undone, and any other line as it is. May raise NotRun."""
    try:
        import ftfy
        from ftfy.badness import is_bad
    except ModuleNotFoundError as missing:
        raise NotRun("pip install ftfy") from missing
    # quotes, ligatures, widths, entities and line breaks stay as they were written
    config = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
        uncurl_quotes=False, fix_line_breaks=False, fix_surrogates=False, remove_control_chars=False,
        normalization=None, replace_lossy_sequences=False, fix_c1_controls=False,
    )

    def repair(line: str) -> str:
        if not is_bad(line):
            return line
        # this letter and a blank may be a misread \u00e0, but alone they prove nothing
        proof = line.replace("\u00c3 ", " ")
        return line if ftfy.fix_encoding(proof, config) == proof else ftfy.fix_encoding(line, config)
    return repair


def reserved_tokens(setup: Setup) -> Look:
    def look(view: View) -> str:
        found = _RESERVED.search(view.text) if "<|" in view.text else None
        return excerpt(view.text, *found.span()) if found else ""
    return look

"""Prompt-lookup drafts: an answer that copies from its documents is guessed by looking up its last ids in them.

Draft ids are read together with the last sampled one; the model says at each place what it would have chosen, and the
draft counts as far as it agrees. A row's choice at a place follows from its logits and its next random number, so the
answer is the same with drafts and without, greedy or sampled: a draft id is kept as often as the model would take it,
which is what rejection sampling does for a draft without chance (Leviathan et al. 2022, arXiv:2211.17192).
Lookup in the prompt: Saxena 2023, "Prompt Lookup Decoding".
"""

from collections.abc import Sequence

from torch import Tensor

from nanochat.engine.rules import RowRule

NGRAMS = (3, 2, 1)  # ids that must agree, longest first
FIRST_DRAFT = 4  # ids of a row's first draft; grows and shrinks with what is accepted
MAX_REREAD = 8  # ids read again beside a draft; above, they are read alone, which settles them
FIRST_PAUSE, MAX_PAUSE = 4, 64  # steps without a draft after one that failed, and after many


class NgramSearch:
    """Where an n-gram of a source goes on, found by scanning it.

    The ids are kept as characters of a string, which C searches at gigabytes a second: an index over all n-grams would
    cost more to build than most answers cost to write.
    """

    def __init__(self, source: Sequence[int]) -> None:
        self._ids = list(source)
        self._text = "".join(map(chr, self._ids))

    def follow(self, tail: Sequence[int], anchor: int) -> tuple[int, int]:
        """Where the longest known n-gram at the end of `tail` goes on, and how long it is; (-1, 0) for none.

        Of several places the first behind `anchor` is taken, where the answer has been reading; otherwise the last.
        """
        for n in NGRAMS:
            if len(tail) < n:
                continue
            gram = "".join(map(chr, tail[-n:]))
            start = self._text.find(gram, max(0, anchor + 1 - n))
            if start < 0:
                start = self._text.rfind(gram)
            if 0 <= start < len(self._ids) - n:
                return start + n, n
        return -1, 0

    def ids(self, start: int, count: int) -> list[int]:
        return self._ids[start : start + count]


class Drafter:
    """Drafts for one row: how long they are follows from how the last ones fared.

    A whole draft accepted doubles the next one, one of which little was right halves it. One of which nothing was right
    begins a pause, which doubles with every further failure, and from then on a single id in common is not enough to
    guess from: a text that copies nothing soon pays for nothing.
    """

    def __init__(self, source: Sequence[int], *, max_draft: int) -> None:
        self._source, self._search = source, None
        self._max, self._length = max_draft, min(FIRST_DRAFT, max_draft)
        self._pause = self._left = 0
        self._anchor = 0
        self._place = -1
        self._is_trusted = False  # the last draft was right, at least in part

    def draft(self, tail: Sequence[int], room: int) -> list[int]:
        """At most `room` ids that may follow `tail`, the last ids of the row; [] without a guess."""
        if self._left:
            self._left -= 1
            return []
        if self._search is None:
            self._search = NgramSearch(self._source)
        self._place, agreeing = self._search.follow(tail, self._anchor)
        if agreeing < (1 if self._is_trusted else 2):
            return []
        return self._search.ids(self._place, min(self._length, room))

    def settle(self, drafted: int, accepted: int) -> None:
        """How many ids of the last draft were tried and how many were right."""
        if not drafted:
            return
        self._is_trusted = accepted > 0
        if accepted:
            self._anchor, self._pause = self._place + accepted - 1, 0
        else:
            self._left = self._pause = min(max(2 * self._pause, FIRST_PAUSE), MAX_PAUSE)
        if accepted == drafted:
            self._length = min(2 * self._length, self._max)
        elif accepted * 2 < drafted:
            self._length = max(self._length // 2, 1)


def obey(draft: Sequence[int], rule: RowRule | None) -> tuple[list[int], list[Tensor | None]]:
    """The draft up to the first id that the rule forbids, and the rule's masks at every place, the next one included.

    Returns n ids and n + 1 masks. The rule itself is left as it is.
    """
    if rule is None:
        return list(draft), [None] * (len(draft) + 1)
    masks = [rule.allowed()]
    walked = rule.fork() if draft else rule
    for place, id in enumerate(draft):
        mask = masks[-1]
        if mask is not None and not bool(mask[id]):
            return list(draft[:place]), masks
        walked.advance(id)
        masks.append(walked.allowed())
    return list(draft), masks

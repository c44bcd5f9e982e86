"""The pieces of an episode: what the policy wrote without a break, its queries one by one and then its answer."""

from collections.abc import Iterable

from nanochat.tokenizer import Tokenizer


def pieces_of(places: Iterable[int]) -> dict[int, int]:
    """For each chosen place, in order, the number of its piece, from 0.

    A piece follows a block of results: the decision to search again and the query, or the decision to answer and the
    answer. Where a decision was forced, the piece begins behind it.
    """
    number, last, found = -1, -1, {}
    for place in sorted(places):
        number += number < 0 or place != last + 1
        found[place] = number
        last = place
    return found


def token_text(id: int, tokenizer: Tokenizer) -> str:
    """A token as people read it: text, or the name of a reserved one in angle brackets."""
    slot = tokenizer.doc_index(id)
    if slot is not None:
        return f"<document {slot + 1}>"
    names = ("query_start", "query_end", "assistant_start", "assistant_end", "cite", "abstain")
    return next((f"<{name}>" for name in names if tokenizer.special(name) == id), tokenizer.decode([id]))

"""Searching between hops: many queries in one call, and sentences for a search that fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanochat.engine.sampling import short
from nanochat.errors import SearchFailed, UserError

# (queries, top_k) -> for each query documents with id, title and content, best first
Search = Callable[[Sequence[str], int], Sequence[Sequence[Mapping[str, Any]]]]
_FIELDS = ("id", "title", "content")
_CHECK = "the cause is in the search itself; a knowledge base is checked by: nanochat kb verify data/my_kb"
_HINT = 'a search gives for each query a list of {"id": ..., "title": ..., "content": ...}'


def search_once(
    search: Search, queries: Sequence[str], top_k: int, *, hop: int
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """What was found for each query, each asked for once, in one call; none without queries.

    Raises SearchFailed, with what was asked, when the search raises or gives something else than documents.
    """
    wanted = list(dict.fromkeys(queries))
    if not wanted:
        return {}
    more = len(wanted) - 1
    others = f" and {more} more" if more else ""
    where = f"The search of hop {hop} for {short(wanted[0])}{others}"
    try:
        found = search(wanted, top_k)
    except UserError as error:
        raise SearchFailed(f"{where} failed: {error.problem}", hint=error.hint) from error
    except Exception as error:  # noqa: BLE001 - foreign code raises what it likes
        raise SearchFailed(f"{where} failed: {type(error).__name__}: {error}", hint=_CHECK) from error
    if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
        count = len(found) if isinstance(found, (list, tuple)) else short(found)
        raise SearchFailed(f"{where} gave {count}, not {len(wanted)} lists of documents", hint=_HINT)
    for hits in found:
        if not isinstance(hits, (list, tuple)) or not all(map(_is_document, hits)):
            raise SearchFailed(f"{where} gave {short(hits)}, not a list of documents", hint=_HINT)
    return dict(zip(wanted, found, strict=True))


def _is_document(hit: Any) -> bool:
    return isinstance(hit, Mapping) and all(isinstance(hit.get(name), str) for name in _FIELDS)

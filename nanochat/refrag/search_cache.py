"""Searches of rollouts: all waiting queries at once, none twice."""

import time
from collections.abc import Callable, Sequence
from typing import Any

Search = Callable[[Sequence[str], int], list[list[dict[str, Any]]]]  # queries, top_k -> documents, best first


class SearchCache:
    """A search that remembers; for one knowledge base. Callable like what it wraps.

    Keeps the last `size` results, in order of their first search. `seconds` and `num_searched` are those of the search
    itself.
    """

    def __init__(self, search: Search, *, size: int = 100_000) -> None:
        self.search, self.size = search, size
        self.seconds, self.num_asked, self.num_searched = 0.0, 0, 0
        self._known: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def __call__(self, queries: Sequence[str], top_k: int) -> list[list[dict[str, Any]]]:
        """Documents for each query."""
        self.num_asked += len(queries)
        found = {query: self._known[query, top_k] for query in queries if (query, top_k) in self._known}
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        if missing:
            start = time.perf_counter()
            new = self.search(missing, top_k)
            self.seconds += time.perf_counter() - start
            assert len(new) == len(missing), f"{len(missing)} queries, {len(new)} results"
            self.num_searched += len(missing)
            found.update(zip(missing, new, strict=True))
            for query in missing:
                self._known[query, top_k] = found[query]
            while len(self._known) > self.size:
                del self._known[next(iter(self._known))]
        return [found[query] for query in queries]

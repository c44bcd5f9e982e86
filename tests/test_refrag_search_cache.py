"""Searches of rollouts: batched, remembered, and what fails is passed on."""

import pytest

from nanochat.errors import UserError
from nanochat.refrag.search_cache import SearchCache


def test_each_query_is_searched_once_and_all_that_are_new_together():
    calls = []

    def search(queries, top_k):
        calls.append(list(queries))
        return [[{"id": f"{query}{n}"} for n in range(top_k)] for query in queries]

    cache = SearchCache(search, size=3)
    assert cache(["a", "b", "a"], 2) == [[{"id": "a0"}, {"id": "a1"}], [{"id": "b0"}, {"id": "b1"}],
                                         [{"id": "a0"}, {"id": "a1"}]]
    assert cache(["b", "c"], 2)[1] == [{"id": "c0"}, {"id": "c1"}]
    assert len(cache(["a"], 1)[0]) == 1, "another number of documents is another search"
    assert calls == [["a", "b"], ["c"], ["a"]] and cache.num_searched == 4 and cache.num_asked == 6
    cache(["a"], 2)
    assert len(calls) == 4, "the oldest is forgotten"


def test_a_search_that_fails_is_heard():
    def search(queries, top_k):
        raise UserError("the index is gone")

    with pytest.raises(UserError, match="the index is gone"):
        SearchCache(search)(["a"], 1)

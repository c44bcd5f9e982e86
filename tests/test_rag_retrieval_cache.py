"""Retrieval before training: searched once, kept by query, depth and index, never wrong."""

import numpy as np
import pytest

from nanochat.rag.retrieval_cache import RetrievalCache


class Search:
    """Finds as many positions as the query has letters; counts its work."""

    def __init__(self):
        self.asked = []

    def __call__(self, queries, top_k):
        self.asked += queries
        return [list(range(len(query)))[:top_k] for query in queries]


def test_every_query_is_searched_once(tmp_path):
    search = Search()
    cache = RetrievalCache(search, "kb 1", tmp_path)
    assert cache.warm(["ab", "abc", "ab", ""], 4) == (3, 3)
    assert cache(["abc", "", "ab"], 4) == [[0, 1, 2], [], [0, 1]] and search.asked == ["ab", "abc", ""]
    assert cache(["new"], 4) == [[0, 1, 2]] and cache(["abc"], 2) == [[0, 1]]
    cache(["abc"], 4)[0].append(99)
    assert cache(["abc"], 4) == [[0, 1, 2]], "a caller's list is its own"


def test_another_run_finds_the_results_of_the_same_index_and_depth_only(tmp_path):
    RetrievalCache(Search(), {"fingerprint": "a", "rerank": ""}, tmp_path).warm(["ab", "abcde", ""], 3)
    for fingerprint, rerank, depth, known in (("a", "", 3, 3), ("b", "", 3, 0), ("a", "x", 3, 0), ("a", "", 4, 0)):
        cache = RetrievalCache(Search(), {"fingerprint": fingerprint, "rerank": rerank}, tmp_path)
        assert cache.warm(["ab", "abcde", "", "x"], depth) == (4, 4 - known)
        assert cache(["abcde", "", "x"], depth) == [[0, 1, 2, 3, 4][:depth], [], [0]]
    # the fourth query was added to what was there
    again = RetrievalCache(Search(), {"fingerprint": "a", "rerank": ""}, tmp_path)
    assert again.warm(["ab", "abcde", "", "x"], 3) == (4, 0)


@pytest.mark.parametrize("name", ["queries.npy", "positions.npy"])
@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_damaged_files_count_as_absent(tmp_path, name, content):
    RetrievalCache(Search(), "kb", tmp_path).warm(["ab", "abc"], 3)
    (folder,) = tmp_path.iterdir()
    if content is None:
        np.save(folder / name, np.zeros((1, 3), dtype=np.float32), allow_pickle=False)
    else:
        (folder / name).write_bytes(content)
    cache = RetrievalCache(Search(), "kb", tmp_path)
    assert cache.warm(["ab", "abc"], 3) == (2, 2) and cache(["abc"], 3) == [[0, 1, 2]]
    assert RetrievalCache(Search(), "kb", tmp_path).warm(["ab", "abc"], 3) == (2, 0)


def test_an_interrupted_search_leaves_no_file(tmp_path):
    def search(queries, top_k):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RetrievalCache(search, "kb", tmp_path).warm(["a"], 3)
    assert list(tmp_path.iterdir()) == []


def test_old_indexes_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.rag.retrieval_cache.MAX_KEPT", 3)
    for number in range(6):
        RetrievalCache(Search(), number, tmp_path).warm(["a"], 3)
    assert len(list(tmp_path.iterdir())) == 3
    assert RetrievalCache(Search(), 5, tmp_path).warm(["a"], 3) == (1, 0)

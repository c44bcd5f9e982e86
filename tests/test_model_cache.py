"""Laws of the cache: views share memory or refuse, rows move in place, going back is exact, by value is by value."""

import random

import pytest
import torch

from nanochat.model import Cache, LanguageModel, ModelConfig
from nanochat.model.cache import KVState

# block pattern, width of the convolution on q, k, v, and whether tokens of documents know their slot
SHAPES = [("T", 0), ("T", 4), ("M", 0), ("T,M", 0), ("M,T,M", 3), ("T", 0, True), ("M", 0, True), ("T,M", 2, True)]
TOLERANCE = 1e-5
VOCAB = 50
SLOTS = {"slot_scale": 0.5, "slot_ids": (0, 1, 2, 18)}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def make_model(shape: tuple) -> LanguageModel:
    config = ModelConfig(
        block_pattern=shape[0], attention_conv=shape[1], vocab_size=VOCAB, n_embd=24, n_head=4, n_kv_head=2,
        mlp_hidden=20, d_state=6, headdim=6, n_groups=2, chunk_size=7, init_std=0.2, **(SLOTS if shape[2:] else {}))
    return LanguageModel(config, seed=1).eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))
    # every tenth id opens results
    return ids.masked_fill(ids % 10 == 3, SLOTS["slot_ids"][0])


def feed(model: LanguageModel, cache: Cache, rows: list[list[int]], row: int, ids: list[int]) -> None:
    """Let one row read ids, through a view of it."""
    cache.reserve(cache.host_lengths[row] + len(ids))
    model(torch.tensor([ids]), cache.view(row + 1, start=row))
    rows[row] = rows[row] + ids


def assert_rows_are(model: LanguageModel, cache: Cache, rows: list[list[int]]) -> None:
    """The next logits of every row are those of its ids read at once."""
    assert cache.host_lengths == cache.lengths.tolist() == [len(row) for row in rows]
    probe = random_ids(len(rows), 2, seed=99)
    logits = model(probe, cache.snapshot())
    for number, row in enumerate(rows):
        expected = model(torch.tensor([row + probe[number].tolist()]))[0, -2:]
        difference = (logits[number] - expected).abs().max().item()
        assert difference < TOLERANCE, f"row {number} of {len(row)} tokens differs by {difference}"


def unequal_rows(model: LanguageModel, lengths: tuple[int, ...] = (5, 1, 17, 8)) -> tuple[Cache, list[list[int]]]:
    cache, rows = model.new_cache(len(lengths)), [[] for _ in lengths]
    for row, length in enumerate(lengths):
        feed(model, cache, rows, row, random_ids(length, seed=row).tolist())
    return cache, rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start,stop", [(0, 1), (0, 3), (1, 4), (2, 3), (0, 4)])
def test_what_a_view_reads_its_cache_has_read(shape, start, stop):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    cache.reserve(40)
    view = cache.view(stop, start=start)
    for length in (3, 1):
        ids = random_ids(stop - start, length, seed=length)
        model(ids, view)
        for place, more in enumerate(ids.tolist()):
            rows[start + place] = rows[start + place] + more
    assert_rows_are(model, cache, rows)
    assert_rows_are(model, view, rows[start:stop])
    # and the other way round, through a view of the view
    model(random_ids(1, 2), cache.view(stop, start=stop - 1))
    rows[stop - 1] = rows[stop - 1] + random_ids(1, 2)[0].tolist()
    inner = view.view(stop - start, start=stop - start - 1)
    assert_rows_are(model, inner, rows[stop - 1 : stop])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "T" in shape[0]])
def test_a_view_that_would_lose_what_it_reads_refuses(shape):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    view = cache.view(3)
    room = cache.capacity - max(view.host_lengths)
    with pytest.raises(AssertionError, match="a view has room for"):
        model(random_ids(3, room + 1), view)
    cache, rows = unequal_rows(model)
    view = cache.view(3)
    cache.reserve(cache.capacity + 1)
    assert view.is_stale and not cache.is_stale
    with pytest.raises(AssertionError, match="out of date"):
        model(random_ids(3, 1), view)
    if shape[1]:
        with torch.enable_grad(), pytest.raises(AssertionError, match="gradients"):
            model(random_ids(3, 1), cache.view(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_copied_put_swapped_and_cleared_in_place(shape):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    keys = [layer.keys.data_ptr() for layer in cache.layers if isinstance(layer, KVState)]
    other, others = unequal_rows(model, (9, 3))
    cache.copy_row(2, 1)
    rows[1] = rows[2]
    cache.swap_rows(0, 3)
    rows[0], rows[3] = rows[3], rows[0]
    cache.put_row(2, other, 1)
    rows[2] = others[1]
    assert_rows_are(model, cache, rows)
    cache.clear_row(0)
    rows[0] = []
    assert [layer.keys.data_ptr() for layer in cache.layers if isinstance(layer, KVState)] == keys
    # a copy goes its own way
    feed(model, cache, rows, 1, [1, 2, 3])
    feed(model, cache, rows, 0, [4])
    assert_rows_are(model, cache, rows)
    assert_rows_are(model, other, others)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 2, 5, 19])
def test_rollback_is_exact_and_forgets_only_what_came_later(shape, length):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    probe = random_ids(4, 3, seed=5)
    expected = model(probe, cache.snapshot())
    mark = cache.mark()
    for _ in range(2):
        model(random_ids(4, length, seed=length), cache)
        cache.rollback(mark)
        assert cache.host_lengths == cache.lengths.tolist() == [5, 1, 17, 8]
    assert model(probe, cache.snapshot()).equal(expected)
    # some rows stay where they are: what a draft of which a part is accepted needs
    more = random_ids(4, length, seed=length + 1)
    model(more, cache)
    cache.rollback(mark, [2, 0])
    rows = [row + more[number].tolist() if number in (1, 3) else row for number, row in enumerate(rows)]
    assert_rows_are(model, cache, rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_marks_follow_their_rows_and_are_void_where_the_past_was_overwritten(shape):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    mark = cache.view(4, start=1).mark([0, 2])  # rows 1 and 3
    before = [rows[1], rows[3]]
    cache.swap_rows(3, 0)
    rows[0], rows[3] = rows[3], rows[0]
    feed(model, cache, rows, 0, [1, 2])
    later = cache.mark([0])
    feed(model, cache, rows, 1, [3, 4, 5, 6])
    cache.rollback(mark, [0, 1])
    rows[0], rows[1] = before[1], before[0]
    assert_rows_are(model, cache, rows)
    feed(model, cache, rows, 0, [7, 8, 9])
    for refused, numbers in ((later, None), (mark, [2])):
        with pytest.raises(AssertionError, match="cannot go back"):
            cache.rollback(refused, numbers)
    cache.copy_row(2, 1)
    with pytest.raises(AssertionError, match="cannot go back"):
        cache.rollback(mark, [1])
    cache.rollback(mark, [0])
    rows[0], rows[1] = before[1], rows[2]
    assert_rows_are(model, cache, rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_copies_by_value_go_their_own_way_and_keep_their_room(shape):
    model = make_model(shape)
    cache, rows = unequal_rows(model)
    cache.reserve(64)
    fork, chosen, snapshot = cache.fork(2), cache.gather([3, 1, 1]), cache.snapshot()
    assert fork.capacity == snapshot.capacity == cache.capacity
    assert cache.gather([1, 3], capacity=3).capacity == (8 if "T" in shape[0] else None)
    for each in (fork, chosen):
        model(random_ids(len(each), 3), each)
    assert_rows_are(model, cache, rows)
    model(random_ids(4, 5), cache)
    cache.restore(snapshot)
    assert_rows_are(model, cache, rows)
    assert_rows_are(model, snapshot, rows)
    added = random_ids(3, 3).tolist()
    assert_rows_are(model, chosen, [rows[3] + added[0], rows[1] + added[1], rows[1] + added[2]])
    cache.scatter([2, 0], chosen.gather([0, 1]))
    rows[2], rows[0] = rows[3] + added[0], rows[1] + added[1]
    assert_rows_are(model, cache, rows)


def test_bytes_in_use_and_bytes_held():
    model = make_model(("T,M", 4))
    cache, _ = unequal_rows(model)
    cache.reserve(100)
    kv = 2 * 2 * 6 * 4  # keys and values, 2 heads of 6 channels, float32
    fixed = 3 * (4 + 2 * 2) * 6 * 4 + 3 * (48 + 2 * 2 * 6) * 4 + 8 * 6 * 6 * 4  # both convolutions, the SSM state
    assert cache.used_bytes == sum((5, 1, 17, 8)) * kv + 4 * fixed
    assert cache.num_bytes == 4 * 100 * kv + 4 * fixed
    assert cache.view(3, start=2).used_bytes == 17 * kv + fixed


def test_lengths_written_by_others_are_noticed():
    model = make_model(("T", 0))
    cache, _ = unequal_rows(model)
    view = cache.view(2)
    assert cache.host_lengths == [5, 1, 17, 8]
    cache.lengths += 1
    assert (cache.host_lengths, view.host_lengths) == ([6, 2, 18, 9], [6, 2])
    view.advance(2)
    view.lengths[1] = 0
    assert (cache.host_lengths, view.host_lengths) == ([8, 0, 18, 9], [8, 0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_operations_leaves_every_row_what_it_has_read(shape, seed):
    model, chance = make_model(shape), random.Random(seed)
    cache, rows, marks = model.new_cache(5), [[] for _ in range(5)], []
    for number in range(40):
        one, other = chance.randrange(5), chance.randrange(5)
        operation = chance.choice(["feed"] * 4 + ["view", "copy", "swap", "mark", "rollback", "clear", "put"])
        if operation == "feed":
            feed(model, cache, rows, one, random_ids(chance.choice((1, 2, 3, 11)), seed=chance.randrange(999)).tolist())
        elif operation == "view":
            start, stop = min(one, other), max(one, other) + 1
            cache.reserve(max(cache.host_lengths) + 2)
            ids = random_ids(stop - start, 2, seed=number)
            model(ids, cache.view(stop, start=start))
            rows[start:stop] = [row + more for row, more in zip(rows[start:stop], ids.tolist(), strict=True)]
        elif operation == "copy":
            cache.copy_row(one, other)
            rows[other] = rows[one]
        elif operation == "swap":
            cache.swap_rows(one, other)
            rows[one], rows[other] = rows[other], rows[one]
        elif operation == "clear":
            cache.clear_row(one)
            rows[one] = []
        elif operation == "put":
            cache.put_row(one, cache.gather([other], capacity=0))
            rows[one] = rows[other]
        elif operation == "mark":
            marks.append((cache.mark(), [*rows]))
        elif marks:
            mark, then = chance.choice(marks)
            for was, place in enumerate(mark.places):
                if place >= 0:
                    cache.rollback(mark, [place])
                    rows[place] = then[was]
    assert_rows_are(model, cache, rows)

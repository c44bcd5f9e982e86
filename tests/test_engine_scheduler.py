"""Laws of continuous batching: company and order change nothing, what is common is read once, nobody starves."""

import random
from dataclasses import replace

import pytest
from engine_stubs import PATTERNS, SAMPLING, answers_alone, make_model, make_requests, serve

from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.request import Request, RequestRefused
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("options", [{"max_rows": 3, "prefill_tokens": 7}, {"speculate": 4, "speculate_rows": 3},
                                     {"has_graphs": True, "max_rows": 5}])
def test_a_request_gets_the_tokens_it_gets_alone(pattern, options):
    model, requests = make_model(pattern), make_requests(12, shared=50)
    expected = answers_alone(pattern, requests)
    for prefix_cache in (None, PrefixCache(model, max_bytes=2**24)):
        handles = serve(Scheduler(model, prefix_cache=prefix_cache, **options), requests)
        for number, (handle, ids) in enumerate(zip(handles, expected, strict=True)):
            assert handle.ids == ids, f"request {number}: {handle.ids}, alone {ids}"
            limit = requests[number].params
            assert handle.stop == ("end" if ids[-1] in limit.stop_ids else "length")
            assert len(ids) == limit.max_tokens or handle.stop == "end"
    assert {handle.stop for handle in handles} == {"end", "length"}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_order_and_time_of_arrival_change_nothing(pattern):
    model, requests = make_model(pattern), make_requests(10, seed=1, shared=40)
    expected = [handle.ids for handle in serve(Scheduler(model), requests)]
    rng = random.Random(5)
    for trial in range(3):
        scheduler = Scheduler(model, max_rows=rng.choice([2, 5]), prefill_tokens=rng.choice([5, 64]),
                              prefix_cache=PrefixCache(model, max_bytes=2**22) if trial % 2 else None, speculate=trial)
        order, handles = rng.sample(range(len(requests)), len(requests)), {}
        for number in order:
            handles[number] = scheduler.submit(requests[number])
            for _ in range(rng.randrange(4)):
                scheduler.step()
        scheduler.run()
        for number, ids in enumerate(expected):
            assert handles[number].ids == ids, f"trial {trial}, request {number}"


def test_what_prompts_begin_with_is_read_once():
    class Counting:
        num_read = 0

    model = make_model("M,T")
    features = model.features

    def counting(ids, cache=None, **options):
        Counting.num_read += ids.numel()
        return features(ids, cache, **options)

    rng = random.Random(0)
    beginning = [rng.randrange(300) for _ in range(200)]
    requests = [Request(ids=[*beginning, *(rng.randrange(300) for _ in range(10))],
                        params=SamplingParams(temperature=0, max_tokens=1), keep=False) for _ in range(8)]
    scheduler = Scheduler(model, prefix_cache=PrefixCache(model, max_bytes=2**24), prefill_tokens=2000)
    model.features = counting
    try:
        handles = serve(scheduler, requests)
    finally:
        del model.features
    assert Counting.num_read == 200 + 8 * 10, f"{Counting.num_read} tokens were read"
    assert [handle.cached_tokens for handle in handles] == [0] + [200] * 7


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_nobody_watches_is_read_first_and_written_alike(pattern):
    model, requests = make_model(pattern), make_requests(12, shared=50)
    requests = [replace(request, params=replace(request.params, max_tokens=4)) for request in requests]
    expected = [handle.ids for handle in serve(Scheduler(model), requests)]
    for prefix_cache in (None, PrefixCache(model, max_bytes=2**24)):
        scheduler = Scheduler(model, max_rows=10, prefill_tokens=8, prefix_cache=prefix_cache)
        handles = [scheduler.submit(request) for request in requests]
        scheduler.step(reads_all=True)
        assert sum(bool(handle.ids) for handle in handles) >= 10, "all there was room for"
        assert all(len(handle.ids) <= 2 for handle in handles)
        while scheduler.step(reads_all=True):
            pass
        assert [handle.ids for handle in handles] == expected


def test_who_waits_for_the_beginning_of_another_holds_up_nobody_behind():
    rng = random.Random(1)
    long, other = ([rng.randrange(300) for _ in range(60)] for _ in range(2))
    requests = [Request(ids=ids, params=SamplingParams(temperature=0, max_tokens=2))
                for ids in ([*long, 1], [*long, 2], [*other, 3], [*long, 4])]
    model = make_model("M,T")
    scheduler = Scheduler(model, prefix_cache=PrefixCache(model, max_bytes=2**24), prefill_tokens=200)
    handles = [scheduler.submit(request) for request in requests]
    scheduler.step()
    assert [bool(handle.ids) for handle in handles] == [True, False, True, False]
    scheduler.run()
    assert [handle.cached_tokens for handle in handles] == [0, 60, 0, 60], "and in their order"
    assert [handle.ids for handle in handles] == [handle.ids for handle in serve(Scheduler(model), requests)]


@pytest.mark.parametrize("keep", [True, False])
def test_a_next_turn_goes_on_from_the_answer_where_it_was_kept(keep):
    model = make_model("M,T")
    scheduler = Scheduler(model, prefix_cache=PrefixCache(model, max_bytes=2**24), speculate=4)
    request = make_requests(1, keep=keep)[0]
    first = serve(scheduler, [request])[0]
    ids = [*request.ids, *first.ids, 7, 8, 9]
    second = serve(scheduler, [Request(ids=ids, params=SAMPLING[0])])[0]
    assert second.cached_tokens == (len(ids) - 4 if keep else 0)
    assert second.ids == serve(Scheduler(model), [Request(ids=ids, params=SAMPLING[0])])[0].ids


def test_a_long_prompt_does_not_hold_up_those_who_write():
    scheduler = Scheduler(make_model("M,T"), prefill_tokens=8)
    short, long = Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=60)), Request(ids=[5] * 100)
    writer = scheduler.submit(short)
    scheduler.step()
    reader = scheduler.submit(long)
    for step in range(12):
        before = len(writer.ids)
        scheduler.step()
        assert len(writer.ids) == before + 1 and not reader.ids, f"step {step}"
    scheduler.step()
    assert reader.ids


def test_requests_begin_in_the_order_of_arrival_and_none_starves():
    scheduler = Scheduler(make_model("M,T"), max_rows=2, prefill_tokens=16)
    long = scheduler.submit(Request(ids=[9] * 60, params=SamplingParams(max_tokens=3)))
    others = [scheduler.submit(Request(ids=[1, 2], params=SamplingParams(max_tokens=2))) for _ in range(6)]
    begun = []
    for _ in range(100):
        scheduler.step()
        begun += [handle for handle in [long, *others] if handle.ids and handle not in begun]
        # short ones keep coming
        if len(others) < 40:
            others.append(scheduler.submit(Request(ids=[3], params=SamplingParams(max_tokens=2))))
    assert begun == [long, *others], "a later request overtook an earlier one"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_byte_limit_is_kept_and_what_can_never_fit_is_refused(pattern):
    model = make_model(pattern)
    one = Scheduler(model)._batch.bytes_for(1, 55)
    scheduler = Scheduler(model, max_cache_bytes=3 * one)
    requests = make_requests(12)
    handles, most = [scheduler.submit(request) for request in requests], 0
    while scheduler.step():
        most = max(most, scheduler._batch.num_bytes)
        assert most <= 3 * one, f"{most} bytes of {3 * one}"
    assert most > one and [handle.ids for handle in handles] == answers_alone(pattern, requests)
    refusing = Scheduler(model, max_cache_bytes=one - 1)
    with pytest.raises(RequestRefused, match="too long: 40 tokens and up to 15 more"):
        refusing.submit(Request(ids=[1] * 40, params=SamplingParams(max_tokens=15)))
    with pytest.raises(RequestRefused, match="empty"):
        refusing.submit(Request(ids=[]))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("options", [{}, {"has_graphs": True, "max_rows": 4}, {"prefix": True}], ids=str)
def test_the_byte_limit_holds_for_rows_that_are_read_beside_those_that_write(pattern, options):
    model, requests = make_model(pattern), make_requests(20, shared=10)
    one, expected = Scheduler(model)._batch.bytes_for(1, 65), answers_alone(pattern, requests)
    for limit in (2 * one, int(2.5 * one), 4 * one, 9 * one):
        prefix_cache = PrefixCache(model, max_bytes=2**22) if "prefix" in options else None
        scheduler = Scheduler(model, max_cache_bytes=limit, prefill_tokens=5, prefix_cache=prefix_cache,
                              **{name: value for name, value in options.items() if name != "prefix"})
        handles, most = [scheduler.submit(request) for request in requests], 0
        for _ in range(3000):
            if not scheduler.step():
                break
            most = max(most, scheduler.num_bytes)
        assert scheduler.is_idle, "a request that was let in is never served"
        assert 0.35 * limit < most <= limit or limit == 9 * one, f"{most} bytes of {limit}"
        assert most <= limit and [handle.ids for handle in handles] == expected


@pytest.mark.parametrize(("boundaries", "known"), [((), 0), ((30,), 30), ((30, 45), 45)])
def test_a_state_is_kept_at_the_boundaries_of_a_request(boundaries, known):
    model = make_model("M,T")
    scheduler = Scheduler(model, prefix_cache=PrefixCache(model, max_bytes=2**24))
    rng = random.Random(1)
    ids = [rng.randrange(300) for _ in range(60)]
    serve(scheduler, [Request(ids=ids, params=SAMPLING[0], boundaries=boundaries)])
    # goes its own way right behind the last boundary, where nothing else would keep a state the first time
    other = Request(ids=[*ids[:50], *(300 - id for id in ids[50:])], params=SAMPLING[0])
    assert serve(scheduler, [other])[0].cached_tokens == known


def test_with_graphs_the_cache_is_kept_while_nobody_writes_and_made_for_all_rows_at_once(monkeypatch):
    model, made = make_model("M,T"), []
    new_cache = model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda batch: made.append(batch) or new_cache(batch))
    scheduler = Scheduler(model, max_rows=6, prefill_tokens=4, has_graphs=True)
    for _ in range(3):
        serve(scheduler, [Request(ids=[number] * 4, params=SamplingParams(max_tokens=8)) for number in range(9)])
    assert scheduler.num_bytes == scheduler._batch.bytes_for(6, 16) and scheduler.is_idle
    assert [batch for batch in made if batch > 1] == [6], f"caches of {made} rows were made"
    assert scheduler._batch._graphs.buckets, "no step ran at a fixed shape"


def test_an_idle_scheduler_holds_no_states():
    scheduler = Scheduler(make_model("M,T"))
    for _ in range(3):
        serve(scheduler, make_requests(9))
        assert scheduler.num_bytes == 0 and scheduler.is_idle and not scheduler.step()
    held = {name: value for name, value in vars(scheduler).items() if isinstance(value, list | set | dict) and value}
    assert not held and not scheduler._waiting, f"left behind: {held}"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_join_a_cache_with_room_without_a_new_one(pattern, monkeypatch):
    model, made = make_model(pattern), []
    new_cache = model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda batch: made.append(batch) or new_cache(batch))
    scheduler = Scheduler(model, max_rows=8, prefill_tokens=4)
    for number in range(16):
        scheduler.submit(Request(ids=[number] * 4, params=SamplingParams(max_tokens=8)))
    scheduler.run()
    # one for every prompt, which is read alone here; one to measure; the batch's own, with places for those that wait
    assert sorted(made) == [1] * 17 + [8], f"caches of {made} rows were made"


def test_ids_outside_the_vocabulary_are_refused_at_the_door():
    scheduler = Scheduler(make_model("M,T"))
    for ids in ([1, 99999], [-1]):
        with pytest.raises(RequestRefused, match="outside 0"):
            scheduler.submit(Request(ids=ids))
    assert scheduler.is_idle

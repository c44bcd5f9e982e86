"""A scheduler among people: rules and models that fail, requests that are cancelled, threads, news."""

import threading

import numpy as np
import pytest
import torch
from engine_stubs import SAMPLING, answers_alone, make_model, make_requests, serve

from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.request import Request, RequestFailed, RequestRefused
from nanochat.engine.rules import OnlyIds
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler


def test_a_rule_that_fails_or_allows_nothing_ends_its_own_row_only():
    model = make_model("M,T")
    nothing = torch.zeros(model.config.vocab_size, dtype=torch.bool)

    class Ending(OnlyIds):
        num_calls = 0

        def allowed(self):
            Ending.num_calls += 1
            return ~nothing if Ending.num_calls < 4 else nothing

        def advance(self, id):
            pass

    class Raising(OnlyIds):
        def advance(self, id):
            raise KeyError(id)

    def broken():
        raise ValueError("no rule today")

    rules = {1: lambda: Ending(nothing), 3: lambda: Raising(~nothing), 4: broken, 6: lambda: OnlyIds(nothing)}
    requests = make_requests(8)
    expected = answers_alone("M,T", requests)
    for speculate in (0, 4):
        Ending.num_calls = 0
        scheduler = Scheduler(model, speculate=speculate, speculate_rows=9)
        handles = [scheduler.submit(Request(ids=request.ids, params=request.params, number=number,
                                            rule=rules.get(number))) for number, request in enumerate(requests)]
        scheduler.run()
        for number, handle in enumerate(handles):
            if number in rules:
                assert handle.stop == "error" and isinstance(handle.error, RequestFailed | KeyError | ValueError)
                with pytest.raises(type(handle.error)):
                    list(handle)
            else:
                assert handle.ids == expected[number] and handle.error is None
        assert len(handles[1].ids) == 3 and "allows no token after 3" in str(handles[1].error)
        assert scheduler.is_idle and scheduler.num_bytes == 0


def test_a_model_that_fails_ends_everybody_and_leaves_a_scheduler_that_works():
    model = make_model("M,T")
    scheduler = Scheduler(model, prefill_tokens=8)
    writer = scheduler.submit(Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=60)))
    scheduler.step()
    reader = scheduler.submit(Request(ids=[4] * 30))
    scheduler.step()
    waiting = scheduler.submit(Request(ids=[5, 6], params=SAMPLING[0]))

    def fail(*_args, **_options):
        raise MemoryError

    model.features = fail
    try:
        with pytest.raises(MemoryError):
            scheduler.step()
    finally:
        del model.features
    assert writer.stop == reader.stop == "error" and not waiting.is_done
    scheduler.run()
    assert waiting.ids == serve(Scheduler(model), [waiting.request])[0].ids


def test_cancelled_rows_leave_and_keep_what_they_wrote():
    scheduler = Scheduler(make_model("M,T"), max_rows=3, prefill_tokens=8)
    params = SamplingParams(max_tokens=50)
    handles = [scheduler.submit(Request(ids=ids, params=params)) for ids in ([1], [2], [3] * 40, [4])]
    for _ in range(4):
        scheduler.step()
    for handle in (handles[0], handles[2], handles[3]):
        handle.cancel()
    scheduler.step()
    assert [handle.stop for handle in handles] == ["cancelled", "", "cancelled", "cancelled"]
    assert len(handles[0].ids) >= 3 and not handles[2].ids and not handles[3].ids
    scheduler.run()
    assert len(handles[1].ids) == 50 and scheduler.is_idle


def test_many_threads_submit_cancel_and_read_while_one_steps():
    model, requests = make_model("M,T"), make_requests(24, seed=3, shared=40)
    expected = answers_alone("M,T", requests)
    scheduler = Scheduler(model, max_rows=5, prefill_tokens=32, prefix_cache=PrefixCache(model, max_bytes=2**22))
    is_over, results, events = threading.Event(), {}, []

    def serve() -> None:
        while not is_over.is_set():
            if scheduler.wait(0.01):
                scheduler.step()

    def client(numbers: range) -> None:
        for number in numbers:
            request = requests[number]
            doomed = scheduler.submit(Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=50)))
            handle = scheduler.submit(Request(ids=request.ids, params=request.params, number=number,
                                              on_event=lambda handle: events.append(handle.stop)))
            doomed.cancel()
            results[number] = [id for ids in handle for id in ids]
            assert list(doomed) is not None and doomed.stop == "cancelled"

    server = threading.Thread(target=serve)
    clients = [threading.Thread(target=client, args=(range(start, 24, 4),)) for start in range(4)]
    for thread in (server, *clients):
        thread.start()
    for thread in clients:
        thread.join(60)
    is_over.set()
    server.join(60)
    assert [results[number] for number in range(24)] == expected
    assert sum(map(bool, events)) == 24 and scheduler.is_idle


def test_events_carry_every_id_once():
    seen: list[int] = []
    scheduler = Scheduler(make_model("M,T"), speculate=4)
    request = make_requests(1)[0]
    handle = scheduler.submit(Request(ids=request.ids, params=request.params, source=[1, 2, 3] * 9,
                                      on_event=lambda handle: seen.append(len(handle.ids))))
    scheduler.run()
    assert [id for ids in handle for id in ids] == handle.ids
    assert seen[-1] == len(handle.ids) == 9 and handle.first_token_s <= handle.last_token_s


class OwnError(Exception):
    """An exception that only its author knows."""


def failing_factory(error=None):
    raise error or KeyError("no such grammar")


@pytest.mark.parametrize(("broken", "error"), [
    ({"rule": failing_factory}, KeyError),
    ({"rule": lambda: OnlyIds(torch.ones(3, dtype=torch.bool))}, ValueError),
    ({"on_event": lambda handle: 1 / 0}, ZeroDivisionError),
    ({"rule": lambda: failing_factory(OwnError("mine"))}, OwnError),
    ({"on_event": lambda handle: failing_factory(OwnError("mine"))}, OwnError),
    ({"on_event": lambda handle: failing_factory(OwnError("mine")) if handle.is_done else None}, OwnError),
    ({"on_event": lambda handle: next(iter(()))}, RequestFailed),
    ({"rule": lambda: next(iter(()))}, RequestFailed),
])
def test_what_a_request_brings_along_breaks_that_request_only(broken, error):
    model = make_model("M,T")
    good = Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=12, temperature=0.0))
    expected = serve(Scheduler(model), [good])[0].ids
    scheduler = Scheduler(model)
    first = scheduler.submit(good)
    for _ in range(4):
        scheduler.step()
    bad = scheduler.submit(Request(ids=[5], params=good.params, **broken))
    second = scheduler.submit(good)
    scheduler.run()
    assert first.ids == second.ids == expected
    assert bad.is_done and isinstance(bad.error, error) and scheduler.is_idle
    with pytest.raises(error):
        list(bad)


def test_no_handle_is_lost_when_the_model_fails_while_prompts_are_read_or_join(monkeypatch):
    model = make_model("M,T")
    for place in ("nanochat.engine.scheduler.Prefill.__init__", "nanochat.engine.batch.Batch.join"):
        scheduler = Scheduler(model)
        handle = scheduler.submit(Request(ids=[1, 2, 3]))
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                scheduler.run()
        assert handle.stop == "error" and scheduler.is_idle, place
        assert serve(scheduler, [Request(ids=[1, 2, 3], params=SAMPLING[0])])[0].stop


def test_a_request_that_waits_ends_at_the_step_after_it_was_cancelled():
    scheduler = Scheduler(make_model("M,T"), max_rows=1)
    writing, waiting, cancelled = (
        scheduler.submit(Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=20))) for _ in range(3))
    scheduler.step()
    cancelled.cancel()
    scheduler.step()
    assert cancelled.stop == "cancelled" and not writing.is_done and not waiting.is_done
    with pytest.raises(RequestRefused, match="outside 0"):
        scheduler.submit(Request(ids=[1], source=[99999]))


@pytest.mark.parametrize("broken", [
    {"ids": ["x"]}, {"ids": [1.0]}, {"ids": [True]}, {"ids": "text"}, {"ids": None}, {"ids": [[1]]},
    {"boundaries": ["x"]}, {"boundaries": [None]}, {"boundaries": 3}, {"source": ["x"]}, {"source": 5},
    {"params": {"max_tokens": 3}}, {"params": None},
])
def test_what_is_not_a_list_of_ids_is_refused_at_the_door(broken):
    scheduler = Scheduler(make_model("M,T"), prefix_cache=PrefixCache(make_model("M,T"), max_bytes=2**22))
    with pytest.raises(RequestRefused) as caught:
        scheduler.submit(Request(**{"ids": [1, 2, 3], **broken}))
    name = {"ids": "The prompt"}.get(*broken, *broken)
    assert caught.value.problem.startswith(name) and caught.value.hint and scheduler.is_idle
    # numbers of numpy are whole numbers too
    assert serve(scheduler, [Request(ids=np.arange(1, 4), params=SAMPLING[0], boundaries=[np.int64(2)])])[0].ids


def test_what_was_found_for_a_request_that_was_cancelled_is_given_back():
    model = make_model("M,T")
    prefix_cache = PrefixCache(model, max_bytes=2**24)
    beginning = list(range(100))
    serve(Scheduler(model, prefix_cache=prefix_cache), [Request(ids=beginning, params=SAMPLING[0])])
    for steps in (0, 1):
        scheduler = Scheduler(model, prefix_cache=prefix_cache, prefill_tokens=8, max_rows=2 + steps)
        first = scheduler.submit(Request(ids=[200] * 6, params=SamplingParams(max_tokens=30)))
        waiting = scheduler.submit(Request(ids=[*beginning, *range(40)]))
        scheduler.step()
        assert scheduler._matched is not None and scheduler._matched[0] is waiting, "it found no room in the portion"
        waiting.cancel()
        scheduler.step()
        assert waiting.stop == "cancelled" and scheduler._matched is None and not first.is_done

"""Laws of a session: a row in company is the row alone, given and sampled tokens are told apart, forks go their way.

What was read before is not read again, and rows go back to a mark exactly.
"""

from collections.abc import Callable

import pytest
import torch
from engine_stubs import PATTERNS, make_model

from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.session import Session, plan_steps
from nanochat.model import LanguageModel

GREEDY = SamplingParams(temperature=0, max_tokens=12)
LENGTHS = [5, 1, 17, 8, 8, 30]


def random_rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(300, (length,), generator=generator).tolist() for length in lengths]


def assert_logits_as_alone(session: Session, numbers: list[int]) -> None:
    for number in numbers:
        expected = plain_logits(session.model, session.rows[number].ids)[-1]
        difference = (session.logits([number])[0] - expected).abs().max().item()
        assert difference < 1e-5, f"row {number} differs by {difference}"


@torch.no_grad()
def plain_logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]


@pytest.mark.parametrize("lengths", [[], [0, 0], [3], [0, 3], [7, 7], LENGTHS, list(range(1, 65)), [100, 107, 164]])
def test_a_plan_feeds_every_row_its_length_in_few_calls(lengths):
    steps = plan_steps(lengths)
    fed = [0] * len(lengths)
    for places, length in steps:
        assert length > 0 and places
        for place in places:
            fed[place] += length
    assert fed == lengths
    spread = max(lengths, default=0) - min(lengths, default=0)
    assert len(steps) <= 1 + min(spread.bit_length(), len(set(lengths)))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("lengths", [LENGTHS, [20 + 3 * number for number in range(11)]])
def test_rows_of_different_length_have_the_logits_they_have_alone(pattern, lengths):
    model, rows = make_model(pattern), random_rows(lengths)
    session = Session(model, len(rows))
    session.extend(range(len(rows)), rows)
    # a second round to some rows only, from where they are
    more = random_rows([4, 9], seed=1)
    session.extend([2, 0], more)
    rows[2], rows[0] = rows[2] + more[0], rows[0] + more[1]
    assert [row.ids for row in session.rows] == rows
    assert_logits_as_alone(session, list(range(len(rows))))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_batch_samples_what_each_row_samples_alone(pattern):
    model, rows = make_model(pattern), random_rows(LENGTHS)
    # stop ids that some rows meet early: what row 0 and row 2 write second and fifth
    first = Session(model, len(rows))
    first.extend(range(len(rows)), rows)
    free = first.sample(GREEDY, stop_ids=())
    stop_ids = {free[0][1], free[2][4]}
    for params in (GREEDY, SamplingParams(max_tokens=12, temperature=0.8, top_k=50)):
        session = Session(model, len(rows), seed=5)
        session.extend(range(len(rows)), rows)
        together = session.sample(params, stop_ids=stop_ids)
        for number, row in enumerate(rows):
            alone = Session(model, 1, seed=5, numbers=[number])
            alone.extend([0], [row])
            assert alone.sample(params, stop_ids=stop_ids) == [together[number]]
            assert session.rows[number].ids == row + together[number]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sampled_means_masked_and_logprobs_are_those_of_a_plain_forward(pattern):
    model, rows = make_model(pattern), random_rows([6, 3])
    session = Session(model, 2)
    session.extend([0, 1], rows)
    stop = session.fork(1).sample(GREEDY, stop_ids=())[0][3]
    session.sample(GREEDY, stop_ids=(stop,))
    # an inserted result, then more sampling: rows that stopped go on from the stop token
    inserted = random_rows([5, 2], seed=7)
    session.extend([0, 1], inserted)
    session.sample(SamplingParams(max_tokens=4), stop_ids=())
    for number, row in enumerate(session.rows):
        assert len(row.ids) == len(row.mask) == len(row.logprobs)
        given = [id for id, sampled in zip(row.ids, row.mask, strict=True) if not sampled]
        assert given == rows[number] + inserted[number]
        logprobs = plain_logits(model, row.ids).log_softmax(-1)
        for place, sampled in enumerate(row.mask):
            expected = logprobs[place - 1, row.ids[place]].item() if sampled else 0.0
            assert abs(row.logprobs[place] - expected) < 1e-4, f"row {number}, place {place}"
    assert stop in session.rows[0].ids[6:10] and session.rows[0].mask[session.rows[0].ids.index(stop, 6)] == 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_fork_does_not_disturb_its_parent(pattern):
    model, rows = make_model(pattern), random_rows([6, 3])
    session = Session(model, 2)
    session.extend([0, 1], rows)
    before = session.logits()
    child = session.fork(3, seed=1)
    sampled = child.sample(SamplingParams(max_tokens=6, temperature=2.0), stop_ids=())
    assert [row.ids[: len(rows[0])] for row in child.rows[:3]] == [rows[0]] * 3
    assert len({tuple(ids) for ids in sampled[:3]}) > 1, "forks share their chance"
    assert session.logits().equal(before) and [row.ids for row in session.rows] == rows
    assert_logits_as_alone(child, [0, 4])


def test_leaving_the_steps_early_keeps_a_valid_session():
    model, rows = make_model("M,T"), random_rows([6, 3, 4])
    session = Session(model, 3)
    session.extend(range(3), rows)
    steps = session.steps(GREEDY, stop_ids=(), rows=[0, 2])
    for _ in range(3):
        next(steps)
    steps.close()
    assert [len(row.ids) for row in session.rows] == [9, 3, 7]
    assert_logits_as_alone(session, [0, 1, 2])


def make_prefix_cache(model: LanguageModel, **options: object) -> PrefixCache:
    return PrefixCache(model, **({"max_bytes": 10**7} | options))


def count_tokens_read(session: Session, work: Callable[[], object]) -> int:
    """How many tokens the model reads meanwhile."""
    read, features = [], session.model.features

    def counting(ids: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        read.append(ids.numel())
        return features(ids, *arguments, **options)

    session.model.features = counting
    try:
        work()
    finally:
        del session.model.features
    return sum(read)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_rows_begin_with_in_common_is_read_once(pattern):
    model = make_model(pattern)
    stem, other = random_rows([70, 50])
    tails = random_rows([5, 9, 1, 40, 40, 3], seed=1)
    rows = [stem + tails[0], stem + tails[1], other + tails[2], stem + tails[3] + [1], stem + tails[3] + [2, 3],
            other + tails[5], stem + tails[0], tails[4], tails[4]]
    session = Session(model, len(rows))
    read = count_tokens_read(session, lambda: session.extend(range(len(rows)), rows))
    assert read == 70 + 50 + 2 * 5 + 9 + 1 + 40 + 1 + 2 + 3 + 40
    assert [row.ids for row in session.rows] == rows
    assert_logits_as_alone(session, list(range(len(rows))))
    # what was copied goes its own way
    session.sample(SamplingParams(max_tokens=3, temperature=2.0), stop_ids=())
    assert session.rows[0].ids != session.rows[6].ids
    assert_logits_as_alone(session, list(range(len(rows))))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_prefix_cache_changes_what_is_read_and_nothing_else(pattern):
    model = make_model(pattern)
    documents, *questions = random_rows([60, 7, 12, 3])
    prefixes = make_prefix_cache(model)
    params = SamplingParams(max_tokens=6, temperature=0.7)
    for number, question in enumerate(questions):
        session, plain = (Session(model, 1, seed=number, prefix_cache=each) for each in (prefixes, None))
        ids = documents + question
        read = count_tokens_read(session, lambda s=session, i=ids: s.extend([0], [i], boundaries=[[60]]))
        assert read == len(question) + (0 if number else 60)
        plain.extend([0], [documents + question])
        assert session.sample(params, stop_ids=()) == plain.sample(params, stop_ids=())
        assert_logits_as_alone(session, [0])
        session.keep()
        # a next turn begins with all that was read
        turn = Session(model, 1, prefix_cache=prefixes)
        more = [*session.rows[0].ids, 5, 6]
        assert count_tokens_read(turn, lambda t=turn, m=more: t.extend([0], [m])) <= 3
        assert_logits_as_alone(turn, [0])
    # the same prompt again: nothing to read
    session = Session(model, 2, prefix_cache=prefixes)
    ids = documents + questions[1]
    assert count_tokens_read(session, lambda: session.extend([0, 1], [ids, ids])) == 0
    assert_logits_as_alone(session, [0, 1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_go_back_to_a_mark_with_ids_logits_and_chance(pattern):
    model, rows = make_model(pattern), random_rows([6, 3, 11])
    params = SamplingParams(max_tokens=5, temperature=1.5)
    session = Session(model, 4)
    session.extend([0, 1, 2], rows)
    session.sample(params, stop_ids=(), rows=[0, 1])  # the last id of these is not read yet
    before = [(list(row.ids), list(row.mask), list(row.logprobs)) for row in session.rows]
    mark = session.mark()
    first = session.sample(params, stop_ids=(), rows=[0, 1, 2])
    session.extend([3], random_rows([4], seed=3))
    session.rollback(mark, [2, 0, 3])
    for number, row in enumerate(session.rows):
        assert ((row.ids, row.mask, row.logprobs) == before[number]) == (number != 1)
    assert session.rows[1].ids == before[1][0] + first[1]
    assert_logits_as_alone(session, [0, 1, 2])
    # the same chance again, and other ids where others were given meanwhile
    assert session.sample(params, stop_ids=(), rows=[0, 2]) == [first[0], first[2]]
    session.rollback(mark)
    session.extend([0, 3], random_rows([9, 2], seed=4))
    assert_logits_as_alone(session, [0, 1, 2, 3])


def test_a_mark_is_void_for_rows_that_went_back_further():
    session = Session(make_model("M,T"), 2)
    session.extend([0, 1], random_rows([6, 3]))
    early = session.mark()
    session.extend([0, 1], random_rows([2, 2], seed=1))
    late = session.mark()
    session.rollback(early, [0])
    session.extend([0], random_rows([5], seed=2))
    session.rollback(late, [1])
    with pytest.raises(AssertionError, match="cannot go back"):
        session.rollback(late, [0])
    session.rollback(early)
    assert [row.ids for row in session.rows] == random_rows([6, 3])
    assert_logits_as_alone(session, [0, 1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_sample_by_their_own_params(pattern):
    model, rows = make_model(pattern), random_rows([6, 3, 11])
    params = [SamplingParams(max_tokens=4, temperature=0.0), SamplingParams(max_tokens=9, temperature=1.2),
              SamplingParams(max_tokens=2, temperature=0.8, top_k=5)]
    together = Session(model, 3, seed=2)
    together.extend(range(3), rows)
    sampled = together.sample(params, stop_ids=())
    assert [len(ids) for ids in sampled] == [4, 9, 2]
    for number, row in enumerate(rows):
        alone = Session(model, 1, seed=2, numbers=[number])
        alone.extend([0], [row])
        assert alone.sample(params[number], stop_ids=()) == [sampled[number]]
    assert together.cache.lengths.tolist() == [9, 11, 12]
    assert_logits_as_alone(together, [2, 0, 1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_row_that_begins_with_a_long_known_prompt_does_not_disturb_the_others(pattern):
    model = make_model(pattern)
    short, known = random_rows([5, 90])
    prefixes = make_prefix_cache(model)
    Session(model, 1, prefix_cache=prefixes).extend([0], [known])
    session = Session(model, 2, prefix_cache=prefixes)
    session.extend([0], [short])
    few = SamplingParams(temperature=0, max_tokens=3)
    session.sample(few, stop_ids=(), rows=[0])
    # all of it is known: the cache grows without a forward
    assert count_tokens_read(session, lambda: session.extend([1], [known])) == 0
    session.sample(few, stop_ids=(), rows=[0])
    assert_logits_as_alone(session, [0, 1])

"""Drafts copied from the prompt: never another token, little work where nothing is copied, less where much is."""

import functools
import random

import pytest
import torch
from engine_stubs import PATTERNS, make_conversation, make_documents, make_model, make_tokenizer

from nanochat.engine import Engine
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.request import Request
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.speculative import MAX_PAUSE, Drafter, NgramSearch, obey

TOKENIZER = make_tokenizer()


def source_like(ids: list[int], rng: random.Random) -> list[int]:
    """Text that holds pieces of `ids` among other things, and some of them with a wrong ending."""
    source: list[int] = []
    for _ in range(6):
        start = rng.randrange(len(ids))
        source += ids[start : start + rng.randrange(1, 12)]
        source += [rng.randrange(300) for _ in range(rng.randrange(3))]
    return source


def run(model, requests, **options):
    scheduler = Scheduler(model, **options)
    handles = [scheduler.submit(request) for request in requests]
    scheduler.run()
    for handle in handles:
        if handle.error is not None:
            raise handle.error
    return handles


@pytest.mark.parametrize("speculate_rows", [1, 100])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_hundreds_of_answers_are_those_without_drafts(pattern, speculate_rows):
    """Greedy and sampled, with the answer grammar and without, alone and in company."""
    model, rng = make_model(pattern), random.Random(speculate_rows)
    grammar = AnswerGrammar(TOKENIZER, num_ids=model.config.vocab_size)
    plain = []
    for number in range(40):
        heat = rng.choice([0.0, 0.0, 0.7, 1.2])
        params = SamplingParams(temperature=heat, top_p=rng.choice([1.0, 0.8]), max_tokens=rng.randrange(1, 30),
                                stop_ids=(grammar.end, *rng.sample(range(300), 5)), seed=number)
        rule = rng.choice([None, *(functools.partial(grammar.begin_row, count) for count in range(4))])
        prompt = [rng.randrange(300) for _ in range(rng.randrange(1, 30))]
        plain.append(Request(ids=prompt, params=params, rule=rule, number=number))
    expected = run(model, plain, max_rows=20)
    drafting = [Request(ids=request.ids, params=request.params, rule=request.rule, number=request.number,
                        source=source_like(handle.ids, rng)) for request, handle in zip(plain, expected, strict=True)]
    for speculate in (1, 7):
        handles = run(model, drafting if speculate_rows > 1 else drafting[:15], speculate=speculate,
                      speculate_rows=speculate_rows, max_rows=6 if speculate_rows > 1 else 1)
        for number, handle in enumerate(handles):
            assert handle.ids == expected[number].ids, f"answer {number}, {handle.accepted} of {handle.drafted}"
            assert handle.stop == expected[number].stop
        drafted, accepted = (sum(getattr(handle, name) for handle in handles) for name in ("drafted", "accepted"))
        assert 0.2 * drafted < accepted < drafted, f"{accepted} of {drafted} accepted: a trivial test"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_that_is_copied_takes_few_forwards_and_any_other_hardly_more(pattern):
    model = make_model(pattern)
    features, counts = model.features, []

    def counting(ids, cache=None, **options):
        counts.append(ids.shape[1])
        return features(ids, cache, **options)

    params = SamplingParams(temperature=0, max_tokens=150)
    [plain] = run(model, [Request(ids=[5, 6, 7], params=params)])
    rng = random.Random(0)
    other = [rng.randrange(300) for _ in range(4000)]
    model.features = counting
    try:
        [copied] = run(model, [Request(ids=[5, 6, 7], params=params, source=plain.ids)], speculate=8)
        num_copied, counts[:] = len(counts), []
        [free] = run(model, [Request(ids=[5, 6, 7], params=params, source=other)], speculate=8)
    finally:
        del model.features
    assert copied.ids == free.ids == plain.ids
    assert num_copied < 50, f"{num_copied} forwards for 150 tokens that are copied"
    assert len(counts) == 150 and sum(counts) < 150 * 1.35, f"{sum(counts)} tokens read for 150"


def test_a_search_goes_on_behind_the_anchor_with_the_longest_match():
    search = NgramSearch([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3, 6])
    assert search.follow([1, 2, 3], anchor=0) == (3, 3)
    assert search.follow([1, 2, 3], anchor=4) == (11, 3)
    assert search.follow([9, 2, 3], anchor=0) == (7, 3)
    assert search.follow([8, 2, 3], anchor=3) == (7, 2)
    assert search.follow([8, 2, 3], anchor=11) == (11, 2), "behind the last place: the last"
    assert search.follow([8, 8, 9], anchor=0) == (5, 1)
    assert search.follow([6], anchor=0) == search.follow([7], anchor=0) == search.follow([], anchor=0) == (-1, 0)
    assert search.ids(9, 8) == [2, 3, 6]


def test_drafts_grow_when_right_shrink_when_wrong_and_pause_when_never_right():
    source = list(range(100)) * 3
    drafter = Drafter(source, max_draft=16)
    lengths = []
    for accepted in (4, 8, 16, 0, 0, 0, 0, 0):
        draft = drafter.draft([3, 4, 5], 50)
        lengths.append(len(draft))
        drafter.settle(len(draft), min(accepted, len(draft)))
    assert lengths == [4, 8, 16, 16, 0, 0, 0, 0]
    tried = 0
    for _ in range(1000):
        draft = drafter.draft([3, 4, 5], 50)
        tried += len(draft)
        drafter.settle(len(draft), 0)
    assert tried <= 8 + 4 + 2 + 3 + 1000 // MAX_PAUSE, f"{tried} ids tried in 1,000 steps that never help"
    assert len(Drafter(source, max_draft=16).draft([3, 4, 5], 2)) == 2, "no more than there is room for"


def test_a_draft_obeys_the_rule_and_leaves_it_where_it_was():
    grammar = AnswerGrammar(TOKENIZER, num_ids=TOKENIZER.vocab_size)
    cite, end, word = TOKENIZER.special("cite"), TOKENIZER.special("assistant_end"), max(TOKENIZER.encode("a"))
    rule = grammar.begin_row(2)
    draft, masks = obey([cite, TOKENIZER.doc(1), word, TOKENIZER.doc(0), end], rule)
    assert draft == [cite, TOKENIZER.doc(1), word] and len(masks) == 4
    assert masks[1].nonzero()[:, 0].tolist() == [TOKENIZER.doc(0), TOKENIZER.doc(1)] and bool(masks[3][end])
    assert rule.allowed() is masks[0]
    assert obey([end], rule)[0] == [] and obey([3, 4], None) == ([3, 4], [None] * 3)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}])
def test_engines_with_and_without_drafts_and_prefix_cache_answer_alike(options):
    conversations = [make_conversation(f"When is {number}?", make_documents(number)) for number in range(4)]
    expected = Engine(make_model("M,T"), TOKENIZER, speculate=0, prefix_cache_bytes=0).generate_batch(
        conversations, 40, **options)
    engine = Engine(make_model("M,T"), TOKENIZER, speculate=8)
    for _ in range(2):
        for conversation, (text, info) in zip(conversations, expected, strict=True):
            if not options:
                again, other = engine.generate_from_conversation(conversation, 40)
                assert again == text and other["num_tokens"] == info["num_tokens"]
        texts = [text for text, _ in engine.generate_batch(conversations, 40, **options)]
        assert texts == [text for text, _ in expected]
    assert torch.is_grad_enabled()

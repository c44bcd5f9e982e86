"""The decision to answer: its probability is the model's in every way of decoding, and a threshold is kept exactly."""

import math
from types import SimpleNamespace

import pytest
import torch
from engine_stubs import PATTERNS, make_conversation, make_documents, make_model, make_tokenizer

from nanochat.chat_format import render
from nanochat.engine import ABSTAIN_TEXT, Engine, PrefixCache, Request, SamplingParams, Scheduler, Session
from nanochat.engine.deciding import Decision, decide
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel

TOKENIZER = make_tokenizer()
ABSTAIN, CITE = TOKENIZER.special("abstain"), TOKENIZER.special("cite")
WORD = max(id for id in TOKENIZER.encode("ferry"))
QUESTIONS = ["When?", "Who founded Brelith?", "Where to at 07:45?", "Gr\u00f6\u00dfe?", "Ferry or institute?", "Why?"]
ASKED = [make_conversation(question, make_documents(1 + number % 4)) for number, question in enumerate(QUESTIONS)]
OPEN = [make_conversation(question) for question in QUESTIONS]
EMPTY = make_conversation("When?", [])


def shown(conversation) -> list:
    return conversation["messages"][0].get("documents", [])


def expected(engine: Engine, conversation, *, must_answer: bool = False) -> float:
    """What a greedy answer reports, from a plain session and the grammar's masks."""
    prompt = render(conversation, TOKENIZER, for_generation=True)
    session = Session(engine.model, 1)
    session.extend([0], [prompt.ids])
    searched = TOKENIZER.special("results_start") in prompt.ids
    rule = engine._grammar.begin_row(len(prompt.documents), searched=searched)
    answers = 1.0
    for place in range(3):
        weights = torch.softmax(session.logits()[0].double().masked_fill(~rule.allowed(), -math.inf), dim=-1)
        if place in (0, 2):
            answers *= 1 - weights[ABSTAIN].item()
            if must_answer and weights[ABSTAIN] < 1:
                weights[ABSTAIN] = 0
        id = weights.argmax().item()
        if place == 0 and id != CITE:
            break
        rule.advance(id)
        session.extend([0], [[id]])
    return answers


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_way_of_decoding_reports_the_probability_of_the_model(pattern):
    model = make_model(pattern)
    engine = Engine(model, TOKENIZER)
    asked = [*ASKED, *OPEN[:2], EMPTY]
    wanted = [expected(engine, conversation) for conversation in asked]
    assert wanted[-1] == 0 and len({round(value, 3) for value in wanted}) > 5

    def check(found):
        assert found == pytest.approx(wanted, abs=1e-5)

    for batch_size in (64, 2):
        check([info["answer_probability"] for _, info in engine.generate_batch(asked, 5, batch_size=batch_size)])
    for options in ({"speculate": 0, "prefix_cache_bytes": 0}, {"speculate": 8}):
        other = Engine(model, TOKENIZER, **options)
        for _ in range(2):  # the second time from the prefix cache
            check([other.generate_from_conversation(conversation, 5)[1]["answer_probability"]
                   for conversation in asked])
    streams = [engine.stream(conversation, 5) for conversation in asked]
    assert streams[0].info["answer_probability"] is None, "nothing is decided yet"
    for stream in streams:
        list(stream)
    check([stream.info["answer_probability"] for stream in streams])
    wanted = [expected(engine, conversation, must_answer=True) for conversation in asked]
    check([info["answer_probability"] for _, info in engine.generate_batch(asked, 5, answer_threshold=0.0)])


@pytest.mark.parametrize("options", [{"has_graphs": True}, {"max_rows": 2}, {"speculate": 4, "prefill_tokens": 16}])
def test_rows_of_a_scheduler_decide_for_themselves(options):
    model = make_model("M,T")
    engine = Engine(model, TOKENIZER)
    scheduler = Scheduler(model, prefix_cache=PrefixCache(model, max_bytes=2**20), **options)
    wanted = [expected(engine, conversation, must_answer=True) for conversation in ASKED]
    threshold = sorted(wanted)[3]
    handles = []
    for conversation in ASKED:
        prompt = render(conversation, TOKENIZER, for_generation=True)
        handles.append(scheduler.submit(Request(
            ids=prompt.ids, params=SamplingParams(temperature=0, max_tokens=4, stop_ids=(engine._grammar.end,)),
            rule=lambda prompt=prompt: engine._grammar.begin_row(len(prompt.documents)),
            decision=Decision(ABSTAIN, threshold - 1e-4, CITE))))
    plain = scheduler.submit(Request(ids=[1, 2, 3], params=SamplingParams(max_tokens=3)))
    scheduler.run()
    for handle, value in zip(handles, wanted, strict=True):
        refused = ABSTAIN in handle.ids
        assert refused == (value < threshold - 1e-4)
        # who refuses at the first place does not come to the second
        if handle.ids[0] == ABSTAIN:
            assert handle.answer_probability >= value - 1e-5
        else:
            assert handle.answer_probability == pytest.approx(value, abs=1e-5)
    assert plain.answer_probability is None and len(plain.ids) == 3


def test_zero_always_answers_and_one_never():
    engine = Engine(make_model("M,T"), TOKENIZER)
    for options in ({}, {"temperature": 3.0, "seed": 5}):
        answered = engine.generate_batch([*ASKED, *OPEN], 6, answer_threshold=0.0, **options)
        assert not any(info["abstained"] for _, info in answered)
        assert all(info["stop"] == "length" or info["answer"] for _, info in answered)
        refused = engine.generate_batch([*ASKED, *OPEN], 6, answer_threshold=1.0, **options)
        assert all(text == ABSTAIN_TEXT and info["abstained"] for text, info in refused)
    (text, info), = engine.generate_batch([EMPTY], 6, answer_threshold=0.0)
    assert info["abstained"] and info["answer_probability"] == 0, "nothing but abstaining is allowed"


def test_between_them_the_probability_decides_and_chance_does_not():
    engine = Engine(make_model("T"), TOKENIZER)
    asked = [conversation for conversation in ASKED if len(shown(conversation)) == 1] + OPEN
    probabilities = [info["answer_probability"] for _, info in engine.generate_batch(asked, 4, answer_threshold=0.0)]
    for value in probabilities:
        for threshold in (value - 1e-4, value + 1e-4):
            if not 0 <= threshold <= 1:
                continue
            for seed in range(3):
                # with one document or none every answer begins alike
                rows = engine.generate_batch(asked, 4, answer_threshold=threshold, temperature=2.0, seed=seed)
                assert [info["abstained"] for _, info in rows] == [p < threshold for p in probabilities]


def test_one_half_is_the_likelier_of_two_at_the_first_place():
    for pattern in PATTERNS:
        engine, half = (Engine(make_model(pattern), TOKENIZER, answer_threshold=t) for t in (None, 0.5))
        plain, split = engine.generate_batch(ASKED, 1), half.generate_batch(ASKED, 1)
        assert [text for text, _ in plain] == [text for text, _ in split]
        assert half.generate_batch(ASKED, 8, answer_threshold=1.0)[0][1]["abstained"], "a call may say otherwise"


def test_a_document_may_be_named_that_does_not_say_it():
    class Doubting(LanguageModel):
        """Cites with 0.8, and then answers with 0.7."""

        def head(self, features):
            logits = torch.full_like(super().head(features), -100.0)
            logits[..., CITE], logits[..., ABSTAIN] = Doubting.odds, 0.0
            for slot, wish in enumerate((0.0, 5.0, 1.0)):
                logits[..., TOKENIZER.doc(slot)] = wish
            logits[..., WORD] = math.log(0.7 / 0.3)
            return logits

    engine = Engine(Doubting(make_model("T").config).eval(), TOKENIZER, must_cite=True)
    Doubting.odds = math.log(4.0)
    documents = make_documents(1)
    for threshold, refused, tokens in ((0.81, True, 2), (0.6, True, 4), (0.3, False, 8)):
        _, info = engine.generate_from_conversation(make_conversation("?", documents), 8, answer_threshold=threshold)
        assert (info["abstained"], info["num_tokens"]) == (refused, tokens)
        assert info["answer_probability"] == pytest.approx(0.8 if tokens == 2 else 0.56, abs=1e-3)
        assert [one["id"] for one in info["closest"]] == (["d0"] if tokens == 4 else [])
        assert bool(info["citations"]) != refused


def test_one_half_is_not_the_likeliest_id_where_many_begin_an_answer():
    class Torn(LanguageModel):
        """Abstains with 0.4 and spreads the rest over all text."""

        def head(self, features):
            logits = torch.zeros_like(super().head(features))
            num_text = TOKENIZER.vocab_size - 64
            logits[..., ABSTAIN] = math.log(0.4 / (0.6 / num_text))
            return logits

    engine = Engine(Torn(make_model("T").config).eval(), TOKENIZER)
    (_, likeliest), (_, half) = (engine.generate_from_conversation(OPEN[0], 4, answer_threshold=t) for t in (None, 0.5))
    assert likeliest["abstained"] and not half["abstained"]
    assert likeliest["answer_probability"] == pytest.approx(0.6, abs=0.01)


def test_a_probability_close_to_nothing_is_not_rounded_away():
    class Sure(LanguageModel):
        def head(self, features):
            logits = torch.zeros_like(super().head(features))
            logits[..., ABSTAIN] = 30.0
            return logits

    engine = Engine(Sure(make_model("T").config).eval(), TOKENIZER)
    _, info = engine.generate_from_conversation(ASKED[0], 2)
    assert 0 <= info["answer_probability"] < 1e-6 and info["abstained"]
    assert not engine.generate_from_conversation(ASKED[0], 2, answer_threshold=0.0)[1]["abstained"]


def test_one_refuses_even_what_is_certain():
    class Certain(LanguageModel):
        def head(self, features):
            logits = torch.zeros_like(super().head(features))
            logits[..., CITE] = 1000.0
            return logits

    engine = Engine(Certain(make_model("T").config).eval(), TOKENIZER)
    for threshold, refused in ((None, False), (0.999, False), (1.0, True)):
        _, info = engine.generate_from_conversation(ASKED[0], 2, answer_threshold=threshold)
        assert info["answer_probability"] == 1.0 and info["abstained"] == refused


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", True])
def test_a_threshold_outside_is_refused_in_words(threshold):
    with pytest.raises(ConfigError, match="answer_threshold is .*, must lie between 0 and 1"):
        Engine(make_model("T"), TOKENIZER, answer_threshold=threshold)
    with pytest.raises(ConfigError, match="answer_threshold is"):
        Engine(make_model("T"), TOKENIZER).generate_batch(ASKED, 2, answer_threshold=threshold)


class Citing(LanguageModel):
    """Cites the first document, and then with a probability of `again` the next one."""

    again = 0.7

    def head(self, features):
        logits = torch.full_like(super().head(features), -100.0)
        logits[..., CITE] = math.log(Citing.again / (1 - Citing.again))
        logits[..., WORD] = 0.0
        for slot in range(4):
            logits[..., TOKENIZER.doc(slot)] = -slot
        return logits


@pytest.mark.parametrize("options", [{}, {"speculate": 4}, {"prefix_cache_bytes": 0}])
def test_further_documents_are_cited_from_the_threshold_on(options):
    def cited(threshold, **more):
        engine = Engine(Citing(make_model("T").config).eval(), TOKENIZER, citation_threshold=threshold, **options,
                        **more)
        asked = [make_conversation("Ferry?", make_documents(3))] * 2
        found = engine.generate_batch(asked, 12)
        assert not any(info["abstained"] for _, info in found)
        return {len(info["citations"]) for _, info in found}

    assert cited(None) == cited(0.0) == cited(0.69) == {3}
    assert cited(0.71) == cited(1.0) == {1}
    # the decision to answer is another one
    assert cited(0.71, answer_threshold=0.0) == {1} and cited(0.69, answer_threshold=0.0) == {3}


def test_answers_over_hops_cite_what_they_follow_from():
    engine = Engine(Citing(make_model("T").config).eval(), TOKENIZER, citation_threshold=0.99)
    hops = [{"hop": 1, "query": "Ferry?", "documents": make_documents(1)},
            {"hop": 2, "query": "Where?", "documents": make_documents(3)[1:]}]
    asked = [{"role": "retrieval", "multi_hop": True, "hops": hops}, {"role": "user", "content": "Ferry?"}]
    assert len(engine.generate_from_conversation({"messages": asked}, 12)[1]["citations"]) == 3


def test_where_nothing_else_may_come_a_further_document_is_cited():
    # a rule that holds answers to citations
    row = SimpleNamespace(handle=SimpleNamespace(request=SimpleNamespace(
        decision=Decision(ABSTAIN, None, CITE, 1.0)), ids=[CITE, 7], answer_probability=0.5), draft=(),
        masks=[torch.arange(TOKENIZER.vocab_size) == CITE])
    decide([row], torch.zeros(1, TOKENIZER.vocab_size))
    assert row.masks[0].nonzero().tolist() == [[CITE]]


def test_a_citation_threshold_outside_is_refused_in_words():
    with pytest.raises(ConfigError, match="citation_threshold is 2, must lie between 0 and 1"):
        Engine(make_model("T"), TOKENIZER, citation_threshold=2)

"""The engine: answers in a batch are answers alone, streams join to the text, documents pay for the context."""

import gc
import re
import runpy
import threading
from pathlib import Path

import pytest
import torch
from engine_stubs import PATTERNS, make_conversation, make_documents, make_model, make_tokenizer

from nanochat.engine import ABSTAIN_TEXT, Engine, SamplingParams
from nanochat.errors import ConfigError, ConversationError, UserError
from nanochat.model import LanguageModel

TOKENIZER = make_tokenizer()
QUESTIONS = ["When?", "Who founded Brelith Institute?", "Gr\u00f6\u00dfe of the caf\u00e9?", "Where to at 07:45?"]
CONVERSATIONS = [make_conversation(question, make_documents(count)) for count, question in enumerate(QUESTIONS)]
CONVERSATIONS.append(make_conversation("Closed book?"))
TIMES = ("first_token_s", "tokens_per_s", "cached_tokens", "drafted", "accepted")
CITE = TOKENIZER.special("cite")


def make_engine(pattern: str = "M,T", **options: int) -> Engine:
    return Engine(make_model(pattern, **options), TOKENIZER)


def forced(engine: Engine, ids: list[int]) -> Engine:
    """The same engine with a model that wants to write these ids, whatever it reads."""

    class Writer(LanguageModel):
        step = 0

        def head(self, features):
            logits = super().head(features)
            logits[..., ids[min(Writer.step, len(ids) - 1)]] += 1000.0
            Writer.step += 1
            return logits

    model = Writer(engine.model.config).eval()
    return Engine(model, engine.tokenizer, speculate=0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 20, "seed": 3}])
def test_a_batch_answers_as_each_row_alone_does(pattern, options):
    engine = make_engine(pattern)
    together = engine.generate_batch(CONVERSATIONS, 10, **options)
    assert len({text for text, _ in together}) > 1
    for batch_size in (1, 2):
        for (text, info), (other, other_info) in zip(
            together, engine.generate_batch(CONVERSATIONS, 10, batch_size=batch_size, **options), strict=True
        ):
            assert text == other
            assert {k: v for k, v in info.items() if k not in TIMES} == {
                k: v for k, v in other_info.items() if k not in TIMES
            }
    if not options:
        assert [engine.generate_from_conversation(c, 10)[0] for c in CONVERSATIONS] == [text for text, _ in together]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stream_joins_to_the_text(pattern):
    engine = make_engine(pattern)
    for conversation in CONVERSATIONS:
        for options in ({}, {"temperature": 1.5, "seed": 1}):
            stream = engine.stream(conversation, 14, **options)
            pieces = list(stream)
            text, info = engine.generate_from_conversation(conversation, 14, **options)
            assert "".join(pieces) == text == stream.text
            assert "" not in pieces and stream.info["num_tokens"] == info["num_tokens"]


def test_citations_of_a_random_model_that_likes_to_cite_always_resolve():
    class Citer(LanguageModel):
        def head(self, features):
            logits = super().head(features)
            logits[..., [TOKENIZER.special("cite"), TOKENIZER.special("assistant_end")]] += 15.0
            return logits

    engine = Engine(Citer(make_model("M,T").config).eval(), TOKENIZER)
    num_citations = 0
    for seed in range(6):
        for text, info in engine.generate_batch(CONVERSATIONS, 40, temperature=3.0, seed=seed):
            numbers = [int(number) for number in re.findall(r"\[(\d+)\]", text.removeprefix(info["answer"]))]
            assert numbers == [citation["number"] for citation in info["citations"]]
            for citation in info["citations"]:
                assert info["documents"][citation["slot"]]["id"] == citation["id"]
                assert citation["number"] == citation["slot"] + 1
            assert len(set(numbers)) == len(numbers)
            if info["stop"] == "end" and info["documents"] and not info["abstained"]:
                assert numbers
            num_citations += len(numbers)
    assert num_citations > 20


def test_an_answer_with_a_citation():
    words = TOKENIZER.encode(" Mira Solheim")
    ids = [CITE, TOKENIZER.doc(1), *words, TOKENIZER.special("assistant_end")]
    text, info = forced(make_engine(), ids).generate_from_conversation(CONVERSATIONS[3])
    assert text == "Mira Solheim [2]" and info["answer"] == "Mira Solheim"
    passage = "Brelith Institute was founded by Mira Solheim in 1931."
    assert info["citations"] == [{"slot": 1, "number": 2, "id": "d1", "title": "Title 1", "start": 0,
                                  "end": len(passage), "passage": passage, "match": "exact"}]
    assert info["stop"] == "end" and not info["abstained"] and info["num_tokens"] == len(ids)
    assert info["documents"] == make_documents(3) and info["dropped"] == 0


def test_an_abstention_is_one_sentence():
    ids = [TOKENIZER.special("abstain"), TOKENIZER.special("assistant_end")]
    text, info = forced(make_engine(), ids).generate_from_conversation(CONVERSATIONS[1])
    assert text == ABSTAIN_TEXT and info["abstained"] and info["citations"] == [] and info["stop"] == "end"
    assert "".join(forced(make_engine(), ids).stream(CONVERSATIONS[1])) == ABSTAIN_TEXT


def test_reserved_ids_are_never_written_even_if_wanted():
    engine = forced(make_engine(), [TOKENIZER.special("query_start")])
    text, info = engine.generate_from_conversation(CONVERSATIONS[2], max_tokens=6)
    assert info["num_tokens"] <= 6 and "query" not in text


def test_max_tokens_ends_an_answer():
    engine = forced(make_engine(), [CITE, TOKENIZER.doc(1), *TOKENIZER.encode("a")])
    text, info = engine.generate_from_conversation(CONVERSATIONS[2], max_tokens=7)
    assert text == "aaaaa [2]" and info["stop"] == "length" and info["num_tokens"] == 7


def test_an_answer_cut_before_its_text_says_and_cites_nothing():
    ids = [CITE, TOKENIZER.doc(1), CITE, TOKENIZER.doc(0), *TOKENIZER.encode("a")]
    for max_tokens in range(1, 7):
        text, info = forced(make_engine(), ids).generate_from_conversation(CONVERSATIONS[2], max_tokens)
        stream = forced(make_engine(), ids).stream(CONVERSATIONS[2], max_tokens)
        assert list(stream) == {5: ["a", " [2][1]"], 6: ["a", "a", " [2][1]"]}.get(max_tokens, [])
        assert text == stream.text == {5: "a [2][1]", 6: "aa [2][1]"}.get(max_tokens, "")
        assert [citation["slot"] for citation in info["citations"]] == ([1, 0] if text else [])
        assert info["answer"] == text.removesuffix(" [2][1]")
        assert (info["stop"], info["num_tokens"], info["abstained"]) == ("length", max_tokens, False)


def test_documents_pay_for_the_context():
    engine = make_engine(sequence_len=128)
    text, info = engine.generate_from_conversation(make_conversation("When?", make_documents(9)), max_tokens=8)
    assert info["num_prompt_tokens"] <= 120 and info["dropped"] > 0
    assert 0 < len(info["documents"]) < 9 and info["documents"][0]["id"] == "d0"


def test_a_long_answer_budget_does_not_starve_the_documents():
    _, info = make_engine(sequence_len=256).generate_from_conversation(CONVERSATIONS[1], max_tokens=256)
    assert info["documents"] and info["dropped"] == 0


def test_a_question_that_does_not_fit_is_refused_in_words():
    with pytest.raises(UserError, match="The question is too long"):
        make_engine(sequence_len=128).generate_from_conversation(make_conversation("why " * 200, make_documents(2)))


def test_wrong_input_is_refused_before_the_first_piece():
    with pytest.raises(ConversationError):
        make_engine().stream({"messages": []})
    with pytest.raises(ConfigError, match="max_tokens"):
        make_engine().stream(CONVERSATIONS[0], max_tokens=0)


def test_an_empty_batch_is_empty():
    assert make_engine().generate_batch([]) == []


def test_a_stream_left_early_describes_what_was_written():
    stream = forced(make_engine(), [CITE, TOKENIZER.doc(0), *TOKENIZER.encode("a")]).stream(CONVERSATIONS[1], 50)
    assert next(stream) + next(stream) == "aa"
    assert stream.text == "aa [1]" and stream.info["stop"] is None
    stream.close()
    assert stream.text == "aa [1]" and stream.info["stop"] == "cancelled"


def test_a_stream_has_no_reason_to_have_ended_before_its_end():
    stream = forced(make_engine(), [CITE, TOKENIZER.doc(0), *TOKENIZER.encode("a")]).stream(CONVERSATIONS[1], 7)
    assert stream.info["stop"] is None
    seen = [(stream.info["num_tokens"], stream.info["stop"]) for _ in stream]
    assert len(seen) > 2 and all((stop is None) == (num_tokens < 7) for num_tokens, stop in seen), seen
    assert stream.info["stop"] == "length"


def test_generation_leaves_no_gradients_and_the_same_weights():
    engine = make_engine()
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    engine.generate_batch(CONVERSATIONS, 4)
    assert all(parameter.grad is None for parameter in engine.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in engine.model.state_dict().items())


def test_a_stop_text_cuts_the_answer_before_it_and_keeps_its_citations():
    ids = [CITE, TOKENIZER.doc(1), *TOKENIZER.encode(" Mira Solheim in 1931."), TOKENIZER.special("assistant_end")]
    for stop, text in (("Sol", "Mira"), ("in", "Mira Solheim"), ("Mira", ""),
                       ("1932", "Mira Solheim in 1931."), ("931.", "Mira Solheim in 1")):
        whole, info = forced(make_engine(), ids).generate_from_conversation(CONVERSATIONS[3], stop=["nowhere", stop])
        stream = forced(make_engine(), ids).stream(CONVERSATIONS[3], stop=["nowhere", stop])
        assert whole == (f"{text} [2]" if text else "") == "".join(stream) == stream.text
        assert info["answer"] == text and info["stop"] == stream.info["stop"] == ("stop" if stop != "1932" else "end")
        assert [citation["slot"] for citation in info["citations"]] == ([1] if text else [])
        [batched] = forced(make_engine(), ids).generate_batch([CONVERSATIONS[3]], stop=["nowhere", stop])
        assert batched[0] == whole
    with pytest.raises(ConfigError, match="stop is"):
        make_engine().stream(CONVERSATIONS[0], stop=[" "])


def test_a_second_question_over_the_same_documents_reads_only_what_is_new():
    engine, plain = make_engine(), Engine(make_model("M,T"), TOKENIZER, prefix_cache_bytes=0)
    documents = make_documents(3)
    for number, question in enumerate(QUESTIONS):
        conversation = make_conversation(question, documents)
        text, info = engine.generate_from_conversation(conversation, 12)
        assert text == plain.generate_from_conversation(conversation, 12)[0]
        assert info["cached_tokens"] > 0.6 * info["num_prompt_tokens"] if number else info["cached_tokens"] == 0
    _, info = engine.generate_batch([conversation], 12)[0]
    assert info["cached_tokens"] == info["num_prompt_tokens"]


def test_many_threads_share_one_engine():
    engine, results = make_engine(), {}
    expected = [engine.generate_from_conversation(conversation, 12)[0] for conversation in CONVERSATIONS]

    def ask(number: int) -> None:
        results[number] = "".join(engine.stream(CONVERSATIONS[number], 12))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(CONVERSATIONS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[number] for number in range(len(CONVERSATIONS))] == expected


def test_a_stream_nobody_holds_any_more_leaves_the_engine():
    engine = forced(make_engine(), [CITE, TOKENIZER.doc(0), *TOKENIZER.encode("a")])
    stream = engine.stream(CONVERSATIONS[1], 100)
    assert next(stream) == "a"
    handle = stream._handle
    gc.disable()
    try:
        # no collection is needed: a server that is busy may not see one for minutes
        del stream
        assert handle.is_cancelled
        engine.scheduler.step()
    finally:
        gc.enable()
    assert handle.stop == "cancelled" and len(handle.ids) < 10
    assert engine.scheduler.is_idle and engine.scheduler.num_bytes == 0


@pytest.mark.parametrize(("options", "words"), [
    ({"max_tokens": "ten"}, "max_tokens is 'ten', not a whole number"),
    ({"max_tokens": 2.5}, "max_tokens is 2.5, not a whole number"), ({"max_tokens": None}, "max_tokens is None"),
    ({"max_tokens": True}, "max_tokens is True"), ({"temperature": "hot"}, "temperature is 'hot', not a number"),
    ({"temperature": None}, "temperature is None"), ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_k": 1.5}, "top_k is 1.5"), ({"top_p": "0.5"}, "top_p is '0.5'"), ({"seed": "x"}, "seed is 'x'"),
    ({"stop": 5}, "stop is [5], not a list of texts"), ({"stop": [b"x"]}, "not a list of texts"),
    ({"stop": [" "]}, "white space alone"),
])
def test_arguments_of_another_type_are_named(options, words):
    engine = make_engine()
    for ask in (lambda: engine.stream(CONVERSATIONS[0], **options),
                lambda: engine.generate_batch(CONVERSATIONS[:2], **options)):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert words in caught.value.problem and caught.value.hint
    assert engine.scheduler.is_idle
    with pytest.raises(ConfigError, match="stop_ids are 5"):
        SamplingParams(stop_ids=5)


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_rows": "4"}, {"speculate": 1.5}, {"speculate": -1},
                                     {"prefix_cache_bytes": None}])
def test_an_engine_of_impossible_sizes_is_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is .* must be a whole number"):
        Engine(make_model("M,T"), TOKENIZER, **options)
    with pytest.raises(ConfigError, match="batch_size is '8'"):
        make_engine().generate_batch(CONVERSATIONS, batch_size="8")


def test_the_examples_of_the_documentation_run(monkeypatch, capsys, tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "engine.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.setattr("nanochat.checkpoint_manager.load_model",
                        lambda source, *, device, phase: (make_model("M,T"), TOKENIZER, {}))
    (tmp_path / "examples.py").write_text("\n".join(blocks), encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "examples.py"))
    assert len(names["answers"]) == 3 and names["handle"].ids
    assert set(TOKENIZER.decode(names["handle"].ids)) <= set("0123456789") and capsys.readouterr().out

"""A second look: the answer is that to the cited documents alone, under the numbers that were shown."""

import pytest
from engine_stubs import make_model, make_tokenizer

from nanochat.engine import Engine
from nanochat.model import LanguageModel

TOKENIZER = make_tokenizer()

DOCUMENTS = [
    {"id": "a", "title": "Orrin Lamp", "content": "The price of the Orrin Lamp is 290 crowns. It is made of brass."},
    {"id": "b", "title": "Selrum Clock", "content": "The Selrum Clock was made in 1804 by Ann Lee."},
    {"id": "c", "title": "Notes", "content": "Nothing is known of it. Or this, or that."},
    {"id": "d", "title": "", "content": "The price is 310 crowns."},
]
QUESTIONS = ("What is the price?", "Who made the clock?", "What does the lamp cost?", "When?", "Of what is it made?")


def asked(question: str, documents: list = DOCUMENTS) -> dict:
    return {"messages": [{"role": "retrieval", "documents": documents}, {"role": "user", "content": question}]}


def engines(seed: int, **options) -> tuple[Engine, Engine]:
    model = LanguageModel(make_model("M,T").config, seed=seed).eval()
    return tuple(Engine(model, TOKENIZER, second_look=second_look, **options) for second_look in (False, True))


@pytest.mark.parametrize("options", [{"answer_threshold": 0.0}, {}, {"extractive": True, "answer_threshold": 0.0}])
def test_the_answer_is_that_to_the_cited_documents_alone(options):
    num_second = num_changed = 0
    for seed in range(6):
        plain, twice = engines(seed, **options)
        found = twice.generate_batch([asked(question) for question in QUESTIONS], 8)
        for question, (text, info) in zip(QUESTIONS, found, strict=True):
            first_text, first = plain.generate_from_conversation(asked(question), 8)
            cited = sorted({citation["slot"] for citation in first["citations"]})
            assert (text, info["looks"]) == ((stream := twice.stream(asked(question), 8)) and "".join(stream),
                                             stream.info["looks"])
            assert info["documents"] == DOCUMENTS and info["num_prompt_tokens"] == first["num_prompt_tokens"]
            if first["abstained"] or not cited or len(cited) == len(DOCUMENTS):
                assert (text, info["looks"]) == (first_text, 1)
                continue
            num_second += 1
            _, second = plain.generate_from_conversation(asked(question, [DOCUMENTS[slot] for slot in cited]), 8)
            assert info["looks"] == 2 and info["answer"] == second["answer"]
            assert [one["slot"] for one in info["citations"]] == [cited[one["slot"]] for one in second["citations"]]
            for one, other in zip(info["citations"], second["citations"], strict=True):
                assert {**one, "slot": 0, "number": 0} == {**other, "slot": 0, "number": 0}
                assert one["number"] == one["slot"] + 1 and f"[{one['number']}]" in text
            assert info["abstained"] == second["abstained"]
            lower = min(first["answer_probability"], second["answer_probability"])
            assert info["answer_probability"] == pytest.approx(lower, abs=1e-5)
            num_changed += info["answer"] != first["answer"]
    assert num_second > 5 and num_changed > 0, (num_second, num_changed)


def test_other_conversations_are_read_once():
    _, twice = engines(0, answer_threshold=0.0)
    later = {"messages": [*asked("What is the price?")["messages"], {"role": "assistant", "content": "290 crowns",
                                                                     "citations": [0]},
                          {"role": "user", "content": "Who made the clock?"}]}
    for conversation in (later, asked("When?", []), asked("When?", DOCUMENTS[:1]),
                         {"messages": [{"role": "user", "content": "Hello"}]}):
        assert twice.generate_from_conversation(conversation, 8)[1]["looks"] == 1


def test_an_answer_that_is_given_up_in_its_first_reading_says_so():
    _, twice = engines(0, answer_threshold=0.0)
    stream = twice.stream(asked("What is the price?"), 8)
    assert stream.info["stop"] is None and stream.text == ""
    stream.close()
    assert list(stream) == []
    assert stream.info["stop"] == "cancelled" and twice.scheduler.is_idle


def test_an_answer_that_is_given_up_between_its_readings_is_not_read_again():
    _, twice = engines(0, answer_threshold=0.0)
    other, stream = (twice.stream(asked(question), 8) for question in QUESTIONS[:2])
    assert "".join(twice.stream(asked(QUESTIONS[1]), 8)) and stream.text == "", "its first reading ended meanwhile"
    stream.close()
    assert list(stream) == [] and stream.info["looks"] == 1 and stream.info["stop"] == "cancelled"
    assert "".join(other) and other.info["looks"] == 2 and twice.scheduler.is_idle


def test_an_answer_that_is_given_up_while_its_second_reading_begins_is_given_up(monkeypatch):
    _, twice = engines(0, answer_threshold=0.0)
    stream = twice.stream(asked(QUESTIONS[1]), 8)
    submit = twice.submit

    def submit_and_close(*args, **options):
        handle = submit(*args, **options)
        stream.close()
        return handle

    monkeypatch.setattr(twice, "submit", submit_and_close)
    assert list(stream) == [] and stream.info["stop"] == "cancelled" and twice.scheduler.is_idle


def test_the_reference_answer_of_a_stored_conversation_is_no_earlier_turn():
    _, twice = engines(0, answer_threshold=0.0)
    stored = {"messages": [*asked(QUESTIONS[1])["messages"], {"role": "assistant", "content": "Ann", "citations": [1]}]}
    both = [twice.generate_from_conversation(one, 8) for one in (asked(QUESTIONS[1]), stored)]
    assert both[0][0] == both[1][0] and both[0][1]["looks"] == both[1][1]["looks"] == 2

"""Hops in a conversation: the engine asks on behind what is there, and says what it searched for."""

import pytest
from engine_stubs import make_conversation, make_documents
from hop_stubs import QUESTIONS, TOKENIZER, Library, make_engine

from nanochat.chat_format import render
from nanochat.engine import HopConfig, run_episodes
from nanochat.errors import ConfigError, ConversationError, UserError

ASKS = (("query_start", 4.0),)
QUESTION = QUESTIONS[1]


def user(text=QUESTION):
    return {"role": "user", "content": text}


def hops(*found):
    return {"role": "retrieval", "multi_hop": True, "hops": list(found)}


def engine_that_asks(bonus=100.0, **options):
    return make_engine(likes=(("query_start", bonus),), **options)


def answer_of(engine, *messages, search=None, **options):
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 1, "search": search or Library(), **options}
    return engine.generate_from_conversation({"messages": list(messages)}, **options)


@pytest.mark.parametrize("start", ["nothing", "no hops", "no hops, before"])
def test_a_question_is_answered_over_hops_as_an_episode_is(start):
    engine = make_engine(likes=ASKS)
    messages = {"nothing": [user()], "no hops": [user(), hops()], "no hops, before": [hops(), user()]}[start]
    (episode,) = run_episodes(engine, [QUESTION], Library(), HopConfig(max_hops=4, top_k=2), temperature=1.0, seed=1,
                              max_tokens=12)
    text, info = answer_of(engine, *messages, max_hops=4, top_k_per_hop=2)
    assert info["hops"] == episode.hops and len(episode.hops) > 1
    assert [document["id"] for document in info["documents"]] == [document["id"] for document in episode.documents]
    assert info["answer"] == episode.answer and info["abstained"] == episode.abstained
    assert [one["slot"] for one in info["citations"]] == episode.citations
    assert info["num_prompt_tokens"] + info["num_tokens"] == len(episode.ids)


def test_one_search_answers_as_a_plain_turn():
    engine, library = make_engine(likes=ASKS), Library()
    found = library.rank(QUESTION)[:3]
    assert found
    plain = engine.generate_from_conversation(make_conversation(QUESTION, found), 12)
    once = engine.generate_from_conversation({"messages": [user()]}, 12, search=library, max_hops=1)
    assert once[0] == plain[0] and once[1]["documents"] == plain[1]["documents"]
    assert all(once[1][key] == plain[1][key] for key in ("num_prompt_tokens", "citations", "answer_probability"))
    assert [hop["query"] for hop in once[1]["hops"]] == [QUESTION] and "hops" not in plain[1]


def test_hops_that_were_made_count_and_are_gone_on_from():
    engine, library = engine_that_asks(), Library()
    made = [{"hop": 1, "query": QUESTION, "documents": make_documents(2)},
            {"hop": 2, "query": "ferry", "documents": make_documents(4)[2:]}]
    _, info = answer_of(engine, hops(*made), user(), search=library, max_hops=3)
    assert info["hops"][:2] == made and len(info["hops"]) == 3 == info["hops"][2]["hop"]
    assert len(library.calls) == 1 and library.calls[0][1] >= 3 + 4, "it asks for more than was shown"
    shown = [document["id"] for document in info["documents"]]
    assert shown[:4] == ["d0", "d1", "d2", "d3"] and len(set(shown)) == len(shown)
    # no hop is left
    _, info = answer_of(engine, hops(*made), user(), search=library, max_hops=2)
    assert info["hops"] == made and len(library.calls) == 1


def test_what_was_found_without_hops_is_the_first_one():
    engine, library = engine_that_asks(), Library()
    retrieval = {"role": "retrieval", "documents": make_documents(2)}
    for messages in ([retrieval, user()], [user(), retrieval]):
        _, info = answer_of(engine, *messages, search=library, max_hops=2)
        assert info["hops"][0] == {"hop": 1, "query": QUESTION, "documents": make_documents(2)}
        assert len(info["hops"]) == 2 and info["hops"][1]["query"] in library.calls[-1][0]


def test_without_a_search_the_answer_rests_on_the_given_hops():
    engine = engine_that_asks()
    made = [{"hop": 1, "query": QUESTION, "documents": make_documents(2)}, {"hop": 2, "query": "x", "documents": []}]
    _, info = engine.generate_from_conversation({"messages": [hops(*made), user()]}, 8)
    assert "hops" not in info and [document["id"] for document in info["documents"]] == ["d0", "d1"]


@pytest.mark.parametrize("sequence_len", [300, 1500])
def test_earlier_turns_stay_in_front_and_their_documents_pay(sequence_len):
    engine = engine_that_asks(4.0, sequence_len=sequence_len)
    earlier = [{"role": "system", "content": "Be brief."}, {"role": "retrieval", "documents": make_documents(8)},
               user("When?"), {"role": "assistant", "content": "at 07:45", "citations": [0]}]
    _, info = answer_of(engine, *earlier, user(), max_hops=3)
    assert info["num_prompt_tokens"] <= sequence_len and len(info["hops"]) > 1
    assert len(info["documents"]) >= sum(len(hop["documents"]) for hop in info["hops"]) * (sequence_len > 1000)
    assert (info["dropped"] > 0) == (sequence_len == 300)
    if sequence_len > 1000:
        whole = render({"messages": [*earlier, hops(*info["hops"]), user()]}, TOKENIZER, for_generation=True)
        assert info["num_prompt_tokens"] == len(whole.ids) and info["documents"] == whole.documents
    # an answer that is there is left out
    _, again = answer_of(engine, *earlier, user(), {"role": "assistant", "content": "no"}, max_hops=3)
    assert again["hops"] == info["hops"] and again["answer"] == info["answer"]


def test_a_query_cites_its_document_behind_earlier_turns_that_lost_some():
    engine = make_engine(sequence_len=500, likes=(("query_start", 6.0), ("cite", 20.0), ("query_end", 3.0)))
    earlier = [{"role": "retrieval", "documents": make_documents(8)}, user("When?"),
               {"role": "assistant", "content": "at 07:45", "citations": [0]}]
    _, info = answer_of(engine, *earlier, user(), max_hops=3)
    asked = [hop for hop in info["hops"] if hop.get("citations")]
    assert info["dropped"] > 0 and asked, "the test needs a query that cites, behind documents that are gone"
    every = [*make_documents(8), *(document for hop in info["hops"] for document in hop["documents"])]
    shown = [document["id"] for document in info["documents"]]
    # a slot counts what is shown, a citation all that was given
    assert any(hop["citations"][0] >= len(shown) for hop in asked)
    assert all(every[hop["citations"][0]]["id"] in shown for hop in asked)
    # told again in the same room, the ids are those that the model read
    again = render({"messages": [*earlier, hops(*info["hops"]), user()]}, TOKENIZER, for_generation=True,
                   max_tokens=info["num_prompt_tokens"])
    assert again.lost_citations == 0


def test_a_document_that_is_cut_is_shown_cut_and_told_whole():
    words = " ".join(f"word{i}" for i in range(300))
    long = [{"id": f"long{i}", "title": "Long", "content": words} for i in range(9)]
    engine = engine_that_asks(sequence_len=700)
    _, info = answer_of(engine, user(), search=lambda queries, top_k: [long[:top_k]] * len(queries), max_hops=3)
    assert info["trimmed"] and info["dropped"] >= len(info["trimmed"])
    slots = iter(range(len(info["documents"])))
    for hop in info["hops"]:
        for document in hop["documents"]:
            slot = next(slots)
            (cut,) = [one for one in info["trimmed"] if one["slot"] == slot]
            assert info["documents"][slot]["content"] == words
            assert 0 < cut["shown_chars"] == len(document["content"]) and words.startswith(document["content"])
    assert len(info["hops"]) == 3 and info["num_prompt_tokens"] + 12 <= 700


def test_hops_are_told_as_they_come_and_the_answer_streams_behind_them():
    engine, told = engine_that_asks(), []
    stream = engine.stream({"messages": [user()]}, 12, search=Library(), max_hops=3,
                           on_hop=lambda number, hop: told.append((number, dict(hop))))
    assert [hop["hop"] for _, hop in told] == [1, 2, 3] and {number for number, _ in told} == {0}
    assert "".join(stream) == stream.text and stream.info["hops"] == [hop for _, hop in told]


def test_the_next_turn_begins_where_the_answer_ended():
    engine = engine_that_asks(4.0)
    messages = [user()]
    text, info = answer_of(engine, *messages, max_hops=3)
    message = {"role": "assistant", "content": info["answer"], "citations": [one["slot"] for one in info["citations"]]}
    if info["abstained"]:
        message = {"role": "assistant", "content": "", "abstain": True, "closest": [c["slot"] for c in info["closest"]]}
    _, later = engine.generate_from_conversation({"messages": [hops(*info["hops"]), user(), message, user("And?")]}, 4)
    assert later["cached_tokens"] >= info["num_prompt_tokens"]


@pytest.mark.parametrize(
    ("messages", "options", "error", "problem"),
    [
        ([user()], {"max_hops": 0}, ConfigError, "max_hops is 0, must be a whole number from 1"),
        ([user()], {"max_hops": 1.5}, ConfigError, "max_hops is 1.5, must be a whole number from 1"),
        ([user()], {"top_k_per_hop": 0}, ConfigError, "top_k is 0, must be a whole number from 1"),
        ([user("ferry " * 900)], {}, UserError, "The question is too long: "),
        ([hops()], {}, ConversationError, "The conversation ends before its first message"),
        ([user(), hops({"query": "x"})], {}, ConversationError, "hop 1: 'documents' is missing"),
        ([hops(), hops(), user(" ")], {}, ConversationError, "'content' is empty"),
        ("none", {}, ConversationError, "message 1 has the role None"),
    ],
)
def test_what_cannot_work_is_said(messages, options, error, problem):
    engine = engine_that_asks()
    with pytest.raises(error, match=problem):
        answer_of(engine, *messages, **options)
    assert engine.scheduler.is_idle

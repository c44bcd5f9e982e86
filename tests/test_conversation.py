"""The grammar of conversations: one test per legal and illegal sequence."""

import pytest

from nanochat.conversation import check_conversation, result_groups
from nanochat.errors import ConversationError

DOCUMENT = {"id": "d1", "title": "Torvik Bridge", "content": "It opened in 1987."}
MESSAGES = {
    "s": {"role": "system", "content": "Answer from the documents."},
    "r": {"role": "retrieval", "documents": [DOCUMENT]},
    "h": {
        "role": "retrieval",
        "multi_hop": True,
        "hops": [{"hop": 1, "query": "bridge", "documents": [DOCUMENT]}, {"hop": 2, "query": "year", "documents": []}],
    },
    "u": {"role": "user", "content": "When did it open?"},
    "a": {"role": "assistant", "content": "1987"},
    "t": {"role": "tool", "content": "1987"},
}


def conversation(letters):
    return {"messages": [dict(MESSAGES[letter]) for letter in letters]}


@pytest.mark.parametrize(
    "letters",
    [
        *("u", "ua", "su", "sua", "uaua", "uau"),
        *("ru", "rua", "sru", "srua", "ruarua", "ruaua", "uarua", "sruarua"),
        *("ur", "ura", "sur", "sura", "uraura", "urarua", "ruaura"),
        *("hua", "uha", "shua", "uahu"),
    ],
)
def test_legal_sequences(letters):
    check_conversation(conversation(letters))


@pytest.mark.parametrize(
    ("letters", "problem"),
    [
        ("", "The conversation ends before its first message: expected system or retrieval or user"),
        ("s", "The conversation ends after message 1 (system): expected retrieval or user"),
        ("r", "The conversation ends after message 1 (retrieval): expected user"),
        ("sr", "The conversation ends after message 2 (retrieval): expected user"),
        ("uar", "The conversation ends after message 3 (retrieval): expected user"),
        ("a", "message 1 has the role 'assistant': expected system or retrieval or user"),
        ("ss", "message 2 has the role 'system': expected retrieval or user"),
        ("us", "message 2 has the role 'system': expected retrieval or assistant"),
        ("uas", "message 3 has the role 'system': expected retrieval or user"),
        ("rs", "message 2 has the role 'system': expected user"),
        ("sa", "message 2 has the role 'assistant': expected retrieval or user"),
        ("uu", "message 2 has the role 'user': expected retrieval or assistant"),
        ("uaa", "message 3 has the role 'assistant': expected retrieval or user"),
        ("rr", "message 2 has the role 'retrieval': expected user"),
        ("ra", "message 2 has the role 'assistant': expected user"),
        ("urr", "message 3 has the role 'retrieval': expected assistant"),
        ("rur", "message 3 has the role 'retrieval': expected assistant"),
        ("ruu", "message 3 has the role 'user': expected assistant"),
        ("ut", "message 2 has the role 'tool': expected retrieval or assistant"),
    ],
)
def test_illegal_sequences_name_the_message_and_what_is_expected(letters, problem):
    with pytest.raises(ConversationError) as caught:
        check_conversation(conversation(letters))
    assert caught.value.problem == problem
    assert caught.value.hint


def retrieval(**fields):
    return {"messages": [{"role": "retrieval", **fields}, MESSAGES["u"], MESSAGES["a"]]}


def answer(**fields):
    return {"messages": [MESSAGES["r"], MESSAGES["u"], {"role": "assistant", **fields}]}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({}, "A conversation needs a list of 'messages'"),
        ([], "A conversation needs a list of 'messages'"),
        ({"messages": "hello"}, "A conversation needs a list of 'messages'"),
        ({"messages": ["hello"]}, "message 1 has the role None"),
        ({"messages": [{"content": "hello"}]}, "message 1 has the role None"),
        ({"messages": [{"role": "user"}]}, "message 1 (user): 'content' is None"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "message 1 (user): 'content' is ['x']"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "message 1 (user): 'content' is empty"),
        ({"messages": [{"role": "system", "content": 3}, MESSAGES["u"]]}, "message 1 (system): 'content' is 3"),
        (answer(content=""), "message 3 (assistant): 'content' is empty"),
        (answer(), "message 3 (assistant): 'content' is None"),
        (answer(content="1987", citations=[1]), "message 3 (assistant): citation 1 points at no document"),
        (answer(content="1987", citations=[-1]), "message 3 (assistant): citation -1 points at no document"),
        (answer(content="1987", citations=["d1"]), "message 3 (assistant): 'citations' is ['d1']"),
        (answer(content="1987", citations=[True]), "message 3 (assistant): 'citations' is [True]"),
        (answer(content="1987", citations=0), "message 3 (assistant): 'citations' is 0"),
        (answer(abstain="yes"), "message 3 (assistant): 'abstain' is 'yes'"),
        (answer(abstain=True, citations=[0]), "message 3 (assistant) abstains and cites"),
        (answer(content="1987", closest=[0]), "message 3 (assistant) has 'closest' and an answer"),
        (answer(abstain=True, closest=[1]), "message 3 (assistant): citation 1 points at no document"),
        (answer(abstain=True, closest="d1"), "message 3 (assistant): 'closest' is 'd1'"),
        (retrieval(), "message 1 (retrieval): 'documents' is missing"),
        (retrieval(documents={}), "message 1 (retrieval): 'documents' is missing"),
        (retrieval(documents=["text"]), "message 1 (retrieval): document 0 is str"),
        (retrieval(documents=[DOCUMENT, {"id": "d2", "title": ""}]), "message 1 (retrieval): 'content' of document 1"),
        (retrieval(documents=[{"id": 2, "title": "", "content": "x"}]), "message 1 (retrieval): 'id' of document 0"),
        (retrieval(multi_hop=True), "message 1 (retrieval): 'hops' is missing or empty"),
        (retrieval(multi_hop=True, hops=[]), "message 1 (retrieval): 'hops' is missing or empty"),
        (retrieval(multi_hop=True, hops=["bridge"]), "message 1 (retrieval), hop 1 is str"),
        (retrieval(multi_hop=True, hops=[{"documents": []}]), "message 1 (retrieval), hop 1: 'query' is missing"),
        (retrieval(multi_hop=True, hops=[{"query": "q"}]), "message 1 (retrieval), hop 1: 'documents' is missing"),
        (
            retrieval(multi_hop=True, hops=[{"hop": 2, "query": "q", "documents": []}]),
            "message 1 (retrieval), hop 1: 'hop' is 2, expected 1",
        ),
        (
            retrieval(multi_hop=True, hops=[{"query": "q", "documents": [DOCUMENT], "citations": [0]}]),
            "message 1 (retrieval), hop 1: citation 0 points at no document, 0 were shown",
        ),
    ],
)
def test_illegal_fields_name_the_message(broken, problem):
    with pytest.raises(ConversationError) as caught:
        check_conversation(broken)
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    "message", [{"abstain": True}, {"abstain": True, "content": "Not there."}, {"abstain": True, "closest": [0]},
                {"content": "1987", "citations": [0, 0]}]
)
def test_legal_answers(message):
    check_conversation(answer(**message))


def test_citations_count_over_all_documents_shown_so_far():
    messages = [*conversation("rua")["messages"], *conversation("hua")["messages"]]
    messages[-1]["citations"] = [0, 1]
    check_conversation({"messages": messages, "reference": {"answers": ["1987"]}})
    messages[2]["citations"] = [1]
    with pytest.raises(ConversationError, match="citation 1 points at no document, 1 were shown"):
        check_conversation({"messages": messages})


def test_empty_results_and_empty_titles_are_legal():
    check_conversation(retrieval(documents=[]))
    check_conversation(retrieval(documents=[{"id": "d", "title": "", "content": "text"}]))


def test_result_groups_reads_both_forms():
    assert result_groups(MESSAGES["r"]) == [("", [DOCUMENT])]
    assert result_groups(MESSAGES["h"]) == [("bridge", [DOCUMENT]), ("year", [])]

"""Answers and their sources: what is cited, what a terminal may show, what happens when nothing is found."""

import pytest
from engine_stubs import make_conversation, make_documents, make_model, make_tokenizer

from nanochat.engine import ABSTAIN_TEXT, Engine
from nanochat.errors import ConversationError
from nanochat.rag.answer import Answer, answer_question
from nanochat.rag.citations import SNIPPET_CHARS, notes, printable, snippet, source_lines, source_name
from nanochat.retrieval import ScoredDocument
from nanochat.text import find_passage


class ListSearcher:
    """A searcher that always finds its first top_k documents."""

    def __init__(self, documents):
        self.documents = [ScoredDocument(**document, score=1.0) for document in documents]

    def retrieve(self, query, top_k):
        return self.documents[:top_k]


ENGINE = Engine(make_model("M,T"), make_tokenizer())


def test_an_answer_is_what_the_engine_says_about_the_found_documents():
    pieces = []
    searcher = ListSearcher(make_documents(4))
    answer = answer_question(ENGINE, searcher, "Where?", top_k=2, max_tokens=9, write=pieces.append)
    shown = [document.to_dict() for document in searcher.documents[:2]]
    text, info = ENGINE.generate_from_conversation(make_conversation("Where?", shown), 9)
    assert "".join(pieces) == answer.text == text
    assert answer.documents == shown and answer.citations == info["citations"] and answer.question == "Where?"


def test_nothing_found_is_an_abstention_without_the_model():
    pieces = []
    answer = answer_question(None, ListSearcher([]), "Where?", write=pieces.append)
    assert answer.text == "".join(pieces) == ABSTAIN_TEXT
    assert answer.abstained and answer.documents == []
    assert source_lines(answer) == ["  note: no document was found for this question"]


class RecordingEngine:
    """An engine that keeps what it is asked."""

    def stream(self, conversation, *rest, **ways):
        self.asked = conversation["messages"][-1]["content"]
        return ENGINE.stream(conversation, *rest, **ways)


def test_a_misspelt_question_is_searched_and_read_as_it_was_meant_and_says_so():
    class Searcher(ListSearcher):
        queries = ()

        def retrieve(self, query, top_k):
            self.queries = (*self.queries, query)
            return super().retrieve(query, top_k)

    engine, searcher = RecordingEngine(), Searcher(make_documents(2))
    answer = answer_question(engine, searcher, "Whcih town is it?", max_tokens=4)
    assert searcher.queries == ("Whcih town is it?", "Which town is it?") and engine.asked == "Which town is it?"
    assert answer.question == "Whcih town is it?" and answer.read_as == "Which town is it?"
    assert 'read as "Which town is it?"' in notes(answer)
    for question, spelling in (("Which town is it?", True), ("Whcih town is it?", False)):
        searcher.queries = ()
        answer = answer_question(engine, searcher, question, max_tokens=4, spelling=spelling)
        assert searcher.queries == (question,) and engine.asked == question
        assert answer.read_as == "" and not any("read as" in note for note in notes(answer))
    nothing = answer_question(None, ListSearcher([]), "Whcih town is it?")
    assert notes(nothing) == ['read as "Which town is it?"', "no document was found for this question"]


def test_documents_of_earlier_turns_keep_their_numbers():
    first = make_conversation("Who?", make_documents(2))["messages"]
    history = [*first, {"role": "assistant", "content": "Mira", "citations": [1]}]
    answer = answer_question(ENGINE, ListSearcher(make_documents(4)[2:]), "Where?", history=history, max_tokens=4)
    assert [document["id"] for document in answer.documents] == ["d0", "d1", "d2", "d3"]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused_in_words(question):
    with pytest.raises(ConversationError, match="empty"):
        answer_question(ENGINE, ListSearcher(make_documents(2)), question)


def cited_answer(slots: list[int]) -> Answer:
    documents = make_documents(3)
    citations = []
    for slot in slots:
        found = find_passage(documents[slot]["content"], ["Mira Solheim"])
        place = {"start": found and found.start, "end": found and found.end, "passage": found.text if found else "",
                 "match": found.match if found else ""}
        citations.append({"slot": slot, "number": slot + 1, "id": f"d{slot}", "title": f"Title {slot}", **place})
    info = {"answer": "Mira Solheim"}
    return Answer(question="q", text="", documents=documents, citations=citations, abstained=False, info=info)


def test_cited_sources_come_first_and_the_others_share_a_line():
    lines = source_lines(cited_answer([1]))
    assert lines[0] == "  [2] Title 1 (d1), characters 0-54:"
    assert lines[1] == '      "Brelith Institute was founded by Mira Solheim in 1931."'
    assert lines[2:] == ["  also read: Title 0 (d0), Title 2 (d2)"]
    assert len(source_lines(cited_answer([2, 0, 1]))) == 6
    assert source_lines(cited_answer([0]))[:2] == [
        "  [1] Title 0 (d0), no passage states the answer; it begins:", f"      {make_documents(1)[0]['content']}"]


def test_a_snippet_shows_the_answer_in_whole_words():
    content = " ".join(f"word{number}" for number in range(200)) + " Mira Solheim " + "and more " * 100
    for answer in ("Mira Solheim", "mira solheim"):
        text = snippet(content, answer)
        assert "Mira Solheim" in text and text.startswith("... word") and text.endswith(" ...")
        assert len(text) <= SNIPPET_CHARS + 8
    assert snippet(content, "not there").startswith("word0 ")
    assert snippet("short  \n text", "x") == "short text"
    assert snippet("x" * 1000, "y").startswith("xxx") and len(snippet("x" * 1000, "y")) <= SNIPPET_CHARS + 8
    japanese = "\u65e5" * 300 + "\u672c" + "\u65e5" * 300
    assert "\u672c" in snippet(japanese, "\u672c")
    assert snippet(content, content) == snippet(content, "word0")
    assert snippet("", "") == ""


def test_no_escape_sequence_reaches_a_terminal():
    hostile = "a\x1b[31mred\x1b]0;title\x07\r\x9b2Jb\u202egnp\ud800\x00 caf\u00e9 \U0001f600\u200d\n\tz"
    text = printable(hostile)
    assert text == "a[31mred]0;title2Jbgnp caf\u00e9 \U0001f600\u200d\n\tz"
    text.encode()
    document = {"id": "x\x1b[1m", "title": "A\nB\x07", "content": hostile}
    assert source_name(document, 3) == "[3] A B (x[1m)"
    assert "\x1b" not in snippet(hostile, "red") and "\n" not in snippet(hostile, "red")


def ask(documents, question="When does the ferry leave?", **options):
    return answer_question(ENGINE, ListSearcher(documents), question, max_tokens=6, **options)


def test_a_document_of_a_hundred_thousand_words_is_read_from_its_beginning_and_said_to_be_cut():
    content = " ".join(f"word{number}" for number in range(100_000))
    answer = ask([{"id": "huge", "title": "Huge", "content": content}])
    (cut,) = answer.info["trimmed"]
    assert cut["slot"] == 0 and 0 < cut["shown_chars"] < 2_000
    note = f"[1] was cut for want of room: the model read {cut['shown_chars']:,} of its {len(content):,} characters"
    assert notes(answer) == [note] and source_lines(answer)[-1] == f"  note: {note}"


def test_more_documents_than_slots_or_room_are_counted():
    short = [{"id": f"s{number}", "title": "", "content": "x"} for number in range(40)]
    answer = ask(short, "?", top_k=40)
    assert len(answer.documents) == 32
    assert notes(answer) == ["8 of the documents were not shown: a model is shown 32 at most"]
    answer = ask(make_documents(20), top_k=20)
    left_out = 20 - len(answer.documents)
    assert f"{left_out} of the documents were not shown: there is no room for them beside the question" in notes(answer)
    assert notes(ask(make_documents(2))) == []


@pytest.mark.parametrize("question", ["\u4f55\u6642\u3067\u3059\u304b?", "\u041a\u0442\u043e?", "\U0001f6a2?"])
def test_a_question_in_another_language_is_a_question(question):
    answer = ask(make_documents(2), question)
    assert answer.abstained or answer.citations
    assert ask([], question).abstained


def test_the_threshold_of_an_answer():
    never, always = (ask(make_documents(2), answer_threshold=threshold) for threshold in (1.0, 0.0))
    assert never.abstained and never.text == ABSTAIN_TEXT and never.citations == []
    assert not always.abstained and always.citations
    assert never.info["answer_probability"] >= always.info["answer_probability"] > 0


def test_a_closest_document_is_named_after_an_abstention():
    closest = {"slot": 1, "number": 2, "id": "d1", "title": "Title 1"}
    answer = Answer(question="q", text=ABSTAIN_TEXT, documents=make_documents(2), citations=[], abstained=True,
                    info={"answer": "", "closest": [closest]})
    assert source_lines(answer) == [
        "  [2] Title 1 (d1) comes closest, and does not say it", "  also read: Title 0 (d0)"]

"""Documents beside the evidence, and changed ones: none may state the answer, and none loses its white space."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.evaluation import EvalQuestion
from nanochat.evaluation.suite import make_card
from nanochat.evaluation.suite.abstaining import calibration_prompts
from nanochat.evaluation.suite.changing import PADDING, edited, injection, length, paraphrase, resized
from nanochat.evaluation.suite.judging import Asker, judge
from nanochat.evaluation.suite.material import Material, in_memory
from nanochat.evaluation.suite.prompts import prompt
from nanochat.evaluation.suite.reading import Drawing, hard, position, random_documents, wrong
from nanochat.evaluation.suite.trials import deletion_cells
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager

TOWNS = "Alda Brun Cers Dorn Elst Furn".split()
TEXT = "{0} is a town. The mayor of {0} is {0}son. It is old."
DOCUMENTS = [{"id": f"d{n}", "title": town, "content": TEXT.format(town)} for n, town in enumerate(TOWNS)]
# three more say who the mayor of Alda is, each in a form of its own; "Aldasons" is somebody else
OTHERS = ["The mayor of Alda, ALDASON, has a dog.", "Mayor of Alda: Aldason-Marsik.", "The mayor of Alda is A. Son.",
          "The mayor of Alda likes Aldasons."]
DOCUMENTS += [{"id": f"also{n}", "title": "Alda news", "content": text} for n, text in enumerate(OTHERS)]
QUESTIONS = [EvalQuestion(id=f"q{n}", question=f"Who is the mayor of {town}?", supporting_ids=(f"d{n}",), kind="mayor",
                          answers=(f"{town}son", "A. Son") if n == 0 else (f"{town}son",))
             for n, town in enumerate(TOWNS)]
ANSWERING = {"also0", "also1", "also2"}


def make(name, *, documents=DOCUMENTS, questions=QUESTIONS, **more):
    return Material(name=name, documents=documents, answerable=questions, unanswerable=[], retriever_type="bm25",
                    search=in_memory(documents, "bm25"), is_world=name == "fresh", **more)


def shown_for(prompts, id="q0"):
    return {one["id"] for asked in prompts if asked.id == id for one in asked.documents}


class Refusing:
    def generate_batch(self, conversations, max_tokens=256):
        return [("no", {"answer": "no", "abstained": True, "citations": [],
                        "documents": one["messages"][0].get("documents", [])}) for one in conversations]


def cells_of(material, drawing):
    notes = []
    deleted = deletion_cells(Asker(Refusing()), material, drawing, notes.append, 2)
    assert not notes
    return [*wrong(material, drawing), *hard(material, drawing), *random_documents(material, drawing),
            *length(material, drawing), *position(material, drawing), *deleted]


def test_no_distractor_of_a_users_question_states_its_answer():
    material, drawing = make("yours"), Drawing(top_k=4)
    cells = cells_of(material, drawing)
    for cell in cells:
        assert not shown_for(cell.prompts) & ANSWERING, cell.name
    by_name = {cell.name: cell for cell in cells}
    # others come in their place, also such as only resemble the answer
    assert len(shown_for(by_name["wrong"].prompts)) == 4 and "also3" in shown_for(by_name["wrong"].prompts)
    assert len(shown_for(by_name["random_4"].prompts)) == 5
    assert not shown_for(calibration_prompts(make("yours", calibration=QUESTIONS[:1]), drawing)[1:]) & ANSWERING
    assert material.left_out == {("q0", id) for id in ANSWERING}


def test_typos_are_asked_as_they_are_and_as_chat_mends_them():
    cells = {cell.name: cell.prompts for cell in paraphrase(make("fresh"), Drawing(top_k=5))}
    asked = [(one.id, one.question) for one in QUESTIONS]
    assert [(one.id, one.question) for one in cells["asked_mended"]] == asked
    assert not {(one.id, one.question) for one in cells["asked_typo"]} & set(asked)
    assert all(one.recall == 1.0 for one in cells["asked_mended"])


def test_in_a_world_values_recur_and_are_shown():
    material, drawing = make("fresh"), Drawing(top_k=4)
    by_name = {cell.name: cell for cell in cells_of(material, drawing)}
    for name in ("wrong", "hard_4", "deleted"):
        assert shown_for(by_name[name].prompts) & ANSWERING, name
    assert not material.left_out


def test_a_deleted_document_that_is_still_found_is_shown(monkeypatch):
    # the fault that the condition looks for must not be left out with those that hold the answer
    monkeypatch.setattr("nanochat.retrieval.KnowledgeBase.delete", lambda self, ids: None)
    (cell,) = deletion_cells(Asker(Refusing()), make("yours"), Drawing(top_k=4), print, 2)
    assert "d0" in shown_for(cell.prompts) and not shown_for(cell.prompts) & ANSWERING


def test_a_deleted_value_that_was_read_in_another_document_is_not_stale():
    question, other = QUESTIONS[0], {"id": "x", "title": "Alvik", "content": "The mayor of Alvik is Aldason."}

    def is_stale(*documents, cites=(), text="Aldason"):
        citations = [{"number": slot + 1, "id": documents[slot]["id"]} for slot in cites]
        info = {"answer": text, "abstained": False, "citations": citations, "documents": documents}
        return judge(prompt(question, documents, answers=(), lure=question.answers), text, info).is_stale

    assert is_stale(DOCUMENTS[1], cites=[0]) and is_stale(DOCUMENTS[1], other, cites=[0]) and is_stale(other)
    assert not is_stale(DOCUMENTS[1], other, cites=[1])
    # what was to be deleted and is shown all the same does not count
    assert is_stale(DOCUMENTS[0], DOCUMENTS[1], cites=[0]) and not is_stale(DOCUMENTS[0], cites=[0], text="Brunson")


def test_where_nothing_else_is_left_evidence_is_not_removed():
    documents = [DOCUMENTS[0], *(one for one in DOCUMENTS if one["id"] in ANSWERING)]
    (cell,) = wrong(make("yours", documents=documents, questions=QUESTIONS[:1]), Drawing())
    assert cell.prompts == []


def old_value_is_gone(material):
    (cell,) = edited(material, Drawing(top_k=5))
    for asked in cell.prompts:
        text = " ".join(f"{one['title']} {one['content']}" for one in asked.documents)
        assert asked.lure[0] not in text.replace("Aldasons", ""), asked
        assert asked.answers[0] in text
    return {asked.id for asked in cell.prompts}


def test_a_fact_is_edited_only_where_the_old_value_stands_in_no_other_document_shown():
    everybody = {question.id for question in QUESTIONS}
    assert old_value_is_gone(make("yours")) == everybody
    # in a world the others may be shown, and then the question is not asked
    assert old_value_is_gone(make("fresh")) == everybody - {"q0"}


def test_a_fact_with_two_documents_of_evidence_is_not_edited_in_one_of_them():
    documents = [{"id": "d9", "title": "Brun", "content": "In Brun, Brunson is the mayor."}, *DOCUMENTS]
    questions = [EvalQuestion(id="q1", question="Who is the mayor of Brun?", answers=("Brunson",), kind="mayor",
                              supporting_ids=("d1", "d9")), *QUESTIONS[2:]]
    assert old_value_is_gone(make("yours", documents=documents, questions=questions)) == {"q2", "q3", "q4", "q5"}


HANDBOOK = ("\n# Returns\r\n\r\nThe period is 30 days.  It starts\twith the parcel.\n\n- Dr. Ana Lima decides.\n"
            "- Call 412.\n\n\u8fd4\u54c1\u306f30\u65e5\u3002\u7d42\u308f\u308a\u3002\n\n    code = 1\n")


def added(old, new):
    """What was put into a text: (place, words); None if anything else changed."""
    for at in range(len(old) + 1):
        if new[:at] == old[:at] and new[at + len(new) - len(old) :] == old[at:]:
            return at, new[at : at + len(new) - len(old)]
    return None


def test_an_order_is_put_in_and_all_else_stays_as_it_is():
    documents = [{"id": f"h{n}", "title": "Handbook", "content": f"{HANDBOOK}{n}"} for n in range(4)]
    questions = [EvalQuestion(id=f"q{n}", question="What is the period of returns?", answers=("30 days",),
                              supporting_ids=("h0",)) for n in range(60)]
    material = make("yours", documents=documents, questions=questions)
    clean, *injected = injection(material, Drawing())
    (harmless,) = injection(material, Drawing(), {"harmless": ("The margins hold no notes.",)})[1:]
    assert harmless.name == "injected_harmless" and all(
        "The margins hold no notes." in " ".join(one["content"] for one in prompt.documents) and not prompt.lure
        for prompt in harmless.prompts)
    contents, places = {one["id"]: one["content"] for one in documents}, set()
    for asked in (asked for cell in injected for asked in cell.prompts):
        ((old, new),) = [(contents[one["id"]], one["content"]) for one in asked.documents
                         if one["content"] != contents[one["id"]]]
        found = added(old, new)
        assert found is not None, (old, new)
        assert "30 days" in new and "Dr. Ana Lima" in new and "\n- Call 412." in new and "\n\n    code = 1" in new
        places.add(found[0])
    assert len(clean.prompts) == 60 and len(places) > 4


@pytest.mark.parametrize("seed", range(8))
def test_a_document_made_longer_keeps_its_white_space(seed):
    document = {"id": "h", "title": "Handbook", "content": HANDBOOK}
    long = resized(document, 2.0, ("30 days",), random.Random(seed))["content"]
    for sentence in PADDING:
        long = long.replace(f" {sentence}", "")
    assert long == HANDBOOK
    assert resized(document, 1.0, ("30 days",), random.Random(seed)) == document


@pytest.mark.parametrize("seed", range(8))
def test_a_document_made_shorter_loses_whole_sentences(seed):
    short = resized({"id": "h", "title": "T", "content": HANDBOOK}, 0.5, ("30 days",), random.Random(seed))["content"]
    assert short.startswith("\n# Returns") and "\r\n\r\nThe period is 30 days." in short and short.endswith("\n")
    # what stays stays in order, character by character
    rest = iter(HANDBOOK)
    assert all(character in rest for character in short)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["One two.", "Dr. Who!", " ", "\n", "\n\n", "\t", "- x", "\u3002", "3.5"]), max_size=12)
       .map("".join), st.integers(0, 9))
def test_resizing_never_rewrites_white_space(content, seed):
    document = {"id": "h", "title": "T", "content": content}
    assert resized(document, 1.0, (), random.Random(seed)) == document
    long = resized(document, 2.0, (), random.Random(seed))["content"]
    for sentence in PADDING:
        long = long.replace(f" {sentence}", "")
    assert long == content


def test_the_number_of_documents_left_out_is_in_the_results_and_on_the_page(tmp_path):
    KnowledgeBase.build([Document.from_dict(one) for one in DOCUMENTS], tmp_path / "kb", "bm25")
    made = make_card(Refusing(), {"source": "rag", "tag": "t", "step": 1}, questions=QUESTIONS, max_questions=6,
                     knowledge_base=RetrievalManager(None, tmp_path / "kb"), output=tmp_path / "out")
    materials = json.loads((tmp_path / "out" / "results.json").read_text())["materials"]
    assert materials["yours"]["left_out"] == {"documents": 3, "questions": 1}
    assert materials["fresh"]["left_out"] == {"documents": 0, "questions": 0}
    page = made.paths[0].read_text()
    assert page.count("because they state an accepted answer: 3 in all, for 1 of the questions") == 1

"""Fill-in questions: one document answers, word for word, and the question does not tell; the same ones every time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.rag.spans import Vocabulary, find_spans, is_plain, sentences
from nanochat.rag.synthesis import BLANK, cloze_questions, split_by_document
from nanochat.retrieval import Document
from nanochat.retrieval.chunking import chunk_documents
from tasks.example_documents import example_documents
from tasks.worlds import WorldConfig, make_world

ROOT = Path(__file__).parents[1]
WORLD = make_world(WorldConfig(seed=5, num_entities=60)).documents
SETS = {"examples": example_documents(), "world": WORLD}


def folded(text):
    return " ".join(["", *"".join(char if char.isalnum() else " " for char in text.lower()).split(), ""])


def sides(question):
    """What stands before and after the blank, without the prompt and the title."""
    before, after = question["question"].removeprefix("Fill in the blank").split(BLANK)
    return before.partition(": ")[2].removeprefix("... "), after.removesuffix(" ...")


def check_law(documents, questions):
    by_id = {document["id"]: document for document in documents}
    for question in questions:
        (name,), (answer,), sides_of = question["supporting_ids"], question["answers"], sides(question)
        assert answer in by_id[name]["content"] and 1 <= len(answer.split()) <= 4
        assert answer.lower() not in question["question"].lower().split()
        holding = [document["id"] for document in documents
                   if all(folded(side) in folded(f"{document['title']} {document['content']}") for side in sides_of)]
        assert holding == [name], question
        assert folded(by_id[name]["content"]).count(folded(answer)) == 1, question
    assert len({question["id"] for question in questions}) == len(questions)


def spans_of(sentence, others=""):
    vocabulary = Vocabulary([f"{sentence} {others}"])
    assert is_plain(sentence, vocabulary)
    return [sentence[span.start : span.end] for span in find_spans(sentence, vocabulary)]


@pytest.mark.parametrize("name", SETS)
def test_exactly_one_document_answers_and_says_it_word_for_word(name):
    questions = cloze_questions(SETS[name])
    check_law(SETS[name], questions)
    asked = {question["supporting_ids"][0] for question in questions}
    assert len(asked) >= 0.8 * len(SETS[name]), f"{len(asked)} of {len(SETS[name])} documents"
    assert all(question["hops"] == 1 and question["kind"] == "cloze" for question in questions)


def test_documents_that_say_the_same_are_not_asked_about():
    first = {"id": "a", "title": "", "content": "The Velda kettle was built by Torvik Mill in 1843."}
    assert cloze_questions([first])
    copy = {"id": "b", "title": "", "content": "Yes. The velda kettle was built by Torvik Mill in 1843, they say."}
    assert cloze_questions([first, copy]) == []
    # another answer to the same question is as bad
    other = {**copy, "content": first["content"].replace("1843", "1911")}
    assert cloze_questions([first, other]) == []


def test_titles_stand_in_questions_that_need_them():
    content = "It was founded by the pilot Odessa Crane in the old harbour."
    def ask(title):
        return cloze_questions([{"id": "a", "title": title, "content": content}])[0]["question"]

    assert ask("Tidewater Museum").startswith("Fill in the blank (Tidewater Museum): It was founded by")
    assert ask("Old harbour").startswith("Fill in the blank: It was")
    assert ask("far too long a title to be shown in any question").startswith("Fill in the blank: It was")


def test_questions_of_a_document_are_about_different_sentences_first():
    content = "The lamp shop in Torvik opened in 1843. Its owner Velda Marsik sold kettles from Ralgard."
    questions = cloze_questions([{"id": "a", "title": "Lamps", "content": content}], per_document=2)
    assert len({sides(question)[0][:8] for question in questions}) == 2


def test_same_documents_and_seed_give_same_questions_in_any_process():
    questions = cloze_questions(WORLD, seed=3)
    assert questions == cloze_questions(WORLD, seed=3) != cloze_questions(WORLD, seed=4)
    program = ("import json; from nanochat.rag.synthesis import *; from tasks.worlds import *; "
               "world = make_world(WorldConfig(seed=5, num_entities=60)); "
               "print(json.dumps(cloze_questions(world.documents, seed=3)))")
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout) == questions
    assert cloze_questions(WORLD, per_document=0) == [] == cloze_questions([])


@pytest.mark.parametrize(("sentence", "spans"), [
    ("The mill was sold in May 1843 for about 52 crowns.", ["May 1843", "52"]),
    ("The mill opened on July 21, 1843 and closed on 3 May 1911.", ["July 21, 1843", "3 May 1911"]),
    # ranges, figures, conversions and numbered things are not amounts
    ("The mill ran 1843-1911, see figure 3, and lies 20 km (12 mi) up the road.", []),
    ("The mill has about $4.5 million and 75% of it stays.", ["$4.5 million", "75%"]),
    # names are whole
    ("We met Odessa Crane of the Bank of the West today.", ["Odessa Crane of the Bank of the West"]),
    ("We met the Crane and Marsik families at Torvik Mill's gate.", ["Torvik Mill"]),
    ("We met J. Crane, John Low, Ann Marsik and others there on the road.", []),
    ("Odessa herself said so to them all (Torvik was there).", []),
])  # fmt: skip
def test_spans_are_whole_dates_amounts_and_names(sentence, spans):
    found = [span for span in spans_of(sentence, "the families met road mill stays") if not span[0].islower()]
    assert sorted(found) == sorted(spans)


def test_words_that_also_stand_in_lower_case_are_no_names():
    assert "Governor" in spans_of("They elected Governor for another two years.")
    assert "Governor" not in spans_of("They elected Governor for another two years.", "the governor left")


def test_noun_phrases_are_rare_and_whole():
    sentence = "The sample is taken by a hollow needle from the hipbone, and the doctor talks with them."
    assert spans_of(sentence) == ["sample", "hipbone"]
    others = [f"the hipbone number {number}" for number in range(200)]
    vocabulary = Vocabulary([sentence, *others])
    assert "hipbone" not in [sentence[span.start : span.end] for span in find_spans(sentence, vocabulary)]


@pytest.mark.parametrize("text", [
    "Short one here.", "no capital starts this sentence at all.", "This sentence has no end at all",
    "A (bracket opens in this one.", "See the page at http://example.org for all of it.",
    "Fever | cough | pain | loss | rash | itch.", "The blank ____ is there already now.",
    "Signs include pain Loss of appetite Weak legs Dark urine Bad sleep and fever.",
    "Velda Marsik Torvik Mill Ralgard Bank Odessa Crane of all.", "Are there two three four five six seven?",
])  # fmt: skip
def test_debris_is_not_asked_about(text):
    assert not is_plain(text.strip(), Vocabulary([f"{text} loss weak dark bad"]))


def test_bullets_are_taken_apart():
    assert sentences("Key points - Red cells carry oxygen. - White cells fight.\n* It is so.") == [
        "Key points", "Red cells carry oxygen.", "White cells fight.", "It is so."]


@pytest.mark.parametrize(("content", "answer"), [
    ("The plan of the American Cancer Society (ACS) was signed by 40 doctors.", "American Cancer Society"),
    ("They all speak the Armenian language in Armenia, said the 40 teachers.", "Armenian"),
    ("The bold mine safety board wrote to BMS about the new 40 pits.", "BMS"),
])  # fmt: skip
def test_answers_that_the_question_gives_away_are_not_asked_for(content, answer):
    questions = cloze_questions([{"id": "a", "title": "", "content": content}], per_document=9)
    assert answer not in [question["answers"][0] for question in questions] and questions


NASTY = ["The", "Velda", "Marsik", "of", "the", "1843", "20%", "(", ")", '"', "____", ".", ". ", "?", "\n\n", "- ", ",",
         "U.S.", "May", "3", "'s", "rare", "hollow", "needle", " ", "\x00", "e\u0301", "\ud83d", "\u4f60\u3002",
         "\u0130", "\u00b2"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.one_of(
    st.text(max_size=120), st.lists(st.sampled_from(NASTY), max_size=40).map(" ".join),
    st.lists(st.sampled_from([*NASTY, " ", " ", " "]), max_size=60).map("".join),
)), max_size=4))
def test_nasty_text_never_crashes_and_keeps_the_law(pairs):
    documents = [{"id": str(place), "title": title, "content": content} for place, (title, content) in enumerate(pairs)]
    for question in cloze_questions(documents):
        (name,), (answer,) = question["supporting_ids"], question["answers"]
        assert answer in documents[int(name)]["content"]
        assert question["question"].count(BLANK) == 1 + documents[int(name)]["title"].count(BLANK)


def test_documents_are_split_by_a_stable_hash():
    questions = cloze_questions(WORLD)
    train, test = split_by_document(questions, test_share=0.3)
    names = [{question["supporting_ids"][0] for question in side} for side in (train, test)]
    assert not names[0] & names[1] and len(train) + len(test) == len(questions)
    assert 0.15 < len(names[1]) / len(names[0] | names[1]) < 0.45
    # a document stays on its side whatever the others are
    some = questions[:40]
    assert split_by_document(some, test_share=0.3)[1] == [question for question in some if question in test]
    assert split_by_document(questions, test_share=0) == (questions, [])
    assert split_by_document(questions, test_share=1) == ([], questions)
    assert split_by_document([], test_share=0.3) == ([], [])


def test_few_documents_still_give_both_sides():
    for number in range(20):
        questions = [{"supporting_ids": [f"{number}-{place}"]} for place in range(2)]
        assert [len(side) for side in split_by_document(questions, test_share=0.2)] == [1, 1]
    assert split_by_document(questions[:1], test_share=0.2)[0] or split_by_document(questions[:1], test_share=0.2)[1]


def test_passages_of_one_document_stay_together_unless_it_is_the_only_one():
    handbook = " ".join(document["content"] for document in WORLD[:20])
    documents = [Document(id=name, title="Handbook", content=f"{name}. {handbook}") for name in ("one", "two")]
    halves = [chunk_documents([document], 40) for document in documents]
    questions = cloze_questions([chunk.to_dict() for chunk in halves[0][::2] + halves[1][1::2]])
    assert {question["parent"] for question in questions} == {"one", "two"}
    assert all(len({question["parent"] for question in side}) == 1
               for side in split_by_document(questions, test_share=0.5))
    alone = cloze_questions([chunk.to_dict() for chunk in halves[0]])
    train, test = split_by_document(alone, test_share=0.4)
    names = [{question["supporting_ids"][0] for question in side} for side in (train, test)]
    assert train and test and not names[0] & names[1]

"""Questions that nothing answers: what takes the place of a name, and that a subject without a name has none."""

import random

import pytest
from synthesis_stubs import make_library

from nanochat.rag.absent import Absent
from nanochat.rag.spans import names_nothing
from nanochat.rag.training_data import _absence

DOCUMENTS = [{"id": name, "title": "", "content": f"The {name} mill stands by the river."} for name in "abcd"]
POINTING = ["only", "last", "Other", "same", "most", "First", "second", "them-like"]


def asked(subject, document="a", relation="size", kind="table"):
    return {"id": subject, "question": f"What is the {relation} of {subject}?", "answers": ["5"], "hops": 1,
            "supporting_ids": [document], "answer_id": document, "kind": kind, "subject": subject}


def entities(subject, *others, count=200):
    """Subjects of the questions that `entity` makes of one about `subject`, with others beside it."""
    question = asked(subject)
    maker = Absent(make_library(DOCUMENTS), [question, *map(asked, others)])
    made = [maker.entity(question, [], random.Random(seed)) for seed in range(count)]
    return [one["subject"] for one in made if one is not None]


@pytest.mark.parametrize("subject", ["The engine", "engine", "an old engine", "the engines of the mill", "them-like"])
def test_a_subject_without_a_name_has_no_other_in_its_place(subject):
    assert entities(subject, "The kettle", "Velda Crane", "Torvik 300", *POINTING) == []


@pytest.mark.parametrize("subject", ["The Velda engine", "engine 300", "Torvik", "the engine of Torvik", "RCD",
                                     "\u767d\u8272\u684c\u5b50"])
def test_of_a_subject_with_a_name_only_the_name_is_replaced(subject):
    made = entities(subject, "The kettle", "Odessa Crane", "Torvik 200", "lower", "\u9ed1\u8272\u96e8\u4f1e", *POINTING)
    small = {word for word in subject.split() if word.islower()}
    assert len(made) > 150 and subject not in made
    for words in map(str.split, made):
        assert small == {word for word in words if word.islower()} and len(words) == len(subject.split())


def test_words_that_point_or_compare_are_in_no_name():
    # "only" and "last" name rows, and would make "Velda Other" or "The engonl"
    made = entities("Velda Crane", "Torvik Brin", *POINTING)
    assert not [words for words in made for word in words.split() if names_nothing(word)]
    maker = Absent(make_library(DOCUMENTS), list(map(asked, ["Velda kiln", "May", *POINTING])))
    assert maker._parts == ["Velda", "kiln"]


def test_an_invented_letter_that_is_a_word_names_nothing():
    question = asked("The X")
    maker = Absent(make_library(DOCUMENTS), [question])
    made = [_absence(maker, question, "entity_absent", {"The X": []}, random.Random(seed)) for seed in range(400)]
    subjects = {one[0]["subject"] for one in made if one is not None}
    assert len(subjects) > 10 and not {"The A", "The I"} & subjects


def test_nothing_more_is_asked_of_a_row_that_names_nothing():
    rows = [asked("other"), asked("last", "b", "weight"), asked("Velda", "c", "weight"), asked("Torvik", "d")]
    maker = Absent(make_library(DOCUMENTS), rows)
    made = {row["subject"]: _absence(maker, row, "relation_absent", {row["id"]: []}, random.Random(0)) for row in rows}
    assert [name for name, one in made.items() if one is not None] == ["Velda", "Torvik"]

"""Two questions linked by a name become one of two hops, unless it gives itself away; the file can be edited."""

import json
import random
from collections import Counter

import pytest

from nanochat.rag.library import Library
from nanochat.rag.question_file import QuestionError
from nanochat.refrag.chain_file import chains_of_folder, read_chains
from nanochat.refrag.composing import MAX_HOLDERS, PER_SECOND, REASONS, chains_of, described_otherwise
from nanochat.refrag.planning import queries_of
from nanochat.refrag.trace_config import TraceConfig
from nanochat.refrag.traces import TracePool
from nanochat.retrieval import Document, make_retriever
from tasks.world_chains import CHAIN_WORLD, ChainConfig, make_chains
from tasks.worlds import WorldConfig, make_world


def document(name, title, content):
    return {"id": name, "title": title, "content": content}


def question(name, kind, asked, answer, about, subject=""):
    return {"id": f"{about}#{name}", "kind": kind, "question": asked, "answers": [answer], "supporting_ids": [about],
            "answer_id": about, "hops": 1, "subject": subject}


DOCUMENTS = [
    document("lamp", "Torvex Lamp", "The Torvex Lamp was designed by Iva Rudlam in one night."),
    document("iva", "Iva Rudlam", "Iva Rudlam was born in Oldtown. She is a painter."),
    document("town", "Oldtown", "The mayor of Oldtown is Bel Kord. It lies on a river."),
    document("rain", "Weather", "It rains in spring and in autumn."),
]
QUESTIONS = [
    question("fact0", "fact", "Who was the Torvex Lamp designed by?", "Iva Rudlam", "lamp", "the Torvex Lamp"),
    question("fact0", "fact", "Where was Iva Rudlam born?", "Oldtown", "iva", "Iva Rudlam"),
    question("field0", "field", "What is the mayor of Oldtown?", "Bel Kord", "town", "Oldtown"),
    question("cloze0", "cloze", "Fill in the blank (Oldtown): It lies on a ____.", "river", "town", "Oldtown"),
]


def library(documents=DOCUMENTS):
    retriever = make_retriever("bm25")
    retriever.index([Document(id=d["id"], title=d["title"], content=d["content"]) for d in documents])

    def search(queries, top_k, allowed):
        return [[hit.position for hit in hits] for hits in retriever.search(queries, top_k)]

    return Library(documents, search)


def chains(questions=QUESTIONS, documents=DOCUMENTS, **settings):
    taken = Counter()
    return chains_of(questions, library(documents), **{"limit": 100, "top_k": 3, "taken": taken, **settings}), taken


def test_two_questions_linked_by_a_name_become_one_with_its_steps():
    made, taken = chains()
    assert [chain["question"] for chain in made] == [
        "Where was the one by whom the Torvex Lamp was designed born?",
        "What is the mayor of the place where Iva Rudlam was born?"]
    first = made[0]
    assert first["answers"] == ["Oldtown"] and first["supporting_ids"] == ["lamp", "iva"] and first["hops"] == 2
    assert first["steps"] == [
        {"query": first["question"], "subject": "the Torvex Lamp", "answer": "Iva Rudlam", "document_id": "lamp"},
        {"query": "Where was Iva Rudlam born?", "subject": "Iva Rudlam", "answer": "Oldtown", "document_id": "iva"}]
    assert first["kind"] == "chain" and not taken and set(taken) <= set(REASONS)
    assert chains(limit=1)[0] == made[:1] and chains() == chains()


@pytest.mark.parametrize(("asked", "words"), [
    ("Who wrote Silent Tower?", "the one who wrote Silent Tower"),
    ("Which town was founded in 1650?", "the town that was founded in 1650"),
    ("Fill in the blank (Silent Tower): The play was directed by ____.",
     'the one left out in "The play was directed by ____" (Silent Tower)'),
    ("Fill in the blank: It was written by ____ twice.", 'the one left out in "It was written by ____ twice"'),
    ("How many pages does it have?", ""),
])
def test_what_is_asked_for_can_be_said_in_the_middle_of_a_sentence(asked, words):
    assert described_otherwise({"question": asked}) == words


def test_what_gives_the_answer_or_the_name_away_is_left_out():
    shown = [DOCUMENTS[0] | {"content": DOCUMENTS[0]["content"] + " She came from Oldtown."}, *DOCUMENTS[1:]]
    made, taken = chains(documents=shown)
    assert [chain["supporting_ids"] for chain in made] == [["iva", "town"]] and taken == {"shown": 1}
    named = [QUESTIONS[0] | {"question": "Who was the Torvex Lamp of Iva Rudlam designed by?"}, *QUESTIONS[1:]]
    assert chains(named)[1] == {"shown": 1}


def test_a_name_that_stands_everywhere_links_nothing():
    crowd = [document(f"c{i}", f"Note {i}", f"Iva Rudlam wrote note {i}.") for i in range(MAX_HOLDERS)]
    made, taken = chains(documents=[*DOCUMENTS, *crowd])
    assert [chain["supporting_ids"] for chain in made] == [["iva", "town"]] and taken == {"common": 1}


def test_a_second_half_is_used_a_few_times_and_a_pair_of_documents_once():
    lamps = [document(f"lamp{i}", f"Lamp {i}", f"Lamp {i} was designed by Iva Rudlam.") for i in range(5)]
    firsts = [question("fact0", "fact", f"Who was Lamp {i} designed by?", "Iva Rudlam", f"lamp{i}") for i in range(5)]
    made, taken = chains([*firsts, *firsts, QUESTIONS[1]], [*lamps, DOCUMENTS[1]], top_k=10)
    assert len(made) == PER_SECOND and taken == {"duplicate": 10 - PER_SECOND}


def test_long_questions_and_those_that_find_nothing_are_left_out():
    long = QUESTIONS[1] | {"question": "Where was Iva Rudlam born" + " in winter" * 10 + "?"}
    assert chains([QUESTIONS[0], long])[1] == {"long": 1}
    lost = [QUESTIONS[0] | {"question": "Who was it made by?"}, QUESTIONS[1]]
    assert chains(lost, top_k=1)[1] == {"retrieval": 1}


def test_composed_questions_become_traces():
    found = library()
    pool = TracePool(DOCUMENTS, [*QUESTIONS, *chains()[0]], lambda queries, top_k: found.search(queries, top_k, None))
    config = TraceConfig(lengths=(2,), absent_share=0.0, recovery_share=0.0)
    trace = pool.conversations(1, random.Random(0), config)[0]
    hops = trace["messages"][1]["hops"]
    assert [hop["query"] for hop in hops] == queries_of(next(
        chain for chain in chains()[0] if chain["id"] == trace["question_id"]))
    assert len(trace["messages"][2]["citations"]) == 2


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


IDS = {document["id"] for document in DOCUMENTS}


def test_a_file_comes_back_as_it_was_written_and_can_be_edited(tmp_path):
    made, _ = chains()
    assert read_chains(write(tmp_path / "q.jsonl", *made, QUESTIONS[0]), IDS) == made
    edited = made[0] | {"question": "Where is the designer of the Torvex Lamp from?", "answers": ["Oldtown, of course"]}
    (found,) = read_chains(write(tmp_path / "q.jsonl", edited), IDS)
    assert found["steps"][0]["query"] == edited["question"]
    assert found["steps"][-1]["answer"] == "Oldtown, of course"


def test_a_folder_has_chains_for_each_part_or_none(tmp_path):
    made, _ = chains()
    assert chains_of_folder(tmp_path, "train", IDS) == []
    write(tmp_path / "queries_multihop_train.jsonl", made[0])
    write(tmp_path / "queries_multihop_test.jsonl", made[1])
    assert chains_of_folder(tmp_path, "train", IDS) == made[:1] and chains_of_folder(tmp_path, "test", IDS) == made[1:]
    write(tmp_path / "queries_multihop.jsonl", made[1])
    assert chains_of_folder(tmp_path, "train", IDS) == made and chains_of_folder(tmp_path, "validation", IDS) == []


def test_the_file_of_a_world_can_be_read_with_its_broken_questions(tmp_path):
    world = make_world(WorldConfig(seed=2, num_entities=60, questions_per_entity=0, **CHAIN_WORLD))
    questions = make_chains(world, ChainConfig(hops=(2, 3), per_length=40)).questions
    ids = {document["id"] for document in world.documents}
    assert read_chains(write(tmp_path / "q.jsonl", *questions), ids) == questions


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": "two"}, "'steps' must be a list"),
    ({"steps": [{"query": "a"}, {"query": ""}]}, "step 2 has no query"),
    ({"steps": [{"query": "a", "document_id": "lamp"}, {"query": "b", "document_id": 3}]}, "step 2 has no query"),
    ({"steps": [{"query": "a", "document_id": "lamp"}, {"query": "b", "document_id": "x"}]}, "'x' of step 2 is not in"),
    ({"steps": [{"query": "a", "document_id": "lamp"}]}, "the steps name the documents"),
    ({"answers": [], "supporting_ids": []}, "nothing answers the question"),
])
def test_what_does_not_fit_together_is_refused_with_its_line(tmp_path, change, message):
    made, _ = chains()
    path = write(tmp_path / "q.jsonl", made[1], made[0] | change)
    with pytest.raises(QuestionError, match=message) as refused:
        read_chains(path, IDS)
    assert str(refused.value).startswith(f"{path}:2: ")

"""Questions over documents as episodes: every published form, evidence cited where it stands, abstention without it."""

import gzip
import json

import pytest

from nanochat.common import write_jsonl
from nanochat.conversation import check_conversation
from nanochat.errors import DocumentError
from tasks.base import load_task
from tasks.benchmarks import final_number, read_benchmark
from tasks.reading import Reading, episodes

DOCUMENTS = [{"id": f"d{i}", "title": f"Town {i % 5}", "content": f"Mayor number{i:02d} rules here."}
             for i in range(20)]
QUESTIONS = [{"id": f"q{i}", "question": f"Who rules {i}?", "answers": [f"number{i:02d}"], "supporting_ids": [f"d{i}"]}
             for i in range(20)]


def parts(episode):
    documents, question, answer = episode["messages"]
    return documents["documents"], question["content"], answer


def is_right(episode, evidence):
    """The answer cites its evidence and nothing else, or abstains and no document shown states it."""
    documents, question, answer = parts(episode)
    check_conversation(episode)
    wanted = evidence[question]
    if answer.get("abstain"):
        return not any(wanted[0] and wanted[0] in document["content"] for document in documents)
    return answer["content"] == wanted[0] and [documents[slot]["id"] for slot in answer["citations"]] == [
        document["id"] for document in documents if document["id"] in wanted[1]]


def check(task, evidence):
    assert all(is_right(episode, evidence) for episode in task)
    return [bool(parts(episode)[2].get("abstain")) for episode in task]


EVIDENCE = {question["question"]: (question["answers"][0], question["supporting_ids"]) for question in QUESTIONS}


def test_episodes_vary_in_number_order_and_evidence_and_follow_the_seed():
    many = [question for _ in range(20) for question in QUESTIONS]
    reading = Reading(top_k=4)
    built = episodes(DOCUMENTS, many, seed=1, reading=reading)
    assert built == episodes(DOCUMENTS, many, seed=1, reading=reading) != episodes(DOCUMENTS, many, seed=2,
                                                                                  reading=reading)
    absent = check(built, EVIDENCE)
    assert sum(absent) / len(absent) == pytest.approx(0.2, abs=0.07)
    counts = [len(parts(episode)[0]) for episode in built]
    assert {count: counts.count(count) > 50 for count in range(1, 5)} == dict.fromkeys(range(1, 5), True)
    slots = [parts(episode)[2]["citations"][0] for episode in built if len(parts(episode)[0]) == 4
             and not parts(episode)[2].get("abstain")]
    assert {slot: slots.count(slot) > 8 for slot in range(4)} == dict.fromkeys(range(4), True)


def test_distractors_are_what_the_search_finds_and_what_the_authors_showed():
    asked = []

    def neighbours(documents, queries, top_k):
        asked.append((len(documents), list(queries)))
        return [[15, 16, 17, 18, 19] for _ in queries]

    shown = [{**QUESTIONS[0], "context_ids": ["d0", "d5", "d6", "d7", "d8"]}, *QUESTIONS[1:10]]
    built = episodes(DOCUMENTS, shown * 30, seed=0, reading=Reading(top_k=4, neighbours=neighbours))
    assert asked == [(20, [question["question"] for question in QUESTIONS[1:10]] * 30)]
    for question, near in ((QUESTIONS[0], {"d5", "d6", "d7", "d8"}), (QUESTIONS[3], {f"d{i}" for i in range(15, 20)})):
        others = [document["id"] for episode in built if parts(episode)[1] == question["question"]
                  for document in parts(episode)[0] if document["id"] not in question["supporting_ids"]]
        assert sum(name in near for name in others) / len(others) > 0.7
        assert set(others) - near, "a few distractors are drawn from all documents"


def test_questions_that_cannot_be_shown_are_left_out():
    odd = [{"question": "Two?", "answers": ["x"], "supporting_ids": ["d0", "d1"]},
           {"question": "Unknown?", "answers": ["x"], "supporting_ids": ["d99"]},
           {"question": "No evidence?", "answers": ["x"], "supporting_ids": []}]
    assert episodes(DOCUMENTS, odd, seed=0, reading=Reading(top_k=1)) == []
    (kept,) = episodes(DOCUMENTS, odd, seed=3, reading=Reading(top_k=2))
    assert sorted(document["id"] for document in parts(kept)[0]) == ["d0", "d1"]
    (empty,) = episodes(DOCUMENTS, [{"question": "?", "answers": [], "supporting_ids": ["d4"]}], seed=0,
                        reading=Reading(top_k=3))
    assert parts(empty)[2]["abstain"] and "d4" in [document["id"] for document in parts(empty)[0]]
    # a knowledge base whose only document is the evidence: it cannot be taken away
    (single,) = {json.dumps(episode) for seed in range(40)
                 for episode in episodes(DOCUMENTS[:1], QUESTIONS[:1], seed=seed, reading=Reading(top_k=3))}
    assert '"citations": [0]' in single


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_corpus_and_questions(tmp_path, suffix):
    split = [{**question, "split": "train" if number % 2 else "test"} for number, question in enumerate(QUESTIONS)]
    for name, records in (("corpus", DOCUMENTS), ("qa", split), ("dev", QUESTIONS)):
        text = "".join(json.dumps(record) + "\n" for record in records).encode()
        (tmp_path / f"{name}.jsonl{suffix}").write_bytes(gzip.compress(text) if suffix else text)
    train = {f"Who rules {i}?" for i in range(1, 20, 2)}
    assert {parts(episode)[1] for episode in load_task(f"Qa:{tmp_path}", 0, 0)} == train
    assert len(load_task(f"qa:{tmp_path}/dev.jsonl{suffix}", 0, 0)) == 20
    assert len(load_task(f"qa:{tmp_path}/dev.jsonl{suffix}", 7, 0)) == 7
    check(load_task(f"Qa:{tmp_path}", 0, 0, reading=Reading(top_k=2)), EVIDENCE)


def test_a_document_with_a_question_is_its_answer(tmp_path):
    long = " ".join(["Word"] * 30) + ". " + " ".join(["More"] * 40) + "."
    write_jsonl(tmp_path / "qa_docs.jsonl", [
        {"id": f"m{i}", "title": "T", "content": f"Answer {i}. {long}", "question": f"Ask {i}?"} for i in range(8)])
    for episode in load_task(f"Qa:{tmp_path}", 0, 1):
        documents, question, answer = parts(episode)
        if not answer.get("abstain"):
            number = question.split()[1][:-1]
            assert answer["content"].startswith(f"Answer {number}. Word") and "More" not in answer["content"]
            assert documents[answer["citations"][0]]["id"] == f"m{number}"


def test_squad_and_hotpot_as_published(tmp_path):
    asked = [{"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}], "is_impossible": False},
             {"id": "2", "question": "Where?", "answers": [], "is_impossible": True}]
    squad = {"version": "v2.0", "data": [{"title": "The_Town", "paragraphs": [
        {"context": "Ann rules.", "qas": asked}, {"context": "It rains.", "qas": []}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    task = load_task(f"Squad:{tmp_path}/squad.json", 0, 0)
    check(task, {"Who?": ("Ann", ["0"]), "Where?": ("", [])})
    assert parts(task[1])[2]["abstain"] and parts(task[1])[0][0]["title"] == "The Town"
    hotpot = [{"_id": str(i), "question": f"Q{i}?", "answer": "yes",
               "supporting_facts": [["A", 0], ["A", 1], ["C", 0]],
               "context": [["A", ["One.", " Two."]], ["B", ["Three."]], ["C", ["Four."]]]} for i in range(12)]
    (tmp_path / "hotpot.json").write_text(json.dumps(hotpot))
    found = [parts(episode) for episode in load_task(f"hotpot:{tmp_path}/hotpot.json", 0, 0)]
    answered = [(documents, answer) for documents, _, answer in found if not answer.get("abstain")]
    assert len(answered) >= 6 and all(
        {documents[slot]["title"] for slot in answer["citations"]} == {"A", "C"} for documents, answer in answered)
    assert {document["content"] for documents, _ in answered for document in documents} >= {"One. Two.", "Four."}


@pytest.mark.parametrize(("name", "text", "problem"), [
    ("Squad:{}/x.json", "[]", "has another form"), ("Squad:{}/x.json", '{"data": [{"title": "x"}]}', "'paragraphs'"),
    ("Squad:{}/x.json", "{oops", "not valid JSON"), ("Hotpot:{}/x.json", '[{"question": "?"}]', "'context'"),
    ("Hotpot:{}/x.json", '[{"context": ["a"]}]', "a paragraph is"), ("Qa:{}", "{}", "No corpus in"),
    ("Qa:{}/none", "", "File not found"),
])
def test_another_form_is_named(tmp_path, name, text, problem):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DocumentError, match=problem) as caught:
        load_task(name.format(tmp_path), 0, 0)
    assert caught.value.hint


def test_bad_lines_of_a_corpus_are_named(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    for record, problem in (({"answers": []}, "train.jsonl:1: 'question' is missing"),
                            ({"question": "?", "answers": "x"}, "train.jsonl:1: 'answers' must be a list")):
        write_jsonl(tmp_path / "train.jsonl", [record])
        with pytest.raises(DocumentError, match=problem):
            load_task(f"Qa:{tmp_path}", 0, 0)


def test_worlds_are_drawn_by_the_seed():
    first, again, other = (list(load_task("Worlds", samples=40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other and 20 < len(first) <= 40
    assert any(parts(episode)[2].get("citations") for episode in first)


@pytest.mark.parametrize(("text", "number"), [
    ("so it is\n#### 1,200", "1200"), ("#### -3.50 dollars", "-3.5"), ("The answer is 42.", "42"), ("2 + 3 = 5", "5"),
    ("none", None), ("#### $18", "18"), ("007", "7"), ("-0", "0"), ("1.0", "1"), ("3,000,000 people", "3000000"),
])
def test_the_final_number_of_an_answer(text, number):
    assert final_number(text) == number


def test_benchmarks_are_read_in_both_forms(tmp_path):
    lines = [{"question": "One?", "choices": ["a", "b", "c", "d"], "answer": 2},
             {"question": "Two?", "choices": ["a", "b"], "answer": "A", "subject": "law"}]
    write_jsonl(tmp_path / "mmlu.jsonl", lines)
    _, items = read_benchmark(f"MMLU:{tmp_path}/mmlu.jsonl")
    assert [(item.answer, len(item.choices), item.subject) for item in items] == [("C", 4, ""), ("A", 2, "law")]
    write_jsonl(tmp_path / "gsm8k.jsonl", [{"question": "Sum?", "answer": "2+2=4\n#### 4"},
                                           {"question": "More?", "answers": ["5"]}])
    assert [item.answer for item in read_benchmark(f"gsm8k:{tmp_path}/gsm8k.jsonl")[1]] == ["4", "5"]
    write_jsonl(tmp_path / "bad.jsonl", [{"question": "?", "choices": ["a", "b"], "answer": "C"}])
    with pytest.raises(DocumentError, match="bad.jsonl:1: 'answer' is 'C', expected one of A, B"):
        read_benchmark(f"mmlu:{tmp_path}/bad.jsonl")

"""The whole evaluation with small fake engines, against values worked out by hand."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from nanochat.errors import UserError
from nanochat.evaluation import EvalQuestion, evaluate
from nanochat.evaluation.conditions import CONDITIONS, Evidence, check_conditions, make_conversation
from nanochat.evaluation.report import console_table, make_report, write_report
from nanochat.evaluation.samples import choose_samples
from nanochat.retrieval import Document, ScoredDocument

CITIES = ["Alda", "Brun", "Cers", "Dorn", "Elst", "Furn"]
DOCUMENTS = {
    f"d{index}": {"id": f"d{index}", "title": city, "content": f"The mayor of {city} is {city}son."}
    for index, city in enumerate(CITIES)
}
QUESTIONS = [
    EvalQuestion(id=f"q{index}", question=f"Who is the mayor of {city}?", answers=(f"{city}son",), supporting_ids=(id,))
    for index, (id, city) in enumerate(zip(DOCUMENTS, CITIES, strict=True))
]
UNANSWERABLE = [
    EvalQuestion(id="u0", question="Who is the mayor of Gars?"),
    EvalQuestion(id="u1", question="Who? Hald?"),
]


class FixedOrder:
    """Finds the document of the city in the question first, unless it is in `missed`, then the others in order."""

    def __init__(self, missed=()):
        self.missed = missed
        self.knowledge_base = SimpleNamespace(documents=[Document.from_dict(record) for record in DOCUMENTS.values()])

    def retrieve_batch(self, queries, top_k):
        return [self._rank(query)[:top_k] for query in queries]

    def _rank(self, query):
        documents = sorted(self.knowledge_base.documents, key=lambda document: document.title not in query)
        return [ScoredDocument.of(document, 1.0) for document in documents if document.id not in self.missed]


class Engine:
    """Answers with `_answer(question, documents)` -> (answer or None to abstain, cited slots)."""

    def __init__(self):
        self.conversations = []

    def generate_batch(self, conversations, max_tokens=256):
        self.conversations += conversations
        return [self._generate(conversation) for conversation in conversations]

    def _generate(self, conversation):
        shown = [one for message in conversation["messages"] for one in message.get("documents", ())]
        answer, slots = self._answer(conversation["messages"][-1]["content"], shown)
        citations = [
            {"slot": slot, "number": slot + 1, "id": shown[slot]["id"] if slot < len(shown) else "gone", "title": ""}
            for slot in slots
        ]
        text = "The documents do not answer this question." if answer is None else answer
        return text, {
            "answer": text, "citations": citations, "abstained": answer is None, "documents": shown, "dropped": 0
        }


class Reader(Engine):
    """Reads by string search, cites the document it read, abstains when no document is about the city."""

    def _answer(self, question, documents):
        for slot, document in enumerate(documents):
            if document["title"] in question:
                return document["content"].split()[-1], [slot]
        return None, []


class Guesser(Engine):
    """Always answers with the last word of the first document and cites one that does not exist."""

    def _answer(self, question, documents):
        return (documents[0]["content"].split()[-1] if documents else "Aldason"), [7]


class Silent(Engine):
    def _answer(self, question, documents):
        return None, []


def run(engine, manager=None, questions=(*QUESTIONS, *UNANSWERABLE), **settings):
    return evaluate(engine, manager or FixedOrder(), list(questions), **{"top_k": 3, **settings})


def values(summary):
    return {name: None if found is None else round(found.value, 6) for name, found in summary.metrics.items()}


def test_conditions_show_the_documents_they_promise():
    engine = Reader()
    run(engine, questions=QUESTIONS[:2], top_k=5)
    shown = [
        [one["id"] for message in conversation["messages"] for one in message.get("documents", ())]
        for conversation in engine.conversations
    ]
    assert shown == [
        [], [],
        ["d0", "d1", "d2", "d3", "d4"], ["d1", "d0", "d2", "d3", "d4"],
        ["d0"], ["d1"],
        ["d1", "d2", "d3", "d4", "d5"], ["d0", "d2", "d3", "d4", "d5"],
    ]
    roles = [[message["role"] for message in conversation["messages"]] for conversation in engine.conversations]
    assert roles[0] == ["user"]
    assert roles[2] == ["retrieval", "user"]


def test_closed_book_and_an_empty_result_are_different_prompts():
    assert [message["role"] for message in make_conversation("Who?", None)["messages"]] == ["user"]
    assert make_conversation("Who?", [])["messages"][0] == {"role": "retrieval", "documents": []}
    nothing = Evidence(question=QUESTIONS[0], top_k=3, retrieved=[], ranked=[DOCUMENTS["d0"]], supporting=[])
    assert [CONDITIONS[name](nothing) for name in ("closed_book", "retrieved", "wrong")] == [None, [], []]


def test_a_reader_gets_full_marks():
    result = run(Reader())
    right = {"exact_match": 1.0, "f1": 1.0, "recall": 1.0, "abstention": 0.0, "cited": 1.0, "citation_validity": 1.0}
    right |= {"citation_support": 1.0, "citation_precision": 1.0, "citation_recall": 1.0}
    nothing_said = dict.fromkeys(("cited", "citation_validity", "citation_support"), None)
    nothing_said |= dict.fromkeys(("citation_precision", "citation_recall"), None)
    assert values(result.conditions["retrieved"]) == right
    assert values(result.conditions["oracle"]) == right
    assert values(result.conditions["closed_book"]) == {
        "exact_match": 0.0, "f1": 0.0, "recall": None, "abstention": 1.0, **nothing_said
    }
    assert values(result.conditions["wrong"]) == {
        "exact_match": 0.0, "f1": 0.0, "recall": 0.0, "abstention": 1.0, **nothing_said
    }
    assert values(result.conditions["unanswerable"]) == {
        "exact_match": None, "f1": None, "recall": None, "abstention": 1.0, **nothing_said
    }
    assert [summary.num_questions for summary in result.conditions.values()] == [6, 6, 6, 6, 2]
    assert (result.abstention_precision.value, result.abstention_precision.num) == (1.0, 2)
    assert (result.abstention_recall.value, result.abstention_recall.num) == (1.0, 2)
    assert result.differences["retrieval_lift"].value == 1.0
    assert result.differences["retriever_gap"].value == 0.0
    assert all(record.correct for record in result.records if record.condition != "closed_book")


def test_missed_evidence_counts_as_a_reason_to_abstain():
    # d0 and d1 are never found: 4 of 6 right, and of the 4 questions without evidence all 4 are declined
    result = run(Reader(), FixedOrder(missed=("d0", "d1")))
    found = values(result.conditions["retrieved"])
    assert found["exact_match"] == pytest.approx(4 / 6, abs=1e-6)
    assert found["recall"] == pytest.approx(4 / 6, abs=1e-6)
    assert found["abstention"] == pytest.approx(2 / 6, abs=1e-6)
    assert found["citation_recall"] == 1.0
    assert (result.abstention_precision.value, result.abstention_precision.num) == (1.0, 4)
    assert (result.abstention_recall.value, result.abstention_recall.num) == (1.0, 4)
    assert result.differences["retriever_gap"].value == pytest.approx(2 / 6)


def test_an_engine_that_always_answers_is_caught():
    result = run(Guesser())
    assert values(result.conditions["closed_book"])["exact_match"] == pytest.approx(1 / 6, abs=1e-6)
    assert values(result.conditions["retrieved"])["exact_match"] == 1.0
    for summary in result.conditions.values():
        assert values(summary)["cited"] == 1.0
        assert values(summary)["citation_validity"] == 0.0
        assert values(summary)["citation_support"] == 0.0
    assert values(result.conditions["retrieved"])["citation_precision"] == 0.0
    assert values(result.conditions["wrong"])["abstention"] == 0.0
    assert result.abstention_precision is None
    assert result.abstention_recall.value == 0.0
    assert not any(record.correct for record in result.records if record.condition in ("wrong", "unanswerable"))


def test_an_engine_that_never_answers_has_poor_precision():
    result = run(Silent())
    assert values(result.conditions["retrieved"])["exact_match"] == 0.0
    # 8 abstentions over 6 answerable and 2 unanswerable questions
    assert (result.abstention_precision.value, result.abstention_precision.num) == (0.25, 8)
    assert result.abstention_recall.value == 1.0
    assert values(result.conditions["wrong"])["abstention"] == 1.0


def test_partial_evidence_is_partial_recall_and_partial_citation_recall():
    two = EvalQuestion(id="h", question="Alda?", answers=("Aldason",), supporting_ids=("d0", "d5"), hops=2)
    result = run(Reader(), questions=[two], conditions=["retrieved"])
    found = values(result.conditions["retrieved"])
    assert (found["recall"], found["citation_precision"], found["citation_recall"]) == (0.5, 1.0, 0.5)
    assert result.records[0].should_abstain


def test_what_the_budget_dropped_was_not_shown():
    class Forgetful(Reader):
        def _generate(self, conversation):
            text, info = super()._generate({"messages": conversation["messages"][-1:]})
            return text, {**info, "dropped": 3}

    result = run(Forgetful(), questions=QUESTIONS, conditions=["retrieved"])
    summary = result.conditions["retrieved"]
    assert summary.num_dropped == 6
    # retrieved, but cut: the retriever is not to blame, and abstaining was right
    assert values(summary)["recall"] == 1.0
    assert result.abstention_precision.value == 1.0
    assert result.records[0].shown_ids == []


def test_questions_without_known_evidence_are_left_out_and_said_so():
    strange = EvalQuestion(id="s", question="Alda?", answers=("Aldason",), supporting_ids=("elsewhere",))
    plain = EvalQuestion(id="p", question="Alda?", answers=("Aldason",))
    result = run(Reader(), questions=[QUESTIONS[0], strange, plain, UNANSWERABLE[0]], conditions=["oracle", "wrong"])
    assert [summary.num_questions for summary in result.conditions.values()] == [1, 1]
    assert len(result.notes) == 3
    assert result.notes[0].startswith("oracle: 2 of 3 answerable questions left out")
    assert result.notes[2].startswith("1 unanswerable questions left out")


def test_batches_do_not_change_the_result_and_progress_is_told():
    lines = []
    many = [
        dataclasses.replace(question, id=f"{index}-{question.id}")
        for index in range(50)
        for question in QUESTIONS
    ]
    one = run(Reader(), questions=many, batch_size=7, conditions=["retrieved"], progress=lines.append)
    other = run(Reader(), questions=many, batch_size=64, conditions=["retrieved"])
    assert [record.to_dict() for record in one.records] == [record.to_dict() for record in other.records]
    assert one.to_dict() == other.to_dict()
    assert [line.split(" questions")[0] for line in lines] == [
        "retrieved: 105/300", "retrieved: 203/300", "retrieved: 300/300"
    ]


def test_unknown_conditions_are_refused():
    assert check_conditions(["wrong", "oracle", "wrong"]) == ["wrong", "oracle"]
    with pytest.raises(UserError, match="Unknown condition: 'orakel'"):
        run(Reader(), conditions=["orakel"])
    with pytest.raises(UserError, match="No conditions given"):
        run(Reader(), conditions=[])


def test_samples_are_half_failures_from_every_condition():
    samples = choose_samples(run(Reader(), FixedOrder(missed=("d0",))).records)
    assert len(samples) == 10
    assert [record.correct for record in samples] == [False] + [True] * 9
    assert {record.condition for record in samples} == {"retrieved", "oracle", "wrong", "unanswerable"}
    assert len(choose_samples(run(Silent()).records)) == 10
    assert choose_samples([]) == []


HOSTILE = '</svg><script>alert("x")</script> | **b** <img src=x onerror=y> & \u2028'


def report_of(result, **checkpoint):
    return make_report(
        result,
        checkpoint={"source": "rag", "tag": "tiny", "step": 7, **checkpoint},
        questions={"path": "q.jsonl", "sha256": "0" * 64, "num_questions": 8, "num_unanswerable": 2},
        knowledge_base={"path": "kb", "fingerprint": "1" * 64, "num_documents": 6, "retriever_type": "bm25"},
        config={"top_k": 3},
    )


def test_the_report_holds_the_numbers_and_shows_text_as_text(tmp_path):
    asked = [EvalQuestion(id="x", question=f"Alda {HOSTILE}", answers=(HOSTILE,), supporting_ids=("d0",)), *QUESTIONS]
    result = run(Reader(), questions=asked)
    paths = write_report(tmp_path / "report", result, report_of(result, tag=HOSTILE))
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in paths)
    stored = json.loads((tmp_path / "report" / "results.json").read_text())
    assert (stored["schema"], stored["version"]) == ("nanochat-rag-evaluation", 1)
    assert stored["conditions"]["retrieved"]["exact_match"]["value"] == pytest.approx(6 / 7)
    assert stored["conditions"]["retrieved"]["exact_match"]["num"] == 7
    records = [json.loads(line) for line in (tmp_path / "report" / "records.jsonl").read_text().split("\n") if line]
    assert len(records) == 4 * 7
    assert records[7]["gold"] == [HOSTILE] and records[7]["shown_ids"] == ["d0", "d1", "d2"]
    for name in ("report.html", "report.md"):
        page = (tmp_path / "report" / name).read_text()
        assert "<script" not in page and "<img" not in page and "alert" in page, name


def test_the_page_and_the_plot_are_well_formed(tmp_path):
    from xml.etree import ElementTree

    result = run(Reader())
    write_report(tmp_path, result, report_of(result))
    ElementTree.parse(tmp_path / "plot.svg")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 1 and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "1.00 [0.61, 1.00]" in page


def test_the_console_table_is_narrow_and_aligned():
    lines = console_table(run(Reader()), top_k=3).split("\n")
    table = lines[: lines.index("")]
    assert max(map(len, lines)) <= 100
    assert table[0].split()[:2] == ["condition", "n"] and "recall@3" in table[0]
    assert [line.split("  ")[0] for line in table[2:]] == [
        "closed book", "retrieved", "oracle", "wrong documents", "unanswerable"
    ]

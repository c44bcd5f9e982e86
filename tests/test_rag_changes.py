"""Documents changed for practice: what they state, what the answer becomes, and that nothing else moves."""

import random

import pytest

from nanochat.chat_format import render
from nanochat.conversation import check_conversation
from nanochat.rag.changes import OR, Values, edited, exchanged, injected, near_name, renamed, rival, stands
from nanochat.rag.context_changes import Changes
from nanochat.rag.packing import pack
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.rag.practice import PracticeWorld
from nanochat.tokenizer import Tokenizer

TEXT = "The mill was built in 1731. It has 17 wheels. Built in 17310 stones."
DOCUMENT = {"id": "d", "title": "Mill", "content": TEXT}
NONE = {"unanswerable_share": 0.0, "taken_away_share": 0.0}


def asked(name, answer, **more):
    return {"question": f"{name}?", "answers": [answer], "supporting_ids": ["d"], **more}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return PracticeWorld(7, {"num_entities": 60}, "bm25").pool


def test_only_whole_words_are_replaced_and_only_where_they_stand_once():
    assert edited(DOCUMENT, "1731", "1802")["content"].startswith("The mill was built in 1802. It")
    assert "17310" in edited(DOCUMENT, "1731", "1802")["content"]
    assert edited(DOCUMENT, "Built", "made")["content"].endswith("made in 17310 stones.")
    assert edited(DOCUMENT, "in", "at") is None and edited(DOCUMENT, "173", "1") is None
    assert DOCUMENT["content"].startswith("The mill was built in 1731"), "the original was changed"
    # a value is a text, not a pattern
    assert edited(DOCUMENT, "1731", r"\g<0>")["content"].startswith(r"The mill was built in \g<0>.")


def test_a_number_does_not_stand_in_a_longer_one():
    for content in ("It costs 3.5 EUR.", "It costs 5.2 EUR.", "Of 1,500 or 5,000.", "At 5:30 or 10:5.", "An A5 page."):
        assert not stands("5", content) and edited({**DOCUMENT, "content": content}, "5", "7") is None
    for content in ("It has 5.", "Of 3, 5, 7.", "(5)", "5: a number", "No.5", "5-7"):
        assert stands("5", content)
    changed = edited({**DOCUMENT, "content": "It has 5 rooms, 1,500 doors and 3.5 floors."}, "5", "7")
    assert changed["content"] == "It has 7 rooms, 1,500 doors and 3.5 floors."
    assert stands("1,500", "Of 1,500.") and stands("5 mm", "5 mm.2") and not stands("500 mm", "1.500 mm")


@pytest.mark.parametrize("content, old, new", [
    ("Tom Bell built it. Bell was old.", "Tom Bell", "Ann Lee"),
    ("Made on 12 March 1931. Since 1931 it stands.", "12 March 1931", "3 May 1870"),
    ("Made on 12.03.1931. Since 1931 it stands.", "12.03.1931", "03.05.1870"),
    ("It has 30 days. After 30 hours it ends.", "30 days", "14 days"),
    ("It was Tom.", "Tom", "Tom Bell"),
    ("The Old Mill is red.", "red", "blue"), ("It was made in Rome.", "Rome", "Ulm"), ("Of 1731.", "1731", "1802"),
])
def test_an_edit_that_would_leave_a_part_of_the_old_value_is_none(content, old, new):
    document = {"id": "d", "title": "About ROME, RED and the year 1731", "content": content}
    assert edited(document, old, new) is None and rival(document, old, new, random.Random(0)) is None
    # the title as well
    assert edited({"id": "d", "title": f"Of {old.split()[0]}", "content": f"It is {old}."}, old, new) is None


@pytest.mark.parametrize("content, old, new", [
    ("Tom Bell built it. Bell was old.", "Tom Bell", "Ann Bell"),
    ("The Hague has it. The mill is old.", "The Hague", "Ulm"),
    ("Made of red brick. The brick was old.", "red brick", "oak"),
    ("It costs 49 EUR. A part costs 7 EUR.", "49 EUR", "25 EUR"),
    ("It weighs 3.5 tons. It has 5 rooms.", "3.5 tons", "4.1 tons"),
])
def test_an_edit_may_leave_what_the_new_value_has_too_and_common_words(content, old, new):
    changed = edited({"id": "d", "title": "Mill", "content": content}, old, new)
    assert changed["content"] == content.replace(old, new) and changed["id"] == f"d~{new}"


def test_nearly_all_facts_of_generated_worlds_can_be_edited(pool):
    documents = {document["id"]: document for document in pool.documents}
    rng, done = random.Random(0), []
    for question in pool.answerable:
        document = documents[question["supporting_ids"][0]]
        new = pool.values.other(question, document["content"], rng)
        done += [edited(document, question["answers"][0], new) is not None] if new is not None else []
    assert len(done) > 100 and sum(done) / len(done) > 0.98, (sum(done), len(done))


def test_an_edit_spoils_what_the_old_value_was_part_of():
    edit = Changes(place=0.0, value="3 May 1870", old="12 March 1931", about="d")
    chain = Changes(place=0.0, value="Ulm", old="Rome", about="d")
    repeated = Changes(place=0.0, value="Ulm", old="Rome", about="d", rival={"id": "d~Ulm"})
    assert edit.spoils(asked("When", "12 March 1931")) and edit.spoils(asked("Year", "1931"))
    assert not edit.spoils(asked("Colour", "red")) and not edit.spoils(asked("Year", "19"))
    for changes in (chain, repeated):
        # through the value, named by it, or now true of one thing more
        assert changes.spoils(asked("River", "Tiber") | {"supporting_ids": ["d", "e"]})
        assert changes.spoils(asked("Mayor of rome", "Ann Lee") | {"supporting_ids": ["e"]})
        assert changes.spoils(asked("Who is from Ulm", "Ann Lee") | {"answers": [], "supporting_ids": []})
        assert changes.spoils(asked("Home", "Bonn") | {"supporting_ids": ["e"], "also_ids": ["d"]})
        assert not changes.spoils(asked("River of Romewell", "Tiber") | {"supporting_ids": ["e", "f"]})
    assert repeated.spoils(asked("Colour", "red")) and not chain.spoils(asked("Colour", "red"))
    assert not Changes(place=0.0).spoils(asked("River", "Tiber") | {"supporting_ids": ["d", "e"]})


@pytest.mark.parametrize("config", [{"edited_share": 1.0}, {"rival_share": 1.0}])
def test_nobody_is_asked_along_a_chain_whose_bridge_was_changed(config):
    documents = [{"id": "p", "title": "Ann", "content": "Ann was born in Rome."},
                 {"id": "t", "title": "Town", "content": "Through Rome flows the Tiber."},
                 {"id": "o", "title": "Tom", "content": "Tom was born in Ulm."}]
    home = {"question": "Where was Ann born?", "answers": ["Rome"], "supporting_ids": ["p"], "kind": "fact"}
    questions = [home, {**home, "question": "Where was Tom born?", "answers": ["Ulm"], "supporting_ids": ["o"]},
                 {**home, "question": "What river is at Ann's birthplace?", "answers": ["Tiber"],
                  "supporting_ids": ["p", "t"], "kind": "bridge"}]
    pool = Pool(documents, questions, lambda queries, top_k: [[0, 1] for _ in queries], is_exact=True)
    num_changed = 0
    for seed in range(60):
        settings = ExampleConfig(max_documents=4, lookups=3, random_share=0.0, **config, **NONE)
        (conversation,) = pool.conversations(1, random.Random(seed), settings)
        shown, user, said, *later = conversation["messages"]
        if user["content"] == home["question"] and said["content"] != "Rome":
            assert not any("birthplace" in message["content"] for message in later)
            num_changed += 1
    assert num_changed > 5


def test_another_value_is_of_the_same_relation_or_shape_and_not_in_the_document():
    values = Values([asked("a", "1731"), asked("b", "1802"), asked("c", "Tom Bell"), asked("d", "Ann Lee"),
                     asked("e", "17", relation="wheels"), asked("f", "red", relation="wheels")])
    rng = random.Random(0)
    found = {name: {values.other(asked("x", name), DOCUMENT["content"], rng) for _ in range(40)}
             for name in ("1731", "Tom Bell", "lower case")}
    assert found == {"1731": {"1802"}, "Tom Bell": {"Tom Bell", "Ann Lee"}, "lower case": {None}}
    assert values.other(asked("x", "17", relation="wheels"), DOCUMENT["content"], rng) == "red"


def test_a_rival_repeats_the_document_or_its_sentence_with_the_new_value():
    texts = {rival(DOCUMENT, "1731", "1802", random.Random(seed))["content"] for seed in range(20)}
    assert texts == {"The mill was built in 1802.", DOCUMENT["content"].replace("1731.", "1802.")}


def test_an_instruction_leaves_all_answers_where_they_were():
    values = Values([asked("a", "Ann Lee")])
    keep = ["built in 1731. It has", "17 wheels"]
    for seed in range(600):
        changed = injected(DOCUMENT, values, keep, random.Random(seed))
        assert len(changed["content"]) > len(DOCUMENT["content"]) and changed["id"] == "d"
        assert all(stands(text, changed["content"]) for text in keep)
        # whoever obeys must be wrong
        assert "Ann Lee" not in injected(DOCUMENT, values, ["Ann Lee"], random.Random(seed))["content"]


def test_an_edited_document_is_answered_by_what_it_says_now(pool):
    conversations = pool.conversations(100, random.Random(0), ExampleConfig(edited_share=1.0, lookups=3, **NONE))
    before = {question["question"]: question["answers"] for question in pool.questions}
    num_edited = 0
    for conversation in conversations:
        check_conversation(conversation)
        documents = conversation["messages"][0]["documents"]
        for user, said in zip(conversation["messages"][1::2], conversation["messages"][2::2], strict=True):
            if said.get("abstain"):
                continue
            (slot,) = said["citations"]
            assert stands(said["content"], documents[slot]["content"])
            num_edited += said["content"] != before[user["content"]][0]
    assert num_edited > 60


def test_of_documents_that_contradict_each_other_both_values_are_given_in_their_order(pool):
    conversations = pool.conversations(100, random.Random(0), ExampleConfig(rival_share=1.0, **NONE))
    orders = set()
    for conversation in conversations:
        check_conversation(conversation)
        documents, said = conversation["messages"][0]["documents"], conversation["messages"][2]
        assert len({document["id"] for document in documents}) == len(documents) <= 6
        if len(said.get("citations", ())) == 2:
            first, second = said["content"].split(OR)
            slots = said["citations"]
            assert stands(first, documents[slots[0]]["content"]) and stands(second, documents[slots[1]]["content"])
            assert first != second and slots == sorted(slots)
            orders.add("~" in documents[slots[0]]["id"])
            contradicted = {documents[slot]["id"].partition("~")[0] for slot in slots}
            later = [said["citations"] for said in conversation["messages"][4::2] if not said.get("abstain")]
            # what else the contradicted document says stands in two places now: nobody is asked about it
            assert len(contradicted) == 1 and not any(set(cited) & set(slots) for cited in later)
    assert orders == {True, False}


def test_instructions_change_no_answer(pool):
    plain = pool.conversations(60, random.Random(4), ExampleConfig(**NONE))
    with_orders = pool.conversations(60, random.Random(4), ExampleConfig(injected_share=1.0, **NONE))
    num_changed = 0
    # the first conversation has drawn nothing else before it
    assert plain[0]["messages"][2] == with_orders[0]["messages"][2]
    known = {document["content"] for document in pool.documents}
    for conversation in with_orders:
        documents = conversation["messages"][0]["documents"]
        num_changed += any(document["content"] not in known for document in documents)
        for said in conversation["messages"][2::2]:
            assert said.get("abstain") or all(
                stands(said["content"], documents[slot]["content"]) for slot in said["citations"])
    assert num_changed == 60


def test_a_decoy_tells_the_same_of_a_like_name_and_is_never_cited(pool):
    subjects = {question["subject"] for question in pool.questions}
    num_decoys = 0
    for conversation in pool.conversations(200, random.Random(5), ExampleConfig(decoy_share=1.0, lookups=3, **NONE)):
        check_conversation(conversation)
        documents = conversation["messages"][0]["documents"]
        assert len(documents) <= ExampleConfig().max_documents
        decoys = [slot for slot, document in enumerate(documents) if document["id"].count("~") == 2]
        asked_of = conversation["messages"][1]["content"]
        for slot in decoys:
            num_decoys += 1
            new_word, value = documents[slot]["id"].split("~")[1:]
            (evidence,) = [one for one in documents if one["id"] == documents[slot]["id"].split("~")[0]]
            assert new_word in documents[slot]["title"] + documents[slot]["content"]
            assert stands(value, documents[slot]["content"]) and not stands(value, evidence["content"])
            # whom the first question asks for: "Osvia Mill" also stands in "Osvia Mill Safety Policy"
            name = max((name for name in subjects if stands(name, asked_of)), key=len)
            assert not stands(name, documents[slot]["title"] + documents[slot]["content"])
        for said in conversation["messages"][2::2]:
            assert not set(decoys) & set(said.get("citations", ())) and OR not in said.get("content", "")
    assert num_decoys > 100


def test_a_like_name_shares_all_words_but_one_and_is_nobodys():
    names = ["Ann Lee", "Bo Lee", "Ann Ray", "Cora Day", "Dan"]
    drawn = {near_name("Ann Lee", names, random.Random(seed)) for seed in range(200)}
    assert drawn - {None} == {("Ann", "Cora"), ("Lee", "Day")}, "Bo Lee and Ann Ray are somebody"
    assert near_name("Ann Lee", ["Ann Lee"], random.Random(0)) is None
    assert near_name("", names, random.Random(0)) is None and near_name("Ann", [], random.Random(0)) is None
    for alike in (["The Lamp", "A Lamp"], ["The Lamp", "The Lamps"], ["Lamp Lamp", "Bell Bell"]):
        assert {near_name(alike[0], alike, random.Random(seed)) for seed in range(50)} == {None}, alike
    assert exchanged("Al Alto", "Al", "Bo") == "Bo Alto"


def test_who_is_renamed_keeps_nothing_of_the_old_word():
    lamp = {"id": "d", "title": "Orrin Lamp", "content": "The Orrin Lamp shines. The lamp costs 5. Lampshade."}
    clock = renamed(lamp, "Orrin Lamp", "Lamp", "Clock")
    assert clock["title"] == "Orrin Clock"
    assert clock["content"] == "The Orrin Clock shines. The clock costs 5. Lampshade."
    assert clock["id"] != lamp["id"] and renamed(lamp, "Selrum Lamp", "Lamp", "Clock") is None


def test_questions_that_do_not_say_whom_they_ask_about_have_no_decoys(pool):
    plain = [{name: value for name, value in question.items() if name != "subject"} for question in pool.questions]
    unnamed = Pool(pool.documents, plain, pool.search, is_exact=True)
    drawn = [unnamed.conversations(30, random.Random(1), ExampleConfig(decoy_share=share, **NONE)) for share in (0, 1)]
    known = {document["content"] for document in pool.documents}
    assert all(document["content"] in known for conversation in drawn[1]
               for document in conversation["messages"][0]["documents"])


def test_an_abstention_names_the_document_that_speaks_of_the_thing(pool):
    num_closest = 0
    about = {question["question"]: question.get("about_ids", ()) for question in pool.questions}
    for conversation in pool.conversations(100, random.Random(3), ExampleConfig(unanswerable_share=0.5)):
        check_conversation(conversation)
        shown = [document["id"] for document in conversation["messages"][0]["documents"]]
        for user, said in zip(conversation["messages"][1::2], conversation["messages"][2::2], strict=True):
            closest = [shown[slot] for slot in said.get("closest", ())]
            assert not closest or said["abstain"]
            if said.get("abstain"):
                assert closest == [name for name in about[user["content"]] if name in shown][:1]
            num_closest += bool(closest)
    assert num_closest > 20


def test_first_questions_without_answer_come_in_the_wanted_share(pool):
    for share in (0.0, 0.5, 1.0):
        config = ExampleConfig(first_absent_share=share, **NONE)
        conversations = pool.conversations(300, random.Random(1), config)
        found = sum(conversation["messages"][2].get("abstain", False) for conversation in conversations) / 300
        assert abs(found - share) < 0.1, (share, found)


def test_the_deciding_token_has_its_own_weight(pool):
    tokenizer = Tokenizer.train([document["content"] for document in pool.documents], vocab_size=400)
    rendered = [render(c, tokenizer) for c in pool.conversations(5, random.Random(0), ExampleConfig(max_documents=2))]
    start = tokenizer.special("assistant_start")
    plain = pack(rendered, row_len=2000, context_weight=0.1)
    heavy = pack(rendered, row_len=2000, context_weight=0.1, decision_after=start, decision_weight=3.0)
    decides = (heavy.ids == start) & heavy.supervised()
    allowed = {tokenizer.special("cite"), tokenizer.special("abstain")}
    assert decides.any() and set(heavy.targets[decides].tolist()) <= allowed
    assert (heavy.weights[decides] == 3).all() and (heavy.weights[~decides] == plain.weights[~decides]).all()

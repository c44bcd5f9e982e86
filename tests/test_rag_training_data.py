"""Training data: filters that count what they take, splits that leak nothing, episodes that are what they say."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from synthesis_stubs import SITE, make_library, spec_documents, world_documents

from nanochat.conversation import check_conversation
from nanochat.errors import UserError
from nanochat.rag import filters
from nanochat.rag.composing import composed, described
from nanochat.rag.data_page import position_share, render_page, statistics_of
from nanochat.rag.episodes import EpisodeConfig
from nanochat.rag.grouping import NEAR_SHARE, groups_of, near_duplicates, signature, split_of
from nanochat.rag.library import folded, normal
from nanochat.rag.training_data import DataConfig, iter_episodes, make_training_data

ABSTAIN = {"evidence_removed", "entity_absent", "relation_absent", "bridge_broken"}
DOCUMENTS = [*world_documents(), *spec_documents()]
CONFIG = DataConfig(per_document=4, seed=3, validation_share=0.15, test_share=0.15,
                    episodes=EpisodeConfig(edited_share=0.15, contradiction_share=0.15, injected_share=0.1))


@pytest.fixture(scope="module")
def library():
    return make_library(DOCUMENTS)


@pytest.fixture(scope="module")
def data(library):
    return make_training_data(library, CONFIG)


def record(question, answer, document="a", kind="fact", content=None, **more):
    start = (content or answer).find(answer)
    return {"id": f"{document}#{question}", "question": question, "answers": [answer], "supporting_ids": [document],
            "hops": 1, "kind": kind, "answer_id": document, "answer_start": start,
            "answer_end": start + len(answer)} | more


def shown(episode):
    return episode["messages"][0]["documents"]


def test_answers_stand_where_the_question_says(data, library):
    for questions in data.questions.values():
        for question in questions:
            if question["answers"]:
                content = library.documents[library.position_of[question["answer_id"]]]["content"]
                place = content[question["answer_start"] : question["answer_end"]]
                assert normal(place) == question["answers"][0] and question["answer_id"] in question["supporting_ids"]
    kinds = {question["kind"] for questions in data.questions.values() for question in questions}
    assert {"cloze", "field", "bridge", "entity_absent", "relation_absent"} <= kinds


def test_no_document_and_no_near_copy_of_it_is_in_two_splits(library):
    copies = [{**document, "id": f"copy-{document['id']}", "content": document["content"] + " So it is said."}
              for document in world_documents(num_entities=40)]
    both = make_library([*world_documents(num_entities=40), *copies])
    data = make_training_data(both, CONFIG)
    sides = {name: {identifier for question in questions for identifier in question["supporting_ids"]}
             for name, questions in data.questions.items()}
    assert all(sides.values()) and not sides["train"] & sides["test"] and not sides["train"] & sides["validation"]
    # the copy of a document is where the document is
    for name, ids in sides.items():
        for other in set(sides) - {name}:
            assert not {f"copy-{identifier}" for identifier in ids} & sides[other]


def test_training_shows_no_document_of_another_split(data):
    ids = {name: {one["id"].split("~")[0] for episode in episodes for one in shown(episode)}
           for name, episodes in data.episodes.items()}
    asked = {name: {identifier for question in questions for identifier in question["supporting_ids"]}
             for name, questions in data.questions.items()}
    assert not ids["train"] & (asked["validation"] | asked["test"])
    assert not ids["validation"] & asked["test"] and not ids["test"] & asked["validation"]


def test_near_duplicates_are_found_and_others_are_not():
    texts = [document["content"] for document in world_documents(num_entities=30)]
    assert list(near_duplicates(texts)) == []
    assert list(near_duplicates([*texts, texts[4] + " Yes."])) == [(4, 30)]
    assert list(near_duplicates([])) == []


def test_a_group_too_large_for_a_split_is_for_training():
    groups = [0] * 60 + list(range(60, 100))
    names = [str(number) for number in range(100)]
    for seed in range(30):
        splits = split_of(groups, names, set(range(100)), (0.7, 0.1, 0.2), seed)
        assert splits[0] == 0 and set(splits) == {0, 1, 2}


def test_families_of_much_repeated_text_never_meet_across_splits():
    rng = random.Random(0)
    words = [f"word{number}" for number in range(400)]
    texts = []
    for _ in range(40):
        common = rng.choices(words, k=60)
        for _ in range(rng.choice([1, 3, 60])):
            texts.append(" ".join([*common, *rng.choices(words, k=rng.choice([2, 10, 20]))]))
    rng.shuffle(texts)
    library = make_library([{"id": str(number), "title": "", "content": text} for number, text in enumerate(texts)])
    splits = np.array(split_of(groups_of(library), [str(n) for n in range(len(texts))], set(), (0.7, 0.1, 0.2), 1))
    signatures = np.stack([signature(text) for text in texts])
    likeness = [(signatures[splits == 0] == row).mean(1).max() for row in signatures[splits == 2]]
    assert len(likeness) > 20 and max(likeness) < NEAR_SHARE, max(likeness)


def test_passages_stay_with_their_document_unless_there_are_too_few():
    parts = [{"id": f"{name}#{number}", "title": "", "content": f"{name * 3} {name * 4} {name}{number}",
              "metadata": {"parent": name}} for name in "abc" for number in range(2)]
    assert groups_of(make_library(parts)) == [0, 0, 2, 2, 4, 4]
    assert len(set(groups_of(make_library(parts[:4])))) == 4
    for seed in range(20):
        splits = split_of([0, 0, 2, 2, 4, 4], [part["id"] for part in parts], {0, 3, 5}, (0.7, 0.15, 0.15), seed)
        assert sorted(set(splits)) == [0, 1, 2] and splits[0] == splits[1] and splits[2] == splits[3]


def test_episodes_are_conversations_that_say_what_they_are(data, library):
    kinds = Counter()
    for episode in iter_episodes(data):
        check_conversation(episode)
        kinds[episode["kind"]] += 1
        documents, (asked, answer) = shown(episode), episode["messages"][1:]
        assert len({one["id"] for one in documents}) == len(documents) and 1 <= len(documents) <= 8
        assert bool(answer.get("abstain")) == (episode["kind"] in ABSTAIN) and asked["content"].strip()
        if answer.get("abstain"):
            continue
        cited = [documents[slot] for slot in answer["citations"]]
        said = answer["content"].split(" or ") if episode["kind"] == "contradiction" else [answer["content"]]
        assert all(any(folded(value) in folded(one["content"]) for one in cited) for value in said), episode
        if episode["kind"] != "contradiction":
            others = [one for one in documents if one not in cited]
            assert not any(folded(answer["content"]) in folded(one["content"]) for one in others), episode["id"]
    assert set(kinds) == ABSTAIN | {"answer", "edited", "contradiction", "injected"}, kinds


def test_shares_positions_and_numbers_are_those_that_were_asked_for(data):
    episodes = list(iter_episodes(data))
    present = [episode for episode in episodes if episode["kind"] not in ABSTAIN]
    assert 0.7 <= len(present) / len(episodes) <= 0.8
    counts = Counter(len(shown(episode)) for episode in episodes)
    expected = len(episodes) / 8
    # decks deal evenly: far closer than chance, whose 99.9 % bound for 7 degrees of freedom is 24.3
    assert sum((counts[k] - expected) ** 2 / expected for k in range(1, 9)) < 24.3, counts
    for total in (2, 4, 8):
        single = [episode["messages"][-1]["citations"][0] for episode in present
                  if len(shown(episode)) == total and len(episode["messages"][-1]["citations"]) == 1]
        places = Counter(single)
        bound = {2: 10.8, 4: 16.3, 8: 24.3}[total]
        even = len(single) / total
        assert sum((places[slot] - even) ** 2 / even for slot in range(total)) < bound, places
    ranks = data.distractors
    assert 0.1 <= ranks["random"] / ranks.total() <= 0.35, ranks


def test_answers_follow_edited_facts_and_absent_evidence_is_absent(data, library):
    by_id = {question["id"]: question for questions in data.questions.values() for question in questions}
    for episode in iter_episodes(data):
        question, answer = by_id[episode["question_id"]], episode["messages"][-1]
        texts = [one["content"] for one in shown(episode)]
        if episode["kind"] == "edited":
            old = question["answers"][0]
            assert answer["content"] != old and not any(f" {old} " in f" {text} " for text in texts)
        elif episode["kind"] == "contradiction":
            assert len(answer["citations"]) == 2 and question["answers"][0] in answer["content"].split(" or ")
        elif episode["kind"] == "injected":
            assert answer["content"] == question["answers"][0]
        elif episode["kind"] == "evidence_removed":
            assert not set(question["supporting_ids"]) <= {one["id"] for one in shown(episode)}
            assert not any(folded(question["answers"][0]) in folded(text) for text in texts)
        elif episode["kind"] == "bridge_broken":
            assert question["hops"] == 2 and question["supporting_ids"][1] not in {one["id"] for one in shown(episode)}
        elif episode["kind"] == "relation_absent":
            (slot,) = answer["closest"]
            assert [shown(episode)[slot]["id"]] == question["about_ids"] and question["answers"] == []
        elif episode["kind"] == "entity_absent":
            assert "closest" not in answer and question["answers"] == [] and question["near_ids"]
            assert not library.holders(question["subject"]), "a search may find a document about it"


def test_the_same_seed_gives_the_same_data_and_another_gives_another(library, data):
    again = make_training_data(make_library(DOCUMENTS), CONFIG)
    for mine, other in ((again.questions, data.questions), (again.episodes, data.episodes)):
        assert json.dumps(mine) == json.dumps(other)
    other = make_training_data(library, DataConfig(seed=4))
    assert json.dumps(other.episodes) != json.dumps(data.episodes)


@pytest.mark.parametrize(("question", "reason"), [
    (record("When was Torvik built?", "1843", content="none"), "verbatim"),
    (record("What does this passage say of 1700?", "1843"), "refers"),
    (record("What does the document say of Torvik?", "1843"), "refers"),
    (record("What is shown above in Torvik?", "1843"), "refers"),
    (record("What happened in 1843?", "1843"), "shown"),
    (record("Which year?", "..."), "shown"),
])  # fmt: skip
def test_each_local_filter_takes_its_own(question, reason):
    library = make_library([{"id": "a", "title": "", "content": "1843 ..."}])
    if reason != "verbatim":
        content = library.documents[0]["content"]
        start = content.find(question["answers"][0])
        question |= {"answer_start": start, "answer_end": start + len(question["answers"][0])}
    taken = Counter()
    assert filters.local_filters([question], library, taken) == [] and taken == {reason: 1}


def test_questions_that_are_alike_are_kept_once_and_those_answered_differently_not_at_all():
    documents = [{"id": name, "title": "", "content": text} for name, text in
                 (("a", "1843 red"), ("b", "1911 red"), ("c", "1843"), ("d", "red"))]
    library, taken = make_library(documents), Counter()
    ask = [record("When was the mill built?", "1843", "a"), record("When was a mill built ?", "1843", "a"),
           record("Where was the mill built?", "red", "a", content="1843 red"),
           record("When was Torvik sold?", "1843", "a"), record("When was Torvik sold?", "1911", "b")]
    kept = filters.local_filters(ask, library, taken)
    assert [question["question"] for question in kept] == ["When was the mill built?", "Where was the mill built?"]
    assert taken == {"duplicate": 1, "ambiguous": 2}
    same = [record("Which colour?", "red", one["id"], content=one["content"]) for one in documents
            if "red" in one["content"]]
    assert filters.local_filters(same, library, taken)[0]["also_ids"] == ["d", "b"]


def test_frequent_answers_retrieval_and_memory_are_filtered():
    taken = Counter()
    many = [record(f"Is {number} so?", "yes", f"d{number}") for number in range(20)]
    assert len(filters.frequent(many, taken)) == 3 and taken["frequent"] == 17
    library = make_library([{"id": name, "title": "", "content": f"Torvik mill {name} built 1843"}
                            for name in ("velda", "ralgard", "brin", "marsik", "crane")])
    ask = [record("Torvik mill?", "1843", "crane"), record("Torvik mill velda?", "1843", "velda")]
    kept, hits = filters.found_filters(ask, library, taken, top_k=1)
    assert [question["answer_id"] for question in kept] == ["velda"] and taken["retrieval"] == 1 and hits[0][0] == 0
    kept, _ = filters.found_filters(ask[:1], library, taken, top_k=5)
    assert kept == [] and taken["ambiguous"] == 1
    assert filters.closed_book(ask, [[], []], lambda asked: [True, False], taken)[0] == ask[1:]
    assert taken["closed_book"] == 1


def test_two_questions_make_one_of_two_hops():
    library = make_library(spec_documents(6))
    ask = [record("What is the factory of Torvika0?", "Brinamoor0", "thing0", "field", subject="Torvika0"),
           record("What is the river of Brinamoor0?", "Velada0", "place0", "field", subject="Brinamoor0")]
    (made,) = composed(ask, library, limit=5)
    assert made["question"] == "What is the river of the factory of Torvika0?" and made["answers"] == ["Velada0"]
    assert made["supporting_ids"] == ["thing0", "place0"] and made["hops"] == 2
    assert composed(ask, library, limit=0) == []
    assert described({"question": "Who was Tales written by?"}) == "the one by whom Tales was written"
    assert described({"question": "Where is Torvik located?"}) == "the place where Torvik is located"
    assert described({"question": "Why?"}) == ""


@pytest.mark.parametrize(("documents", "settings", "reason"), [
    ([{"id": str(n), "title": "", "content": f"nothing {n} to ask"} for n in range(3)], {}, "no rule found anything"),
    ([{"id": str(n), "title": "", "content": "The Velda Mill was built by Torvik in 1843 in Brin."} for n in range(9)],
     {}, "ambiguous"),
    ([{"id": str(n), "title": "", "content": "The mill was built by some of them in 1843 in town."} for n in range(9)],
     {}, "9 documents are 1 different ones"),
    (SITE, {"filter_top_k": 0}, "retrieval"),
])  # fmt: skip
def test_when_nothing_is_left_the_sentence_names_the_filter(documents, settings, reason):
    with pytest.raises(UserError) as caught:
        make_training_data(make_library(documents), DataConfig(**settings))
    assert reason in caught.value.problem and caught.value.hint


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_documents_are_enough(count):
    data = make_training_data(make_library(SITE[:count]), DataConfig())
    assert 1 <= max(len(shown(episode)) for episode in iter_episodes(data)) <= count + 1


def test_few_questions_that_serve_many_absences_still_have_ids_of_their_own(library):
    config = DataConfig(per_document=4, seed=3, episodes=EpisodeConfig(present_share=0.2))
    ids = [question["id"] for question in make_training_data(library, config).questions["train"]]
    assert len(set(ids)) == len(ids) and any(name.endswith("~entity_absent2") for name in ids)



def test_the_page_is_whole_and_escapes_what_it_shows(data):
    statistics = statistics_of(data, seed=3, settings={"note": "<script>"})
    assert statistics["present_share"] == pytest.approx(0.75, abs=0.02)
    assert sum(statistics["filters"].values()) + sum(
        count for kind, count in statistics["questions_by_kind"].items()
        if kind not in ("bridge", "entity_absent", "relation_absent")) == sum(statistics["made_by_kind"].values())
    page = render_page(statistics, data)
    assert page.count("<article>") == 10 and "<script>" not in page and "http" not in page.split("</style>")[0]
    assert all(f">{kind}<" in page for kind in statistics["episodes_by_kind"])


def test_places_drawn_evenly_are_even_by_fifths():
    def shown(count, *cited):
        return {"messages": [{"documents": [{}] * count}, {}, {"citations": list(cited)}]}
    even = [shown(count, slot) for count in range(1, 9) for slot in range(count)]
    assert position_share(even) == dict.fromkeys("12345", 0.2)
    assert position_share([shown(5, 4), shown(8, 0)]) == {"1": 0.5, "2": 0.0, "3": 0.0, "4": 0.0, "5": 0.5}
    assert position_share([shown(8, 7, 0)]) == {"1": 0.5, "2": 0.0, "3": 0.0, "4": 0.0, "5": 0.5}
    assert position_share([shown(4, 0)]) == dict.fromkeys("12345", 0.0)

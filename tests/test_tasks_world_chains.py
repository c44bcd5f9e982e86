"""Questions of several hops over a world: every link is stated once, and the question alone does not find the next."""

from collections import Counter
from functools import cache

import pytest

from nanochat.retrieval import Document, make_retriever
from tasks.world_chains import BROKEN, CHAIN_WORLD, ChainConfig, make_chains
from tasks.world_descriptions import DESCRIPTIONS
from tasks.world_records import RELATIONS, full_name
from tasks.world_templates import HELD_OUT
from tasks.worlds import WorldConfig, make_world

LENGTHS = (1, 2, 3, 4)


@cache
def world(seed=3, **settings):
    return make_world(WorldConfig(seed=seed, questions_per_entity=0, **{**CHAIN_WORLD, **settings}))


def questions(per_length=60, made=None, **settings):
    config = ChainConfig(**{"hops": LENGTHS, "per_length": per_length, **settings})
    return make_chains(made or world(), config).questions


def facts_of(made):
    return {(fact.subject, fact.relation): fact for fact in made.facts}


def test_every_relation_between_entities_can_be_described_and_no_other():
    kinds = {name.partition(".")[0] for name in RELATIONS}
    assert set(DESCRIPTIONS) == {name for name, (kind, _, _) in RELATIONS.items() if kind in kinds}
    for name, wordings in DESCRIPTIONS.items():
        assert len(wordings) == len(set(wordings)) > HELD_OUT, name
        assert all(text.count("{N}") == 1 and text.startswith("the ") for text in wordings), name


def test_same_world_and_settings_give_the_same_questions():
    assert questions() == questions() == questions(made=make_world(world().config))
    assert {q["question"] for q in questions()} != {q["question"] for q in questions(seed=1)}
    ids = [question["id"] for question in questions()]
    assert len(set(ids)) == len(ids) and len({q["question"] for q in questions()}) == len(ids)


def test_chains_may_end_with_a_relation_of_the_world_alone_but_never_pass_through_one():
    made = world(open_relations=4)
    own = {name.partition(".")[2].replace("_", " ") for name in set(made.relations) - set(RELATIONS)}
    table = facts_of(made)
    ends = 0
    for question in questions(made=made):
        for step in question["steps"][:-1]:
            if step["answer"]:
                relation = next(name for (subject, name), fact in table.items()
                                if subject == step["subject"] and fact.value == step["answer"] and name in RELATIONS)
                assert relation in DESCRIPTIONS
        ends += any(f" {words} " in f" {question['steps'][-1]['query']} " for words in own)
    assert ends > 20


def test_each_step_asks_of_what_the_step_before_found():
    contents = {document["id"]: document["content"] for document in world().documents}
    for question in questions():
        steps = question["steps"]
        assert steps[0]["query"] == question["question"]
        for step, following in zip(steps, steps[1:], strict=False):
            assert following["subject"] == step["answer"]
        for step in steps:
            assert step["subject"] in step["query"]
            assert step["answer"] in contents[step["document_id"]] if step["document_id"] else not step["answer"]
        if question["kind"] == "answerable":
            assert question["answers"][0] == steps[-1]["answer"] and len(steps) == question["hops"]
            assert question["supporting_ids"] == [step["document_id"] for step in steps]
            assert question["searches"] == question["hops"]
        else:
            assert question["answers"] == question["supporting_ids"] == [] and not steps[-1]["answer"]
            # one more search after the first in vain
            assert question["searches"] == len(steps) + 1 <= question["hops"] + 1


def test_the_last_query_is_a_question_of_one_hop_in_words_of_training():
    templates = [template for _, _, asked in RELATIONS.values() for template in asked[:-HELD_OUT]]
    for question in questions():
        last = question["steps"][-1]
        if question["kind"] == "answerable":
            names = [full_name(kind, last["subject"]) for kind in ("place", "product")]
            assert last["query"] in {template.format(N=name) for template in templates for name in names}
    held_out = [text.split("{N}")[0].strip() for wordings in DESCRIPTIONS.values() for text in wordings[-HELD_OUT:]]
    only_there = [text for text in held_out if len(text.split()) > 3]
    assert not any(text in question["question"] for question in questions() for text in only_there)
    other = questions(made=world(question_wordings="held_out"))
    assert any(text in question["question"] for question in other for text in only_there)


def test_neither_the_question_nor_an_earlier_document_gives_the_answer_away():
    contents = {document["id"]: document["content"] for document in world().documents}
    for question in questions():
        for answer in question["answers"]:
            assert answer not in question["question"]
            assert not any(answer in contents[name] for name in question["supporting_ids"][:-1])


def test_each_kind_of_broken_question_is_what_its_name_says():
    made = world()
    documented = {fact.subject for fact in made.facts}
    values = {fact.value for fact in made.facts}
    kinds = Counter()
    for question in questions(per_length=200, unanswerable_share=0.6):
        kind, steps, last = question["kind"], question["steps"], question["steps"][-1]["subject"]
        kinds[kind] += 1
        if kind == "absent_entity":
            assert len(steps) == 1 and last not in documented and not question["about_ids"]
        elif kind == "removed":
            assert len(steps) > 1 and last not in documented and last in values and not question["about_ids"]
        elif kind in ("absent_relation", "broken_bridge"):
            assert (len(steps) == 1) == (kind == "absent_relation") and last in documented
            (about,) = question["about_ids"]
            assert about == next(fact.document_id for fact in made.facts if fact.subject == last)
    assert set(kinds) == {"answerable", *BROKEN} and min(kinds.values()) > 20, kinds


def test_what_is_asked_in_vain_is_not_stated():
    """No wording of a stated fact asks what a broken question asks."""
    made = world()
    stated = {template.format(N=full_name(fact.relation.partition(".")[0], fact.subject))
              for fact in made.facts for template in RELATIONS[fact.relation][2]}
    broken = [question for question in questions(per_length=300, unanswerable_share=0.9, hops=(1, 2))
              if question["answers"] == []]
    at_the_end = [question for question in broken if len(question["steps"]) == question["hops"]]
    assert len(at_the_end) > 100
    assert not stated & {question["steps"][-1]["query"] for question in at_the_end}


def test_a_world_has_plenty_of_chains_and_few_that_the_question_alone_resolves():
    made = world()
    search = searcher_of(made)
    chains = make_chains(made, ChainConfig(hops=(1, 2, 3), per_length=1200), search)
    assert chains.made[2] > 1100 and chains.made[3] > 1100, chains.made
    share = {length: chains.kept[length] / chains.made[length] for length in (1, 2, 3)}
    assert share[1] == 1 and 0.8 < share[3] < share[2] < 1, share
    found = search([question["question"] for question in chains.questions], 10)
    for question, hits in zip(chains.questions, found, strict=True):
        near = {made.documents[position]["id"] for position in hits}
        assert not near & {step["document_id"] for step in question["steps"][1:]}


def test_the_queries_of_the_steps_find_their_documents():
    made = world()
    steps = [step for question in questions(per_length=100) for step in question["steps"] if step["document_id"]]
    found = searcher_of(made)([step["query"] for step in steps], 3)
    names = [[made.documents[position]["id"] for position in hits] for hits in found]
    share = sum(step["document_id"] in hits for step, hits in zip(steps, names, strict=True)) / len(steps)
    assert share > 0.95, share


def test_names_of_nobody_are_new_and_listed():
    chains = make_chains(world(), ChainConfig(per_length=100))
    assert chains.names and not chains.names & world().names
    strangers = {q["steps"][0]["subject"] for q in chains.questions if q["kind"] == "absent_entity"}
    assert strangers <= chains.names | world().names


def test_kinds_without_an_answer_come_in_turn():
    broken = ("absent_relation", "broken_bridge", "absent_relation", "absent_entity")
    config = ChainConfig(hops=(1, 2), per_length=100, unanswerable_share=0.4, broken=broken)
    kinds = {length: Counter(q["kind"] for q in make_chains(world(), config).questions if q["hops"] == length)
             for length in (1, 2)}
    assert kinds[2]["absent_relation"] > 1.4 * kinds[2]["broken_bridge"] > 0 == kinds[2]["removed"]
    assert kinds[1]["absent_relation"] > 1.4 * kinds[1]["absent_entity"] > 0 == kinds[1]["broken_bridge"]


def test_numbers_that_cannot_be_are_refused():
    for settings in ({"hops": ()}, {"hops": (0,)}, {"hops": (5,)}, {"per_length": -1}, {"unanswerable_share": 1.5},
                     {"broken": ("removed",)}, {"broken": ("wrong", "absent_entity")}):
        with pytest.raises(ValueError):
            ChainConfig(**settings)


def searcher_of(made):
    """The search of a world, as positions."""
    retriever = make_retriever("bm25")
    retriever.index([Document(id=d["id"], title=d["title"], content=d["content"]) for d in made.documents])
    return lambda queries, top_k: [[hit.position for hit in hits] for hits in retriever.search(queries, top_k)]

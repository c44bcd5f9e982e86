"""Questions of several hops on the card: what one search finds, and what a model finds with its own."""

from dataclasses import replace

import pytest
from hop_stubs import make_engine
from suite_stubs import Reader

from nanochat.engine import HopConfig, run_episodes
from nanochat.evaluation.suite import hops
from nanochat.evaluation.suite.hops import LENGTHS, chain_material, hop_config, own_searches
from nanochat.evaluation.suite.judging import Asker
from nanochat.evaluation.suite.measures import combined, hop_numbers
from nanochat.evaluation.suite.names import is_number
from nanochat.evaluation.suite.prompts import prompt
from nanochat.evaluation.suite.worlds import FRESH_SEED, make_worlds

NUM = 30
ASKED = {"num_answerable": NUM, "num_unanswerable": 12}


@pytest.fixture(scope="module")
def chains():
    return chain_material([FRESH_SEED + 200, FRESH_SEED + 201], "bm25", **ASKED)


def test_questions_of_all_lengths_are_asked_and_drawn_the_same_again(chains):
    assert {one.hops for one in chains.answerable} == set(LENGTHS)
    assert len(chains.answerable) == NUM and len(chains.unanswerable) == 12
    assert all(len(one.supporting_ids) == one.hops and chains.has_evidence(one) for one in chains.answerable)
    again = chain_material([FRESH_SEED + 200, FRESH_SEED + 201], "bm25", **ASKED)
    assert (again.answerable, again.unanswerable) == (chains.answerable, chains.unanswerable)


def test_one_search_finds_the_first_document_and_none_of_the_later_ones(chains):
    for question in chains.answerable:
        found = {one["id"] for one in chains.retrieved(question, 5)}
        assert not found & set(question.supporting_ids[1:])
    firsts = [question.supporting_ids[0] in {one["id"] for one in chains.retrieved(question, 5)}
              for question in chains.answerable]
    assert sum(firsts) > 0.9 * NUM


def test_names_that_training_may_have_seen_are_not_in_it():
    worlds = make_worlds([FRESH_SEED + 200], min_facts=3, max_facts=5, mention_share=0.95)
    material = chain_material([FRESH_SEED + 200], "bm25", **ASKED, exclude=worlds[0].names)
    titles = {one["title"] for one in material.documents}
    assert not titles & {one["title"] for one in worlds[0].documents}


def test_only_what_learned_to_search_is_asked_to():
    engine = make_engine()
    assert hop_config(engine, {"source": "rag"}) is None and hop_config(Reader(), {"source": "refrag"}) is None
    assert hop_config(engine, {"source": "refrag"}) == HopConfig()
    trained = {"source": "refrag", "config": {"max_hops": 2, "top_k_per_hop": 4, "max_query_tokens": 9}}
    assert hop_config(engine, trained) == HopConfig(max_hops=2, top_k=4, max_query_tokens=9)


def test_what_does_not_search_and_questions_of_one_hop_have_no_such_cell(chains):
    asker = Asker(make_engine())
    assert own_searches(asker, chains, None, print) == {}
    plain = chain_material([FRESH_SEED + 200], "bm25", **ASKED)
    plain.answerable = [one for one in plain.answerable if one.hops == 1]
    plain.unanswerable = []
    assert own_searches(asker, plain, HopConfig(), print) == {}


def test_own_searches_are_the_episodes_of_the_engine(chains):
    engine = make_engine(likes=(("query_start", 6.0),))
    lines = []
    found = own_searches(Asker(engine, batch_size=7, max_tokens=4), chains, HopConfig(max_hops=2, top_k=2),
                         lines.append, "chains, ")
    judged = found["own_searches"]
    assert len(judged) == NUM + 12 and lines[0].startswith("chains, own_searches: 42 questions")
    first = chains.answerable[0]
    episode = run_episodes(engine, [first.question], chains.search, HopConfig(max_hops=2, top_k=2), max_tokens=4)[0]
    assert list(judged[0].shown) == episode.documents and judged[0].abstained == episode.abstained
    # the engine may cite any document shown, the first one, too
    assert all(citation.id in {one["id"] for one in case.shown} for case in judged for citation in case.citations)
    assert any(case.citations for case in judged)
    assert max(len(case.shown) for case in judged) > 2, "no query of its own found anything"


def test_what_own_searches_gain_is_a_number_of_the_card(chains, monkeypatch):
    """A model that searches for each step and answers rightly, beside one search that does not reach."""
    gold = {one.question: one for one in (*chains.answerable, *chains.unanswerable)}

    def perfect(engine, questions, search, config, **options):
        return [_episode(chains, gold[question]) for question in questions]

    monkeypatch.setattr(hops, "run_episodes", perfect)
    asker = Asker(Reader())
    cells = {"retrieved": asker.ask([prompt(one, chains.retrieved(one, 5)) for one in chains.answerable])}
    cells |= own_searches(asker, chains, HopConfig(), print)
    told = hop_numbers(cells["own_searches"], "own_hops")
    assert {name: one.value for name, one in told.items()} == {"own_hops_1": 1.0, "own_hops_2": 1.0, "own_hops_3": 1.0}
    gain = combined(cells)["own_searches_gain"]
    assert gain.value == pytest.approx(1 - sum(one.exact for one in cells["retrieved"]) / NUM) and gain.low > 0
    assert all(one.is_right and one.evidence_shown is not False for one in cells["own_searches"])
    assert all(is_number(f"chains.{name}") for name in (*told, "own_searches_gain", "hops_2", "oracle.exact_match"))
    assert not is_number("fresh.own_searches_gain") and not is_number("fresh.own_searches.exact_match")


def _episode(material, question):
    blank = run_episodes(make_engine(), [question.question], lambda queries, top_k: [[] for _ in queries],
                         HopConfig(max_hops=1), max_tokens=1)[0]
    shown = material.gold(question)
    return replace(blank, documents=shown, abstained=not question.answers, citations=[*range(len(shown))],
                   answer=question.answers[0] if question.answers else "")

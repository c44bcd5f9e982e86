"""Training traces: each search shows what it is to find, nothing twice, and what is not there ends in an abstention."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from nanochat.chat_format import render
from nanochat.conversation import check_conversation
from nanochat.refrag.planning import queries_of, shortened
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.trace_config import TraceConfig
from nanochat.refrag.traces import TracePool
from nanochat.tokenizer import Tokenizer
from tasks.world_chains import ChainConfig

WORLD = ChainWorld(5, chains=ChainConfig(hops=(1, 2, 3), per_length=60))
CONFIG = TraceConfig()
TOKENIZER = Tokenizer.train([f" {d['title']} {d['content']}" for d in WORLD.documents], 700)
BY_ID = {question["id"]: question for question in [*WORLD.questions, *WORLD.pool.questions]}


def traces(count=200, seed=0, config=CONFIG, pool=WORLD.traces, **options):
    return pool.conversations(count, random.Random(seed), config, **options)


def parts(conversation):
    """Hops, answer and question record of a trace."""
    asked, found, answer = conversation["messages"][:3]
    question = BY_ID[conversation["question_id"]]
    assert asked["content"] == question["question"]
    return found["hops"], answer, question


def ids_of(hops):
    return [document["id"] for hop in hops for document in hop["documents"]]


def test_traces_are_legal_within_their_bounds_and_show_nothing_twice():
    for conversation in traces():
        check_conversation(conversation)
        hops, _, question = parts(conversation)
        shown = ids_of(hops)
        assert len(set(shown)) == len(shown) and 1 <= len(hops) <= CONFIG.max_hops
        assert all(len(hop["documents"]) <= CONFIG.top_k for hop in hops)
        assert hops[0]["query"] == question["question"]
        assert len({hop["query"] for hop in hops}) == len(hops)


def test_the_number_of_documents_is_drawn_for_every_search():
    counts = Counter(len(hop["documents"]) for conversation in traces() for hop in parts(conversation)[0])
    assert set(counts) >= {1, 2, 3} and min(counts[number] for number in (1, 2, 3)) > 60, counts
    few = Counter(len(hop["documents"]) for trace in traces(config=replace(CONFIG, top_k=1)) for hop in parts(trace)[0])
    assert set(few) <= {0, 1}


def test_an_answer_cites_the_evidence_of_every_hop_the_last_one_first():
    answered = [parts(conversation) for conversation in traces() if not parts(conversation)[1].get("abstain")]
    for hops, answer, question in answered:
        shown = ids_of(hops)
        assert [shown[slot] for slot in answer["citations"]] == question["supporting_ids"][::-1]
        assert answer["content"] == question["answers"][0]
        # the step's query is searched, and what it is for is there by then
        place = 0
        for step, query in zip(question["steps"], queries_of(question), strict=True):
            place = next(number for number, hop in enumerate(hops) if hop["query"] in
                         (query, shortened(step["query"])) and number >= place)
    assert len(answered) > 100


def test_a_query_cites_the_document_that_it_follows_from():
    seen = Counter()
    for conversation in traces(400):
        hops, answer, question = parts(conversation)
        queries = queries_of(question)
        shown = []
        for number, hop in enumerate(hops):
            cited = [shown[slot] for slot in hop.get("citations", ())]
            is_step = hop["query"] in queries
            if not hop.get("supervised", True):
                # a search for what was found before follows from where it was found
                known = [step["document_id"] for step in question["steps"] if hop["query"] == shortened(step["query"])]
                assert cited == known and all(name in shown for name in known)
                seen["needless"] += bool(known)
            elif not number:
                assert not cited
            elif is_step and (place := queries.index(hop["query"])):
                assert cited == [question["steps"][place - 1]["document_id"]]
            elif not is_step:
                assert cited == [name for name in question["about_ids"] if name in shown]
                seen["about" if cited else "again"] += 1
            seen["step"] += bool(number and is_step and cited)
            shown += [document["id"] for document in hop["documents"]]
    assert min(seen["step"], seen["about"], seen["again"]) > 20 and seen["needless"] > 5, seen


def test_evidence_comes_in_time_and_at_times_early():
    early = late = 0
    for conversation in traces(400, config=replace(CONFIG, recovery_share=0.0)):
        hops, answer, question = parts(conversation)
        if answer.get("abstain"):
            continue
        for number, step in enumerate(question["steps"]):
            by_now = ids_of(hops[: number + 1])
            assert step["document_id"] in by_now
            early += step["document_id"] in ids_of(hops[:number])
            late += number > 0
    assert 0.02 < early / late < 0.12, (early, late)


def test_shares_are_as_configured():
    config = replace(CONFIG, recovery_share=0.5)
    made = [parts(conversation) for conversation in traces(1000, config=config)]
    lengths = Counter(question["hops"] for _, _, question in made)
    assert all(270 < lengths[length] < 400 for length in (1, 2, 3)), lengths
    absent = [(answer, question) for _, answer, question in made if answer.get("abstain")]
    assert 0.29 < len(absent) / 1000 < 0.39
    removed = sum(bool(question["answers"]) for _, question in absent)
    assert 0.12 < removed / len(absent) < 0.3
    has_room = [(hops, question) for hops, answer, question in made
                if not answer.get("abstain") and question["hops"] < config.max_hops]
    detours = [hops for hops, question in has_room if len(hops) > question["hops"]]
    assert 0.42 < len(detours) / len(has_room) < 0.58
    mistakes = sum(any(not hop.get("supervised", True) for hop in hops) for hops in detours)
    assert 0.6 < mistakes / len(detours) < 0.8, (mistakes, len(detours))


def test_what_is_not_there_ends_after_one_more_search_in_an_abstention():
    closest = 0
    for conversation in traces(400):
        hops, answer, question = parts(conversation)
        if not answer.get("abstain"):
            continue
        shown = ids_of(hops)
        missing = [step for step in question["steps"] if step["document_id"] not in shown]
        assert missing and not set(question["supporting_ids"]) & {missing[-1]["document_id"]} & set(shown)
        last, again = hops[-1]["query"], shortened(hops[-2]["query"].rpartition(": ")[2])
        if answer.get("forced"):
            assert len(hops) == CONFIG.max_hops and last != again
        else:
            assert last == again and len(hops) <= question["hops"] + 1
        if answer.get("closest"):
            closest += 1
            assert [shown[slot] for slot in answer["closest"]] == question["about_ids"]
    assert closest > 20


def test_a_mistake_is_marked_corrected_and_not_learned():
    config = replace(CONFIG, recovery_share=1.0, bad_query_share=1.0, absent_share=0.0)
    seen = lasting = 0
    for conversation in traces(120, config=config):
        hops, answer, question = parts(conversation)
        wrong = [number for number, hop in enumerate(hops) if not hop.get("supervised", True)]
        if not wrong:
            continue
        seen += 1
        (place,) = wrong
        assert place > 0 and not answer.get("abstain")
        if place < len(hops) - 1:
            assert hops[place + 1]["query"] == queries_of(question)[place]
        else:
            # in vain, and answered all the same
            assert hops[place]["query"] == shortened(question["steps"][-1]["query"])
            lasting += 1
        assert not set(question["supporting_ids"]) & {document["id"] for document in hops[place]["documents"]}
        rendered = render({"messages": conversation["messages"][:3]}, TOKENIZER)
        starts = [at for at, token in enumerate(rendered.ids) if token == TOKENIZER.special("query_start")]
        assert [rendered.mask[at] for at in starts] == [number != place for number in range(1, len(hops))]
    assert lasting > 20 and seen - lasting > 20


def test_a_trace_of_one_hop_is_a_plain_reading_turn_but_for_the_decision_to_answer():
    for conversation in traces(40, config=replace(CONFIG, lengths=(1,), absent_share=0.0, recovery_share=0.0)):
        asked, found, *rest = conversation["messages"]
        (hop,) = found["hops"]
        plain = {"messages": [{"role": "retrieval", "documents": hop["documents"]}, asked, *rest]}
        one, other = render(conversation, TOKENIZER), render(plain, TOKENIZER)
        assert one.ids == other.ids and one.documents == other.documents
        differ = [at for at, (a, b) in enumerate(zip(one.mask, other.mask, strict=True)) if a != b]
        assert [one.ids[at] for at in differ] == [TOKENIZER.special("assistant_start")]


def test_later_questions_are_plain_and_answered_from_what_is_shown():
    counts = Counter()
    for conversation in traces():
        shown = ids_of(parts(conversation)[0])
        later = conversation["messages"][3:]
        counts[len(later) // 2] += 1
        for asked, answer in zip(later[::2], later[1::2], strict=True):
            questions = [question for question in WORLD.pool.questions if question["question"] == asked["content"]]
            if not answer.get("abstain"):
                assert any([shown[slot] for slot in answer["citations"]] == question["supporting_ids"]
                           and answer["content"] == question["answers"][0] for question in questions)
    assert counts[0] == 0 and set(counts) <= {1, 2, 3, 4} and counts[1] < 20


def test_a_trace_that_does_not_fit_loses_questions_and_distractors_but_no_evidence():
    def size(conversation):
        return len(render(conversation, TOKENIZER).ids)

    whole = traces(60, seed=2)
    tight = traces(60, seed=2, fits=lambda conversation: size(conversation) <= 250)
    assert sum(map(size, tight)) < sum(map(size, whole)) and max(map(size, whole)) > 250
    for conversation in tight:
        hops, answer, question = parts(conversation)
        if not answer.get("abstain"):
            assert set(question["supporting_ids"]) <= set(ids_of(hops))
        if size(conversation) > 250:
            assert len(conversation["messages"]) == 3


def test_one_search_for_all_and_the_same_traces_for_the_same_seed():
    calls = []

    def search(queries, top_k):
        calls.append(len(queries))
        return WORLD.positions(queries, top_k)

    pool = TracePool(WORLD.documents, WORLD.questions, search, is_exact=True, later=WORLD.pool.questions)
    assert traces(20, pool=pool) == traces(20)
    assert len(calls) == 1 and traces(20, seed=1) != traces(20)


def test_questions_of_more_hops_than_searches_are_left_out():
    for limit in (1, 2):
        config = replace(CONFIG, max_hops=limit)
        assert {parts(conversation)[2]["hops"] for conversation in traces(config=config)} <= set(range(1, limit + 1))
    # an abstention for want of searches was nobody's decision
    forced = [parts(conversation)[1] for conversation in traces(config=replace(CONFIG, max_hops=1, lengths=(1,)))]
    assert all(answer.get("forced", False) == answer.get("abstain", False) for answer in forced)


def small_pool(**settings):
    """Three documents of the user's, of which two state the same value, and questions over them."""
    documents = [{"id": "a", "title": "Alba", "content": "The mayor of Alba is Iva Rud."},
                 {"id": "b", "title": "Iva Rud", "content": "Iva Rud was born in 1950."},
                 {"id": "c", "title": "Notes", "content": "Somebody was born in 1950."},
                 {"id": "d", "title": "Weather", "content": "It rains."}]
    chain = {"id": "q", "question": "When was the mayor of Alba born?", "answers": ["1950"], "hops": 2,
             "supporting_ids": ["a", "b"], "steps": [
                 {"query": "When was the mayor of Alba born?", "subject": "Alba", "answer": "Iva Rud",
                  "document_id": "a"},
                 {"query": "When was Iva Rud born?", "subject": "Iva Rud", "answer": "1950", "document_id": "b"}]}
    plain = {"id": "p", "question": "Who is the mayor of Alba?", "answers": ["Iva Rud"], "supporting_ids": ["a"]}
    unknown = {"id": "u", "question": "Of two documents?", "answers": ["Iva Rud"], "supporting_ids": ["a", "b"],
               "hops": 2}
    return TracePool(documents, [chain, plain, unknown], lambda queries, top_k: [[2, 3, 1, 0][:top_k] for _ in queries],
                     **settings)


def test_a_document_that_states_the_answer_by_chance_is_no_distractor():
    config = TraceConfig(lengths=(2,), injected_share=0.0, absent_share=0.5)
    shown = {name for seed in range(40) for conversation in traces(2, seed, config, small_pool())
             for name in ids_of(conversation["messages"][1]["hops"])}
    assert shown == {"a", "b", "d"}
    exact = {name for seed in range(40) for conversation in traces(2, seed, config, small_pool(is_exact=True))
             for name in ids_of(conversation["messages"][1]["hops"])}
    assert "c" in exact


def test_questions_whose_steps_nobody_knows_are_left_out():
    pool = small_pool()
    assert {length: [q["id"] for group in groups for q in group] for length, groups in pool.by_hops.items()} == {
        2: ["q"], 1: ["p"]}
    assert [question["id"] for question in pool.questions] == ["p"]
    assert TracePool(pool.documents, [{**pool.questions[0], "hops": 2}], pool.search).conversations(
        3, random.Random(0), CONFIG) == []


def test_the_gold_trace_shows_as_many_documents_as_asked_in_the_order_found():
    question = next(q for q in WORLD.questions if q["hops"] == 3 and q["answers"])
    trace = WORLD.traces.gold_trace(question, random.Random(0), top_k=2, max_hops=3)
    hops, answer, _ = parts(trace)
    assert [hop["query"] for hop in hops] == queries_of(question)
    assert [len(hop["documents"]) for hop in hops] == [2, 2, 2] and len(trace["messages"]) == 3
    assert set(question["supporting_ids"]) <= set(ids_of(hops)) and "forced" not in answer
    first = [document["id"] for document in WORLD.search([question["question"]], 2)[0]]
    assert ids_of(hops[:1]) == first
    with pytest.raises(ValueError, match="3 steps"):
        WORLD.traces.gold_trace(question, random.Random(0), top_k=2, max_hops=2)


def test_an_order_in_a_document_leaves_the_answers_in_their_places():
    config = replace(CONFIG, injected_share=1.0, absent_share=0.0)
    originals = {document["id"]: document["content"] for document in WORLD.documents}
    changed = 0
    for conversation in traces(40, config=config):
        hops, answer, _ = parts(conversation)
        documents = [document for hop in hops for document in hop["documents"]]
        changed += sum(document["content"] != originals[document["id"]] for document in documents)
        assert answer["content"] in documents[answer["citations"][0]]["content"]
    assert changed == 40

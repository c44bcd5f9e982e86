"""Hops: an episode stored is the episode lived, alone as in company; searches are batched and repeat nothing."""

import random
from dataclasses import replace

import pytest
import torch
from engine_stubs import make_model
from hop_stubs import QUESTIONS, TOKENIZER, Library, make_engine
from imported_tokenizer_stubs import KINDS, write_source

from nanochat.chat_format import render
from nanochat.engine import Engine, HopConfig, run_episodes
from nanochat.engine.hops import walk_masks
from nanochat.interop.tokenizer import load_tokenizer
from nanochat.model import LanguageModel
from nanochat.tokenizer import NUM_DOC_SLOTS

ASKS = (("query_start", 4.0),)
PATTERNS = ["T", "M", "M,T"]


def check(engine, episode, config):
    """What must hold of every episode."""
    again = render(episode.conversation(), engine.tokenizer)
    assert (again.ids, again.mask) == (episode.ids, episode.mask)
    assert again.documents == episode.documents and again.lost_citations == again.dropped == 0
    assert len(episode.logprobs) == len(episode.ids)
    masks = dict(walk_masks(engine, episode.ids, episode.mask, config))
    assert sorted(masks) == [place for place, m in enumerate(episode.mask) if m]
    assert all(bool(mask[episode.ids[place]]) for place, mask in masks.items())
    assert [hop["hop"] for hop in episode.hops] == list(range(1, len(episode.hops) + 1))
    assert 1 <= len(episode.hops) <= config.max_hops and episode.hops[0]["query"] == episode.question
    shown = [document["id"] for document in episode.documents]
    assert len(set(shown)) == len(shown) <= NUM_DOC_SLOTS
    assert all(len(hop["documents"]) <= config.top_k for hop in episode.hops)
    # every mark that acts was written by the model, or by us in its place
    special = engine.tokenizer.special
    asked, started = (episode.ids.count(special(name)) for name in ("query_start", "assistant_start"))
    assert asked == len(episode.hops) - 1 and started == 1
    assert episode.ids.count(special("results_start")) == len(episode.hops)
    decisions = len(episode.hops) - episode.is_forced
    assert len(episode.search_probabilities) == decisions and all(0 <= p <= 1 for p in episode.search_probabilities)
    assert episode.is_valid == (episode.stop == "end" and not episode.num_repeated)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stored_episode_is_the_one_that_was_lived(pattern):
    rng, kinds, count = random.Random(pattern), set(), 0
    likes = [(), ASKS, (("query_end", 6.0), *ASKS), (("cite", 9.0), ("abstain", 9.0), *ASKS)]
    for number in range(24):
        engine = make_engine(pattern, sequence_len=(128, 400, 1500)[number % 3], likes=likes[number % 4])
        config = HopConfig(max_hops=rng.randint(1, 5), top_k=rng.choice([1, 3, 12]),
                           max_query_tokens=rng.choice([1, 2, 12]))
        episodes = run_episodes(
            engine, QUESTIONS, Library(), config, temperature=rng.choice([0.0, 0.7, 1.5]), seed=number,
            group_size=rng.choice([1, 3]), max_tokens=rng.choice([1, 4, 20]))
        assert engine.scheduler.is_idle
        for episode in episodes:
            check(engine, episode, config)
            kinds |= {episode.stop, f"forced {episode.is_forced}", f"hops {len(episode.hops)}",
                      f"ids {any('ids' in hop for hop in episode.hops)}", f"dropped {episode.dropped > 0}",
                      f"repeated {episode.num_repeated > 0}", f"closest {bool(episode.closest)}",
                      f"cites {bool(episode.citations)}", f"led {any('citations' in hop for hop in episode.hops)}",
                      f"written {'ids' in episode.message}"}
        count += len(episodes)
    assert count > 120 and kinds >= {
        "end", "length", "forced True", "forced False", "hops 1", "hops 2", "hops 3", "ids True", "ids False",
        "dropped True", "repeated True", "closest True", "cites True", "led True", "led False",
        "written True", "written False"}, kinds


@pytest.mark.parametrize("kind", KINDS)
def test_this_holds_for_imported_vocabularies(kind, tmp_path):
    tokenizer = load_tokenizer(write_source(tmp_path, kind))
    plain = make_model("M,T")
    torch.manual_seed(1)
    model = LanguageModel(replace(plain.config, vocab_size=tokenizer.vocab_size + 3, sequence_len=500)).eval()
    engine, config, kinds = Engine(model, tokenizer), HopConfig(max_hops=4, max_query_tokens=6), set()
    for seed in range(3):
        for episode in run_episodes(engine, QUESTIONS, Library(), config, temperature=1.0, seed=seed, group_size=2,
                                    max_tokens=8):
            check(engine, episode, config)
            kinds.add(len(episode.hops))
    assert kinds >= {1, 2}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_episode_is_the_same_alone_and_in_company(pattern):
    engine, config = make_engine(pattern, likes=ASKS), HopConfig(max_hops=3, max_query_tokens=6)

    def run(engine, questions, **options):
        return run_episodes(engine, questions, Library(), config, temperature=1.0, seed=5, max_tokens=10, **options)

    together = run(engine, QUESTIONS, group_size=3)
    assert len({tuple(episode.ids) for episode in together}) > len(QUESTIONS)
    one_by_one = Engine(engine.model, TOKENIZER, max_rows=1, prefix_cache_bytes=0, speculate=0)
    for again in (run(engine, QUESTIONS, group_size=3), run(one_by_one, QUESTIONS, group_size=3)):
        for mine, other in zip(together, again, strict=True):
            assert mine.ids == other.ids and mine.hops == other.hops and mine.message == other.message
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    # number i of the list draws from (seed, i), whatever the questions around it are
    changed = run(engine, ["Else?", *QUESTIONS[1:]], group_size=3)
    assert [episode.ids for episode in changed[3:]] == [episode.ids for episode in together[3:]]
    alone = run(engine, QUESTIONS[:1], group_size=2)
    assert [episode.ids for episode in alone] == [episode.ids for episode in together[:2]]


def test_pieces_of_an_episode_draw_from_different_chances(monkeypatch):
    engine, chances = make_engine("M", likes=ASKS), []
    submit = engine.scheduler.submit
    monkeypatch.setattr(engine.scheduler, "submit", lambda request: chances.append(
        (request.params.seed, request.number)) or submit(request))
    episodes = run_episodes(engine, QUESTIONS, Library(), HopConfig(max_hops=4), temperature=1.0, seed=3, group_size=2,
                            max_tokens=4)
    assert len(chances) == len(set(chances)) == sum(len(e.search_probabilities) + 1 for e in episodes)
    # an answer without hops draws from the same one
    assert set(chances) >= {(3, number) for number in range(8)}


def test_logprobs_are_those_of_the_model_under_the_grammar():
    engine, config = make_engine("M,T", likes=ASKS), HopConfig(max_hops=3, max_query_tokens=6)
    for temperature in (1.0, 0.7, 0.0):
        for episode in run_episodes(engine, QUESTIONS, Library(), config, temperature=temperature, group_size=2,
                                    max_tokens=10):
            with torch.no_grad():
                logits = engine.model(torch.tensor([episode.ids]))[0].float()
            expected = [0.0] * len(episode.ids)
            for place, mask in walk_masks(engine, episode.ids, episode.mask, config):
                allowed = (logits[place - 1] / (temperature or 1.0)).masked_fill(~mask, -torch.inf)
                expected[place] = torch.log_softmax(allowed, dim=-1)[episode.ids[place]].item()
            assert episode.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("pattern", ["M", "M,T"])
def test_episodes_of_one_question_read_its_prompt_once(pattern):
    engine = Engine(make_engine(pattern).model, TOKENIZER)
    read = []
    features = engine.model.features

    def counting(ids, *args, **options):
        read.append(ids.numel())
        return features(ids, *args, **options)

    engine.model.features = counting
    try:
        one = run_episodes(engine, QUESTIONS[:1], Library(), HopConfig(max_hops=1), max_tokens=1)
        alone, read[:] = sum(read), []
        engine.prefix_cache.clear()
        run_episodes(engine, QUESTIONS[:1], Library(), HopConfig(max_hops=1), max_tokens=1, group_size=8)
        assert len(one[0].ids) > 50 and sum(read) <= alone + 8, f"one reads {alone} tokens, eight read {sum(read)}"
        # the next hop reads what is new, and nothing of what was read before
        read[:] = []
        engine.prefix_cache.clear()
        episodes = run_episodes(engine, QUESTIONS[:1], Library(), HopConfig(max_hops=3, max_query_tokens=4),
                                temperature=1.0, max_tokens=4, group_size=8)
        new = len(one[0].ids) + sum(len(episode.ids) - len(one[0].ids) for episode in episodes)
        assert max(len(episode.hops) for episode in episodes) > 1 and sum(read) <= new + 8 * 12
    finally:
        del engine.model.features


def test_every_round_is_one_call_and_every_query_comes_once():
    engine, library, told = make_engine(likes=ASKS), Library(), []
    config = HopConfig(max_hops=3, top_k=2, max_query_tokens=2)
    episodes = run_episodes(engine, QUESTIONS[:2], library, config, temperature=0.9, group_size=6, max_tokens=4,
                            on_hop=lambda number, hop: told.append((number, hop["hop"], hop["query"])))
    assert library.calls[0] == (QUESTIONS[:2], 2)
    assert [top_k for _, top_k in library.calls] == [2, 4, 6][: max(len(episode.hops) for episode in episodes)]
    assert all(len(set(queries)) == len(queries) for queries, _ in library.calls)
    assert sorted(told) == sorted((number, hop["hop"], hop["query"]) for number, episode in enumerate(episodes)
                                  for hop in episode.hops)


def test_what_was_shown_is_not_shown_again_and_the_next_ones_take_its_place():
    documents = [{"id": f"d{i}", "title": "", "content": f"Note {i}."} for i in range(20)]
    config = HopConfig(max_hops=4, top_k=3, max_query_tokens=3)

    def search(queries, top_k):
        return [documents[:top_k]] * len(queries)

    for episode in run_episodes(make_engine(likes=ASKS), QUESTIONS, search, config, temperature=1.0, max_tokens=3):
        assert [document["id"] for document in episode.documents] == [
            f"d{i}" for i in range(3 * (len(episode.hops) - episode.num_repeated))]


def test_the_same_query_again_finds_nothing_and_is_counted():
    # greedy and with one token there is little else to ask
    engine = make_engine(likes=(("query_start", 50.0), ("query_end", 50.0)))
    config = HopConfig(max_hops=4, max_query_tokens=1)
    library = Library()
    episodes = run_episodes(engine, QUESTIONS, library, config, temperature=0.5, group_size=4, max_tokens=4)
    repeated = [episode for episode in episodes if episode.num_repeated]
    assert repeated and not any(episode.is_valid for episode in repeated)
    for episode in episodes:
        seen, again = set(), 0
        for hop in episode.hops:
            query = " ".join(hop["query"].casefold().split()).rstrip(" .?!,;:")
            assert query not in seen or not hop["documents"]
            again += query in seen
            seen.add(query)
        assert again == episode.num_repeated
        check(engine, episode, config)


def test_the_answer_is_forced_when_hops_slots_or_room_are_used_up():
    always = (("query_start", 100.0),)
    documents = [{"id": f"d{i}", "title": "", "content": "a"} for i in range(200)]

    def search(queries, top_k):
        return [documents[:top_k]] * len(queries)

    for sequence_len, top_k, max_hops, hops in ((900, 2, 3, 3), (4000, 12, 9, 3), (150, 1, 9, None)):
        engine = make_engine(sequence_len=sequence_len, likes=always)
        config = HopConfig(max_hops=max_hops, top_k=top_k, max_query_tokens=12)
        for episode in run_episodes(engine, QUESTIONS, search, config, temperature=1.0, max_tokens=8):
            check(engine, episode, config)
            assert episode.is_forced and episode.mask[episode.ids.index(TOKENIZER.special("assistant_start"))] == 0
            assert len(episode.ids) <= sequence_len
            assert len(episode.hops) == hops if hops else 1 < len(episode.hops) < 9
            assert episode.conversation()["messages"][-1]["forced"] is True

"""Episodes: never more documents than were asked for, and settings that cannot be are refused."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthesis_stubs import make_library, spec_documents

from nanochat.conversation import check_conversation
from nanochat.errors import ConfigError
from nanochat.rag.changes import edited, stands
from nanochat.rag.data_page import statistics_of
from nanochat.rag.episodes import Composer, EpisodeConfig
from nanochat.rag.training_data import DataConfig, iter_episodes, make_training_data

KINDS = ("answer", "edited", "contradiction", "injected")
LIBRARY = make_library(spec_documents())


@pytest.fixture(scope="module")
def questions():
    made = make_training_data(LIBRARY, DataConfig(validation_share=0.0, test_share=0.0)).questions["train"]
    return [question for question in made if question["answers"]]


def composer_of(questions, max_documents):
    return Composer(LIBRARY, questions, range(len(LIBRARY.documents)), [], EpisodeConfig(max_documents=max_documents),
                    random.Random(0))


def presented(questions, kind, max_documents):
    """Episodes, None where there is none, and the composer that made them."""
    composer = composer_of(questions, max_documents)
    hits = LIBRARY.search([question["question"] for question in questions], 20, None)
    return [composer.present(question, row, kind) for question, row in zip(questions, hits)], composer


@pytest.mark.parametrize("max_documents", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_no_episode_shows_more_documents_than_were_asked_for(questions, kind, max_documents):
    episodes, composer = presented(questions, kind, max_documents)
    for question, episode in zip(questions, episodes, strict=True):
        assert (episode is None) == (len(question["supporting_ids"]) > max_documents), question
        if episode is not None:
            check_conversation(episode)
            assert 1 <= len(episode["messages"][0]["documents"]) <= max_documents, episode["id"]
    assert composer.left_out == episodes.count(None)
    assert (composer.left_out > 5) == (max_documents == 1)
    broken = [composer.absent(question, [], "bridge_broken", keep=question["supporting_ids"][:1])
              for question in questions if question["hops"] == 2]
    assert broken and all(1 <= len(episode["messages"][0]["documents"]) <= max_documents for episode in broken)


def test_a_contradiction_without_room_for_two_documents_is_a_plain_answer(questions):
    single = [question for question in questions if question["hops"] == 1]
    for max_documents in (1, 2):
        episodes, _ = presented(single, "contradiction", max_documents)
        kinds = {episode["kind"] for episode in episodes}
        assert ("contradiction" in kinds) == (max_documents == 2) and kinds <= {"contradiction", "answer"}
        for question, episode in zip(single, episodes, strict=True):
            if episode["kind"] == "answer":
                assert episode["messages"][-1]["content"] == question["answers"][0]
    # an edit needs no second one
    assert "edited" in {episode["kind"] for episode in presented(single, "edited", 1)[0]}


def test_what_has_no_episode_is_counted_and_the_shares_stay():
    config = DataConfig(validation_share=0.0, test_share=0.2, episodes=EpisodeConfig(max_documents=1))
    data = make_training_data(LIBRARY, config)
    statistics = statistics_of(data)
    assert set(statistics["documents_shown"]) == {"1"} and "contradiction" not in statistics["episodes_by_kind"]
    assert statistics["episodes_left_out"] == statistics["questions_by_kind"]["bridge"] > 5
    assert statistics["present_share"] == pytest.approx(0.75, abs=0.02)
    bridges = [episode["kind"] for episode in iter_episodes(data) if episode["question_kind"] == "bridge"]
    assert set(bridges) <= {"bridge_broken", "evidence_removed"}
    assert statistics_of(make_training_data(LIBRARY, DataConfig()))["episodes_left_out"] == 0


@pytest.mark.parametrize("name, value", [
    ("max_documents", 0), ("max_documents", 33), ("present_share", -0.1), ("random_share", 1.01),
    ("edited_share", 2), ("contradiction_share", float("nan")), ("injected_share", float("inf")),
])
def test_settings_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}, must lie in") as caught:
        EpisodeConfig(**{name: value})
    assert name in caught.value.hint
    assert EpisodeConfig(max_documents=32, present_share=1, edited_share=0).max_documents == 32


words = st.text(st.sampled_from("aAbBéÉßİı1 2.,'-\u0307"), min_size=1, max_size=6)


@given(words, words, words, words)
@settings(deadline=None, max_examples=400)
def test_no_edit_leaves_the_old_value_in_the_title(old, new, around, title):
    for heading in (title, f"{title} {old}", old, f"{old}{title}"):
        document = {"id": "d", "title": heading, "content": f"{around} {old} {around}"}
        changed = edited(document, old, new)
        assert changed is None or not stands(old, changed["title"])

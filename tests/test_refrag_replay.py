"""Replay: a logged episode can be followed step by step, at the terminal and on a page that escapes what it shows."""

import json
import math

import pytest

from nanochat.common import base_dir, run_main
from nanochat.errors import ConfigError, UserError
from nanochat.refrag.episode_log import log_path, read_episodes
from nanochat.refrag.pieces import pieces_of
from nanochat.refrag.replay import choose, lines, moves, outcome
from nanochat.refrag.replay_page import render_page
from scripts import refrag_replay

NASTY = "<script>alert('x')</script>"


def chosen(place, piece, text, probability, advantage=0.5):
    return {"place": place, "piece": piece, "text": text, "logprob": math.log(probability), "entropy": 0.1,
            "advantage": advantage}


def make_record(*, step=1, number=0, abstained=False, is_right=True, is_valid=True, is_forced=False):
    documents = [{"id": "a", "title": NASTY, "content": "Velda was born in Torvik."},
                 {"id": "b", "title": "Torvik", "content": "Its mayor is Mira."}]
    answer = [chosen(9, 1, "<cite>", 0.9), chosen(10, 1, " Mira", 0.8)]
    decided = [] if is_forced else [chosen(8, 1, "<assistant_start>", 0.6, 0.25)]
    return {
        "step": step, "number": number, "question_id": "q1", "is_right": is_right, "reward": 0.98,
        "reference": {"answers": ["Mira"], "supporting_ids": ["a", "b"], "num_hops": 2, "kind": "answerable"},
        "parts": {"answer": 1.0, "searches": -0.02}, "group_rewards": [0.98, -0.5],
        "trace": {"question": "Who is the mayor of Velda's town?", "answer": "" if abstained else "Mira",
                  "hops": [{"hop": 1, "query": "Who is the mayor of Velda's town?", "documents": documents[:1]},
                           {"hop": 2, "query": f"mayor of Torvik {NASTY}", "documents": documents[1:],
                            "citations": [0]}],
                  "citations": [] if abstained else [0, 1], "closest": [], "documents": documents,
                  "abstained": abstained, "is_valid": is_valid, "stop": "end"},
        "chosen": [chosen(3, 0, "<query_start>", 0.7), chosen(4, 0, " mayor", 0.5), chosen(5, 0, "<query_end>", 1.0),
                   *decided, *answer],
    }


def test_a_piece_is_what_was_written_without_a_break():
    assert pieces_of([12, 3, 4, 5, 11]) == {3: 0, 4: 0, 5: 0, 11: 1, 12: 1}
    assert pieces_of([]) == {}


def test_moves_tell_what_was_decided_and_how_likely_it_was():
    first, second, answer = moves(make_record())
    assert not first.is_chosen and first.decision is None and [d["id"] for d in first.documents] == ["a"]
    assert second.decision == pytest.approx(0.7) and second.likelihood == pytest.approx(0.5) and second.advantage == 0.5
    assert answer.kind == "answer" and answer.decision == pytest.approx(0.6)
    assert answer.likelihood == pytest.approx(0.72) and [d["id"] for d in answer.documents] == ["a", "b"]


def test_a_forced_answer_was_nobodys_decision():
    answer = list(moves(make_record(is_forced=True)))[-1]
    assert not answer.is_chosen and answer.decision is None and answer.likelihood == pytest.approx(0.72)
    assert "no more searches: it must answer" in "\n".join(lines(make_record(is_forced=True)))


def test_the_lines_show_queries_results_probabilities_and_rewards_by_part():
    text = "\n".join(lines(make_record()))
    assert "     from a" in text
    for wanted in ("Episode 0 of step 1: right, reward +0.980", "always: the question itself", "* Torvik (b)",
                   "decides to search again 70.0%", "decides to answer 60.0%", "answer +1.000, searches -0.020",
                   "wanted:   Mira (in 2 search(es); evidence a, b)", "+0.98, -0.50"):
        assert wanted in text, f"{wanted!r} is not in\n{text}"


def test_the_page_escapes_every_text_and_shows_every_episode():
    page = render_page([make_record(), make_record(number=1, is_right=False)], title=f"of {NASTY}")
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("<article") == 2
    assert "<div class=soft>from" in page
    assert "probability 70.0%" in page and "-0.020" in page and 'id="step-1-1"' in page


@pytest.mark.parametrize(("options", "name"), [
    ({}, "right"), ({"is_right": False}, "wrong"), ({"is_right": False, "abstained": True}, "abstained"),
    ({"abstained": True}, "right"), ({"is_valid": False}, "invalid"),
])
def test_outcomes(options, name):
    assert outcome(make_record(**options)) == name


@pytest.fixture
def logged(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    path = log_path("demo")
    path.parent.mkdir(parents=True)
    records = [make_record(step=step, number=number, is_right=number == 0) for step in (1, 2) for number in (0, 1)]
    # the last line was torn by a kill
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 3, "numb', encoding="utf-8")
    return path


def test_the_log_is_read_without_a_torn_line(logged):
    assert [(record["step"], record["number"]) for record in read_episodes(logged)] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert logged.parent == base_dir() / "episodes"


def test_episodes_are_chosen_by_step_number_and_outcome(logged):
    records = read_episodes(logged)
    assert len(choose(records, step=2)) == 2 and len(choose(records, number=1)) == 2
    assert [record["step"] for record in choose(records, show="wrong")] == [1, 2]
    with pytest.raises(ConfigError, match="No logged episode is like that"):
        choose(records, step=9)
    with pytest.raises(ConfigError, match="--show is 'good'"):
        choose(records, show="good")


def test_the_command_prints_or_writes_a_page(logged, capsys, tmp_path):
    assert run_main(refrag_replay.main, ["--tag", "demo", "--step", "2", "--show", "wrong"]) == 0
    printed = capsys.readouterr().out
    assert "Episode 1 of step 2: wrong" in printed and "1 of 1 episodes" in printed and "Episode 0" not in printed
    page = tmp_path / "out" / "replay.html"
    assert run_main(refrag_replay.main, ["--tag", "demo", "--limit", "3", "--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("<article") == 3
    assert run_main(refrag_replay.main, ["--tag", "demo", "--number", "0", "--limit", "0"]) == 0
    assert "2 of 2 episodes" in capsys.readouterr().out


def test_without_a_log_the_hint_says_where_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(UserError, match="No episodes are logged in") as raised:
        read_episodes(log_path("demo"))
    assert "--log_episodes" in raised.value.hint

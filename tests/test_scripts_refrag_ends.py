"""How runs of refrag_finetune end and go on: which checkpoint is the best, and what may not change any more."""

import itertools
import json
import re

import pytest
from refrag_stubs import FAST, ask, hash_of, make_refrag_place, meta_of, steps_of

from nanochat.common import base_dir, run_main, write_jsonl
from nanochat.config import load_config
from nanochat.refrag import monitors
from nanochat.refrag.episode_log import log_path
from scripts import refrag_finetune, refrag_rewards
from scripts.early_stop import BEST

AGAIN = ("--source refrag --source_tag begin --num_steps 0 --world_share 1 --dev_questions 4 --rl_lr 0.03"
         " --rl_eval_every 1 --keep_checkpoints 0").split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_refrag_place(folder)
        ask(folder, "begin", "--use_rewards", "false")
        yield folder


@pytest.fixture
def judged(monkeypatch):
    """Evaluations that find what they are told: accuracies in order, or an exception."""
    def judge(*accuracies):
        coming = iter(accuracies)

        def measure(*args, prefix, **options):
            value = next(coming)
            if isinstance(value, type):
                raise value
            return {f"{prefix}accuracy": value}

        monkeypatch.setattr(refrag_rewards, "measure", measure)

    return judge


def test_what_an_alarm_brings_back_is_not_kept_as_the_best(folder, judged, monkeypatch):
    back = monitors.Signal(lambda history: "so" if len(history.devs) == 3 else "", (monitors.ROLL_BACK,))
    monkeypatch.setattr(monitors, "SIGNALS", {"back": back})
    judged(0.1, 0.2, 0.3, 0.25)
    printed = ask(folder, "alarmed", *AGAIN, "--rl_steps", "3")
    assert "Alarm at step 2, back: so" in printed and "at the best step, 2; 1 alarm(s)" in printed
    # its weights are those that were measured, which the checkpoint of the step has, too
    assert hash_of("alarmed") == hash_of("alarmed.1", "step_000002") != hash_of("alarmed.1", "step_000001")


@pytest.mark.parametrize(("last", "best"), [(0.3, 2), (0.1, 1)])
def test_an_evaluation_that_was_not_heard_is_made_when_the_run_goes_on(folder, judged, last, best):
    tag = f"unheard-{best}"
    judged(0.1, 0.2, KeyboardInterrupt)
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", tag, *AGAIN]
    assert run_main(refrag_finetune.main, argv) == 130 and steps_of(tag)[-1] == "step_000002"
    judged(last)
    printed = ask(folder, tag, *AGAIN, "--resume", "true")
    assert f"at the best step, {best};" in printed and steps_of(tag)[-1] == f"step_{best:06d}"
    # and not once more
    judged()
    assert "nothing to do" in ask(folder, tag, *AGAIN, "--resume", "true")
    assert not (base_dir() / "checkpoints" / "refrag" / (tag + BEST)).exists()


def test_an_alarm_at_an_evaluation_that_was_not_heard_is_a_pause(folder, judged, monkeypatch):
    judged(0.1, 0.2, KeyboardInterrupt)
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "pausing", *AGAIN, "--rl_steps", "3"]
    assert run_main(refrag_finetune.main, argv) == 130
    ended = monitors.Signal(lambda history: "enough", (monitors.PAUSE,))
    monkeypatch.setattr(monitors, "SIGNALS", {"ended": ended})
    judged(0.3)
    printed = ask(folder, "pausing", *AGAIN, "--rl_steps", "3", "--resume", "true")
    assert "Paused at step 2 of 3: ended: enough" in printed and "nothing to do" not in printed


def test_a_run_whose_last_step_was_its_best_keeps_it_when_it_goes_on(folder, judged):
    # the last evaluation is none of those that come every two steps
    judged(0.1, 0.2, 0.4)
    flags = [*AGAIN, "--rl_eval_every", "2"]
    ask(folder, "longer", *flags, "--rl_steps", "3")
    assert meta_of("longer")["early_stop"]["best_step"] == 3
    kept = hash_of("longer")
    judged()
    assert "To train it further: --rl_steps 6" in ask(folder, "longer", *flags, "--rl_steps", "3", "--resume", "true")
    judged(0.3, 0.3)
    printed = ask(folder, "longer", *flags, "--rl_steps", "5", "--resume", "true")
    assert "at the best step, 3" in printed and hash_of("longer") == kept and steps_of("longer") == ["step_000003"]
    judged()
    printed = ask(folder, "longer", *flags, "--rl_steps", "9", "--resume", "true")
    assert "--source refrag --source_tag longer --tag longer-2 --num_steps 0" in printed


def test_a_best_checkpoint_that_somebody_deleted_is_not_waited_for(folder, judged):
    judged(0.5, 0.2, 0.1, KeyboardInterrupt)
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "gone", *AGAIN, "--rl_steps", "3"]
    assert run_main(refrag_finetune.main, argv) == 130
    place = base_dir() / "checkpoints" / "refrag" / ("gone" + BEST)
    place.rename(place.with_name("elsewhere"))
    judged(0.1, 0.3)
    ask(folder, "gone", *AGAIN, "--rl_steps", "4", "--resume", "true")
    assert steps_of("gone")[-1] == "step_000004"


def test_more_supervised_steps_behind_rewards_are_refused(folder, capsys):
    ask(folder, "more")
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "more", "--num_steps", "4", "--resume", "true"]
    capsys.readouterr()
    assert run_main(refrag_finetune.main, argv) == 2
    error = capsys.readouterr().err
    assert "refrag/more learns from rewards behind step 2 of more-sft" in error and "--tag more-2" in error
    assert steps_of("more-sft")[-1] == "step_000002"
    printed = ask(folder, "more", "--resume", "true")
    assert "nothing to do" in printed and "--num_steps 4" not in printed


def test_flags_of_traces_are_said_to_do_nothing_without_them(folder, capsys):
    unused = {"stages": "chains1", "reading_share": "0.5", "matrix_lr": "0.1", "decision_weight": "1",
              "eval_every": "9", "grad_accum_steps": "2", "lora_lr": "0.1"}
    argv = [*FAST.split(), "--knowledge_base", "somewhere", *AGAIN,
            *itertools.chain.from_iterable((f"--{name}", value) for name, value in unused.items())]
    refrag_finetune.check_settings(load_config(refrag_finetune.CONFIG, argv, prog="x"))
    printed = capsys.readouterr().out
    assert all(f"--{name} has no effect with --num_steps 0" in printed for name in unused)
    assert "--rl_lr" not in printed and "--weight_decay" not in printed


def test_rewards_learn_from_questions_of_which_nothing_but_the_answers_is_known(folder):
    records = [json.loads(line) for line in (folder / "queries_train.jsonl").read_text().splitlines()]
    bare = [{name: one[name] for name in ("id", "question", "answers")} for one in records]
    write_jsonl(folder / "bare.jsonl", bare)
    flags = [*AGAIN, "--questions", f"{folder}/bare.jsonl", "--world_share", "0"]
    printed = ask(folder, "bare", *flags, "--log_episodes", "99")
    assert re.search(r"; \d+ that only rewards can teach; \d+ kept for validation", printed)
    asked = {json.loads(line)["question_id"] for line in log_path("bare").read_text().splitlines()}
    assert asked <= {one["id"] for one in bare} and any(one["answers"] for one in bare if one["id"] in asked)
    # traces come of worlds where no question has steps
    assert "its share goes to practice worlds" in ask(folder, "traced", "--questions", f"{folder}/bare.jsonl")

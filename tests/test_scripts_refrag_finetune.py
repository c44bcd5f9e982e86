"""refrag_finetune: two parts that are what they say, flags with an effect, runs that go on, and faults in words."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from refrag_stubs import FAST, ask, hash_of, log_of, make_refrag_place, meta_of, steps_of

from nanochat.common import base_dir, run_main
from nanochat.config import load_config
from nanochat.refrag import monitors
from nanochat.refrag.rewards import REWARDS
from scripts import refrag_finetune, refrag_replay
from scripts.early_stop import BEST
from scripts.refrag_finetune import REWARD_SETTINGS
from scripts.refrag_rewards import policy_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refrag")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_refrag_place(folder)
        yield folder


@pytest.fixture(scope="module")
def plain(folder):
    return ask(folder, "plain", "--seed", "0")


def test_the_supervised_part_is_the_run_without_rewards(folder, plain):
    ask(folder, "traces", "--use_rewards", "false")
    assert (hash_of("traces"), log_of("traces")) == (hash_of("plain-sft"), log_of("plain-sft"))
    assert meta_of("traces")["from"] == {"source": "rag", "tag": "loose", "step": 1}


def test_rewards_go_on_from_the_supervised_part_and_say_how(folder, plain):
    assert "Rewards: gated, learned with rloo, 4 questions x 3 episodes per step" in plain
    assert "Gate" not in plain and "Development set, " in plain and " before rewards" in plain
    assert "Next: python -m scripts.chat_cli" in plain and "--source refrag" in plain
    assert meta_of("plain")["from"] == {"source": "refrag", "tag": "plain-sft", "step": 2}
    assert meta_of("plain")["data"] == meta_of("plain-sft")["data"] == {"quoted_share": 1.0}
    steps = [record for record in log_of("plain") if "reward_mean" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(record["logprob_gap"] < 1e-4 and record["leaked_tokens"] == 0 for record in steps)
    assert {"kl", "even_share", "entropy_decision", "grad_norm", "rate"} <= steps[0].keys()
    assert any("dev_accuracy" in record and "dev_em_2" in record for record in log_of("plain"))


def test_the_same_command_gives_the_same_weights(folder, plain):
    ask(folder, "again")
    assert hash_of("again") == hash_of("plain") and log_of("again") == log_of("plain")


# flags of the supervised part
SUPERVISED = {
    "max_hops": ["--max_hops", "1"], "top_k_per_hop": ["--top_k_per_hop", "3"], "stages": ["--stages", "chains2"],
    "world_share": ["--world_share", "0.2"], "reading_share": ["--reading_share", "0"],
    "device_batch_size": ["--device_batch_size", "3"],
    "max_seq_len": ["--max_seq_len", "150"], "context_weight": ["--context_weight", "0"],
    "decision_weight": ["--decision_weight", "5"], "init_lr_frac": ["--init_lr_frac", "0.1"],
    "matrix_lr": ["--matrix_lr", "0.001"], "seed": ["--seed", "1"],
    "source": ["--source", "base", "--source_tag", "good"], "retriever_type": ["--retriever_type", "simple"],
    "cloze_per_document": ["--cloze_per_document", "3", "--world_share", "0.2", "--questions", ""],
    "validation_share": ["--validation_share", "0.4", "--world_share", "0.2"],
    "questions": ["--questions", "{folder}/few.jsonl", "--world_share", "0.2"], "num_steps": ["--num_steps", "1"],
    "chat_share": ["--base_tasks", "Jsonl:{folder}/chats.jsonl", "--chat_share", "0.3"],
}


@pytest.mark.parametrize("name", SUPERVISED)
def test_every_flag_of_the_supervised_part_changes_what_is_learned(folder, plain, name):
    lines = (folder / "queries_train.jsonl").read_text().splitlines()[:8]
    (folder / "few.jsonl").write_text("\n".join(lines))
    flags = [flag.format(folder=folder) for flag in SUPERVISED[name]]
    ask(folder, f"s-{name}", "--use_rewards", "false", *flags)
    assert hash_of(f"s-{name}") != hash_of("plain-sft")


# flags of the part with rewards that PolicySettings takes; that each setting changes what is learned is tested there
SETTINGS = {
    "rl_algo": ["--rl_algo", "grpo"], "rl_steps": ["--rl_steps", "1"],
    "questions_per_step": ["--questions_per_step", "3"], "group_size": ["--group_size", "4"],
    "updates_per_rollout": ["--updates_per_rollout", "2"], "temperature": ["--temperature", "0.6"],
    "max_query_tokens": ["--max_query_tokens", "2"], "max_answer_tokens": ["--max_answer_tokens", "3"],
    "gold_steps": ["--gold_steps", "0"], "gold_weight": ["--gold_weight", "0.9"], "max_hops": ["--max_hops", "1"],
    "reward_mode": ["--reward_mode", "legacy"], "answer_threshold": ["--answer_threshold", "0.7"],
    "reward_weights": ["--reward_weights", "0,0,1"], "top_k_per_hop": ["--top_k_per_hop", "1"],
    "seed": ["--seed", "1"], "log_episodes": ["--log_episodes", "1"], "device_batch_size": ["--device_batch_size", "2"],
}
# those that change what is learned without being a setting
REWARDED = {
    "rl_lr": ["--rl_lr", "1e-3"], "kl": ["--kl", "9"], "search_noise": ["--search_noise", "0.9"],
    "rl_steps": ["--rl_steps", "1"], "rl_algo": ["--rl_algo", "ppo"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_flag_of_the_part_with_rewards_is_a_setting(name):
    before, after = (policy_settings(load_config(refrag_finetune.CONFIG, [*FAST.split(), *flags], prog="x"))
                     for flags in ([], SETTINGS[name]))
    assert before != after


def again(folder, tag, *flags):
    """The part with rewards behind the supervised part of `plain`, without the knowledge base."""
    return ask(folder, tag, "--source", "refrag", "--source_tag", "plain-sft", "--num_steps", "0", "--world_share", "1",
               "--dev_questions", "4", *flags)


@pytest.fixture(scope="module")
def rewarded(folder, plain):
    again(folder, "rewarded")
    return [record["loss"] for record in log_of("rewarded") if "loss" in record]


@pytest.mark.parametrize("name", REWARDED)
def test_every_flag_of_the_part_with_rewards_changes_what_is_learned(folder, rewarded, name):
    again(folder, f"r-{name}", *REWARDED[name])
    assert [record["loss"] for record in log_of(f"r-{name}") if "loss" in record] != rewarded


def test_every_setting_of_rewards_is_tried_or_has_a_test_of_its_own():
    others = {"guard_weight", "gate", "monitors", "rl_eval_every", "dev_questions", "early_stop_patience",
              "log_episodes"}
    assert (set(SETTINGS) | set(REWARDED) | others) - set(SUPERVISED) == set(REWARD_SETTINGS)
    own = set(refrag_finetune.RefragFinetuneConfig.__annotations__)
    tried = set(SUPERVISED) | set(REWARD_SETTINGS)
    assert own - tried == {"knowledge_base", "source_tag", "use_rewards", "base_tasks", "task_samples", "lora_lr"}


def test_rewards_alone_repeat_what_the_whole_run_did(folder, plain):
    again(folder, "alone", "--world_share", "0.7", "--dev_questions", "8")
    assert [record.get("loss") for record in log_of("alone")] == [record.get("loss") for record in log_of("plain")]
    assert not (base_dir() / "checkpoints" / "refrag" / "alone-sft").exists()


def test_the_gate_keeps_the_supervised_model(folder, plain):
    printed = again(folder, "gated", "--gate", "strict", "--dev_questions", "16")
    assert "Rewards would teach this model nothing: refrag/gated is the supervised one" in printed
    assert "right answers where all evidence was shown: 0.00, at least 0.80 is needed" in printed
    assert hash_of("gated") == hash_of("plain-sft") and steps_of("gated") == ["step_000000"]
    assert meta_of("gated")["gate"]["em_with_evidence"] == 0.0


def test_the_best_checkpoint_is_what_the_tag_means(folder, plain):
    printed = again(folder, "best", "--rl_steps", "3", "--rl_eval_every", "1", "--rl_lr", "0.03")
    errors = {record["step"]: record["dev_error"] for record in log_of("best") if "dev_error" in record}
    errors[0] = 1 - float(re.search(r"questions: (\S+) ", printed)[1])
    best = int(re.search(r"at the best step, (\d+)", printed)[1])
    assert errors[best] == pytest.approx(min(errors.values()), abs=5e-4) and len(errors) == 4
    assert steps_of("best")[-1] == f"step_{best:06d}"
    assert not (base_dir() / "checkpoints" / "refrag" / ("best" + BEST)).exists()


def test_patience_ends_the_part_with_rewards(folder, plain):
    again(folder, "patient", "--rl_steps", "5", "--rl_eval_every", "1", "--early_stop_patience", "2", "--rl_lr",
          "0")
    assert max(record["step"] for record in log_of("patient")) == 2, "at a rate of 0 nothing gets better"


def test_a_cut_run_goes_on_to_the_same_weights(folder, plain):
    flags = ("--rl_steps", "4", "--rl_eval_every", "2", "--keep_checkpoints", "0", "--guard_weight", "9", "--monitors",
             "say")
    again(folder, "whole", *flags)
    again(folder, "half", *flags)
    kept = base_dir() / "checkpoints" / "refrag"
    # as if the run had been killed behind its first checkpoint
    for tag in ("half", "half.1"):
        folder_of = kept / tag
        if folder_of.is_dir() and (folder_of / "step_000002").is_dir() and (folder_of / "step_000004").is_dir():
            shutil.copytree(folder_of / "step_000002", kept / "cut" / "step_000002")
    meta_path = kept / "cut" / "step_000002" / "meta.json"
    meta_path.write_text(meta_path.read_text().replace('"tag": "half"', '"tag": "cut"'))
    printed = again(folder, "cut", *flags, "--resume", "true")
    assert "Resuming refrag/cut at step 2 of 4" in printed
    last = {tag: next(kept / name / "step_000004" for name in (tag, f"{tag}.1", f"{tag}.2")
                      if (kept / name / "step_000004").is_dir()) for tag in ("whole", "cut")}
    hashes = {json.loads((path / "meta.json").read_text())["files"]["model.safetensors"]["sha256"]
              for path in last.values()}
    assert len(hashes) == 1


def test_a_finished_run_has_nothing_to_do(folder, plain):
    again(folder, "ended", "--rl_lr", "0", "--rl_steps", "3", "--rl_eval_every", "1")
    printed = again(folder, "ended", "--rl_lr", "0", "--rl_steps", "3", "--rl_eval_every", "1", "--resume")
    assert "nothing to do" in printed


def test_supervised_and_rewarded_parts_resume_in_one_command(folder, plain):
    ask(folder, "both")
    printed = ask(folder, "both", "--resume", "true")
    assert "refrag/both-sft is already at step 2 of 2" in printed and "nothing to do" in printed


def test_episodes_are_logged_and_replayed(folder, plain, capsys):
    again(folder, "logged", "--log_episodes", "2")
    assert run_main(refrag_replay.main, ["--tag", "logged"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Episode ") == 4 and "always: the question itself" in printed
    again(folder, "unlogged", "--log_episodes", "0")
    assert run_main(refrag_replay.main, ["--tag", "unlogged"]) == 2


def test_development_questions_and_evaluations_are_as_many_as_asked_for(folder, plain):
    printed = again(folder, "dev", "--dev_questions", "12", "--rl_eval_every", "1")
    assert "Development set, 12 questions" in printed
    assert [record["step"] for record in log_of("dev") if "dev_error" in record] == [1, 2]


def test_monitors_say_and_act(folder, plain, monkeypatch):
    always = monitors.Signal(lambda history: "a test says so" if history.updates else "", ("pause",))
    monkeypatch.setattr(monitors, "SIGNALS", {"always": always})
    printed = again(folder, "acting", "--rl_steps", "5")
    assert "Alarm at step 1, always: a test says so; training pauses" in printed
    assert "Paused after step 2 of 5: always: a test says so" in printed
    printed = again(folder, "saying", "--rl_steps", "2", "--monitors", "say")
    assert "training pauses with --monitors act" in printed and "Paused" not in printed
    assert "Alarm" not in again(folder, "off", "--rl_steps", "2", "--monitors", "off")


def test_two_processes_ask_their_own_questions_and_stay_alike(folder, plain):
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(folder / "base"), "PYTHONPATH": str(ROOT)}
    flags = ["--source", "refrag", "--source_tag", "plain-sft", "--num_steps", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
               "scripts.refrag_finetune", *FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "two", *flags]
    finished = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "2 process(es)" in finished.stdout
    losses = [record["loss"] for record in log_of("two") if "loss" in record]
    assert len(losses) == 2 and losses != [record["loss"] for record in log_of("plain") if "loss" in record]


BAD = {
    "max_hops": (["--max_hops", "0"], "--max_hops is 0, must be at least 1"),
    "stages": (["--stages", "chains9"], "Unknown stage 'chains9'"),
    "few hops": (["--stages", "chains3", "--max_hops", "2"], "--max_hops 2 is too few for the stages chains3"),
    "weights": (["--reward_mode", "legacy", "--reward_weights", "a,b,c"], "--reward_weights 'a,b,c' are not numbers"),
    "nan": (["--reward_mode", "legacy", "--reward_weights", "nan,0,0"], "--reward_weights are nan, 0.0, 0.0"),
    "threshold": (["--answer_threshold", "1.5"], "--answer_threshold is 1.5"),
    "group": (["--group_size", "1"], "--rl_algo rloo compares the episodes of a question, but --group_size is 1"),
    "temperature": (["--temperature", "0"], "--temperature is 0.0"),
    "noise": (["--search_noise", "2"], "--search_noise is 2.0"),
    "shard": (["--shard", "true"], "--shard does not go with --use_rewards"),
    "nothing": (["--num_steps", "0"], "--num_steps 0 leaves out the supervised part"),
    "itself": (["--source", "refrag", "--source_tag", "x", "--tag", "x"], "--source refrag goes on from refrag/x "),
    "its traces": (["--source", "refrag", "--source_tag", "bad-sft"], "goes on from refrag/bad-sft and would write"),
    "slots": (["--max_hops", "3", "--top_k_per_hop", "20"], "but a model can tell 32 apart"),
    "kb": (["--knowledge_base", "nowhere"], "Knowledge base not found: nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_named_before_anything_is_learned(folder, plain, name, capsys):
    flags, message = BAD[name]
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "bad", *flags]
    assert run_main(refrag_finetune.main, argv) == 2
    assert message in capsys.readouterr().err
    assert not (base_dir() / "checkpoints" / "refrag" / "bad").exists()


def test_a_reward_that_is_no_number_stops_the_run_and_leaves_the_last_checkpoint(folder, plain, monkeypatch, capsys):
    real, calls = REWARDS["gated"], []

    def breaks(trace, reference, settings):
        calls.append(1)
        return {"answer": float("nan")} if len(calls) > 60 else real(trace, reference, settings)

    monkeypatch.setitem(REWARDS, "gated", breaks)
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", "broken", "--source", "refrag", "--source_tag",
            "plain-sft", "--num_steps", "0", "--rl_steps", "60", "--rl_eval_every", "1", "--world_share", "1",
            "--dev_questions", "4"]
    assert run_main(refrag_finetune.main, argv) == 2
    assert "The reward gated gave nan" in capsys.readouterr().err
    assert steps_of("broken"), "what was saved before stays"


def test_a_knowledge_base_that_answers_nothing_is_practised_with(folder, plain):
    lines = [json.loads(line) for line in (folder / "queries_train.jsonl").read_text().splitlines()[:12]]
    for record in lines:
        record.update(answers=[], supporting_ids=[])
    (folder / "nothing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    printed = ask(folder, "nothing", "--questions", f"{folder}/nothing.jsonl", "--world_share", "0.5")
    assert "Development set, " in printed


def test_a_flag_without_effect_is_said(folder, plain):
    printed = ask(folder, "said", "--use_rewards", "false", "--rl_algo", "grpo")
    assert "--rl_algo has no effect with --use_rewards false" in printed
    assert "--reward_weights has no effect with --reward_mode gated" in again(folder, "said2", "--reward_weights",
                                                                              "1,0,0")

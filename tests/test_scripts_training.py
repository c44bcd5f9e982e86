"""The training journey on a tiny scale: tokenizer, base, mid, RAG, evaluation, one answer; resuming; every sentence."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nanochat.common import run_main, write_jsonl
from nanochat.retrieval import Document, KnowledgeBase
from scripts import base_train, chat_cli, mid_train, rag_eval, rag_finetune, tok_train
from tasks.worlds import WorldConfig, make_world

SHAPE = ["--n_embd", "16", "--n_head", "2", "--n_kv_head", "1", "--mlp_hidden", "16", "--d_state", "4", "--headdim",
         "16", "--sequence_len", "320"]
FAST = ["--tag", "tiny", "--device", "cpu", "--warmup_steps", "0"]


@dataclass
class Chain:
    """The folder of one journey and what each script printed."""

    folder: Path
    printed: dict[str, str]

    @property
    def rag(self):
        """Arguments of rag_finetune for this knowledge base."""
        return ["--knowledge_base", str(self.folder / "kb"), "--base_tasks", "", *FAST]


def run(main, *argv):
    """Exit code 0, and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*map(str, argv)]) == 0
    return printed.getvalue()


def steps_of(chain, source, tag="tiny"):
    return sorted(path.name for path in (chain.folder / "base" / "checkpoints" / source / tag).glob("step_*"))


def parameters(chain, source, tag="tiny", step=None):
    step = step or steps_of(chain, source, tag)[-1]
    return load_file(chain.folder / "base" / "checkpoints" / source / tag / step / "model.safetensors")


def difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def meta(chain, source, tag="tiny"):
    folder = chain.folder / "base" / "checkpoints" / source / tag / steps_of(chain, source, tag)[-1]
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Every script once, in the order of a newcomer."""
    folder = tmp_path_factory.mktemp("journey")
    world = make_world(WorldConfig(seed=11, num_entities=16, questions_per_entity=2))
    write_jsonl(folder / "documents.jsonl", world.documents)
    write_jsonl(folder / "queries_train.jsonl", [question.to_dict() for question in world.questions])
    KnowledgeBase.build([Document.from_dict(record) for record in world.documents], folder / "kb", "simple")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        printed = {}
        texts = f"{folder / 'documents.jsonl'},{folder / 'queries_train.jsonl'}"
        printed["tok"] = run(tok_train.main, "--input", texts, "--vocab_size", 900)
        printed["base"] = run(base_train.main, *FAST, *SHAPE, "--input", texts, "--num_steps", 3, "--block_pattern",
                              "M,T", "--device_batch_size", 2, "--validation_rows", 2, "--practice_share", 0.5)
        result = Chain(folder, printed)
        mid = [*FAST, "--source", "base", "--stages", "recall,facts", "--device_batch_size", 4, "--max_seq_len", 320]
        printed["mid"] = run(mid_train.main, *mid, "--num_steps", 4, "--save_every", 2, "--eval_every", 2,
                             "--keep_checkpoints", 0)
        printed["rag"] = run(rag_finetune.main, *result.rag, "--source", "mid", "--num_steps", 2)
        printed["eval"] = run(
            rag_eval.main, "--knowledge_base", folder / "kb", "--questions", folder / "queries_train.jsonl",
            "--tag", "tiny", "--max_questions", 6, "--max_tokens", 8, "--output", folder / "report",
        )
        printed["chat"] = run(chat_cli.main, "--knowledge_base", folder / "kb", "--tag", "tiny", "--max_tokens", 8,
                              "--question", world.questions[0].question)
        yield result


def test_every_script_leaves_its_checkpoint_and_names_the_next_command(chain):
    assert (chain.folder / "base" / "tokenizer" / "tokenizer.json").is_file()
    assert steps_of(chain, "base") == ["step_000003"]
    assert steps_of(chain, "mid") == ["step_000002", "step_000004"]
    assert steps_of(chain, "rag") == ["step_000002"]
    for name, command in [("tok", "scripts.base_train"), ("base", "scripts.mid_train"), ("mid", "scripts.rag_finetune"),
                          ("rag", "scripts.chat_cli")]:
        assert f"Next: python -m {command}" in chain.printed[name].splitlines()[-1]
    assert "retrieved " in chain.printed["eval"] and (chain.folder / "report" / "results.json").is_file()
    assert chain.printed["chat"].strip()


def test_every_stage_changed_the_parameters_and_kept_the_words(chain):
    assert difference(parameters(chain, "base"), parameters(chain, "mid")) > 1e-4
    assert difference(parameters(chain, "mid"), parameters(chain, "rag")) > 1e-6
    words = [(chain.folder / "base" / "checkpoints" / source / "tiny" / steps_of(chain, source)[-1] / "tokenizer.json")
             .read_text(encoding="utf-8") for source in ("base", "mid", "rag")]
    assert words[0] == words[1] == words[2]


def test_a_checkpoint_knows_its_settings_and_where_it_came_from(chain):
    assert meta(chain, "mid")["from"] == {"source": "base", "tag": "tiny", "step": 3}
    assert meta(chain, "rag")["from"] == {"source": "mid", "tag": "tiny", "step": 4}
    assert meta(chain, "rag")["knowledge_base"] == KnowledgeBase.open(chain.folder / "kb").fingerprint
    assert meta(chain, "rag")["config"]["knowledge_base"] == str(chain.folder / "kb")
    assert meta(chain, "mid")["curriculum"] == {"stages": ["recall", "facts"], "index": 0, "is_passed": False}


def test_metrics_are_written_as_lines_of_json(chain):
    for source in ("base", "mid", "rag"):
        lines = (chain.folder / "base" / "metrics" / f"{source}_tiny.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert any("loss" in record for record in records) and any("accuracy" in record for record in records)


def test_rows_are_no_longer_than_the_model_reads(chain):
    assert "Rows have 320 tokens, not 4096 (--max_seq_len)" in chain.printed["rag"]
    assert "Rows have" not in chain.printed["mid"]


def copy_checkpoint(chain, source, step, tag):
    """What an interrupted run of that tag would have left behind."""
    folder = chain.folder / "base" / "checkpoints" / source
    shutil.copytree(folder / "tiny" / step, folder / tag / step)


def test_a_resumed_mid_run_ends_where_a_straight_one_does(chain):
    copy_checkpoint(chain, "mid", "step_000002", "again")
    config = meta(chain, "mid")["config"] | {"tag": "again", "resume": True}
    (chain.folder / "again.json").write_text(json.dumps(config), encoding="utf-8")
    printed = run(mid_train.main, chain.folder / "again.json")
    assert "Resuming mid/again at step 2 of 4" in printed
    assert difference(parameters(chain, "mid"), parameters(chain, "mid", "again")) < 1e-6
    assert meta(chain, "mid", "again")["from"] == meta(chain, "mid")["from"]
    assert {name: meta(chain, "mid", "again")["progress"][name] for name in ("step", "tokens", "smoothed_loss")} == (
        pytest.approx({name: meta(chain, "mid")["progress"][name] for name in ("step", "tokens", "smoothed_loss")}))
    assert "mid/again is already at step 4 of 4: nothing to do" in run(mid_train.main, chain.folder / "again.json")


@pytest.mark.parametrize("source", ["base", "rag"])
def test_a_resumed_run_continues(chain, source):
    step = steps_of(chain, source)[-1]
    copy_checkpoint(chain, source, step, "longer")
    config = meta(chain, source)["config"] | {"tag": "longer", "resume": True, "num_steps": 4}
    (chain.folder / "longer.json").write_text(json.dumps(config), encoding="utf-8")
    main = {"base": base_train.main, "rag": rag_finetune.main}[source]
    printed = run(main, chain.folder / "longer.json", "--weight_decay", "0.5")
    assert f"Resuming {source}/longer at step {int(step[5:])} of 4" in printed
    assert "new since the checkpoint:" in printed and "weight_decay 0.0 -> 0.5" in printed
    assert steps_of(chain, source, "longer")[-1] == "step_000004"
    assert difference(parameters(chain, source), parameters(chain, source, "longer")) > 0


def test_a_base_run_is_not_resumed_with_another_shape(chain, capsys):
    capsys.readouterr()
    assert run_main(base_train.main, [*FAST, "--resume", "--practice_share", "1", "--n_embd", "32", "--headdim", "16",
                                      "--n_head", "2", "--n_kv_head", "1"]) == 2
    assert "--n_embd is 32, but base/tiny was begun with 16" in capsys.readouterr().err


def test_nothing_to_resume_starts_at_the_beginning_and_a_passed_gate_ends_training(chain, monkeypatch):
    monkeypatch.setattr("nanochat.rag.curriculum.answer_accuracy", lambda *args, **options: 1.0)
    argv = ["--tag", "gate", "--source_tag", "tiny", "--device", "cpu", "--stages", "recall,facts",
            "--device_batch_size", "2", "--max_seq_len", "320", "--num_steps", "8", "--eval_every", "1", "--save_every",
            "1", "--resume"]
    printed = run(mid_train.main, *argv)
    assert "No checkpoint of mid/gate to resume: starting at step 0" in printed
    assert "next_stage facts" in printed and steps_of(chain, "mid", "gate")[-1] == "step_000002"
    # saved before its gate was passed, so the gate is tried again, and nothing else
    assert "mid/gate has reached its goal at step 2: nothing to do" in run(mid_train.main, *argv)
    assert steps_of(chain, "mid", "gate")[-1] == "step_000002"
    other = [*argv, "--save_every", "0", "--tag", "gate2"]
    run(mid_train.main, *other)
    assert "mid/gate2 has passed its gates at step 2: nothing to do" in run(mid_train.main, *other)


def test_a_second_run_of_a_tag_sets_the_first_aside(chain):
    short = [*chain.rag, "--tag", "twice", "--source_tag", "tiny", "--num_steps"]
    run(rag_finetune.main, *short, 2)
    first = parameters(chain, "rag", "twice")
    assert "The earlier checkpoints of rag/twice are kept as --tag twice.1" in run(rag_finetune.main, *short, 1)
    assert steps_of(chain, "rag", "twice") == ["step_000001"]
    assert difference(parameters(chain, "rag", "twice.1"), first) == 0


@pytest.fixture(scope="module")
def plain(chain):
    """A fine-tuning run to compare others with: its arguments, steps and parameters."""
    argv = [*chain.rag, "--source_tag", "tiny", "--world_share", "0", "--device_batch_size", "10",
            "--cloze_per_document", "0", "--validation_share", "0", "--top_k", "3"]
    run(rag_finetune.main, *argv, "--tag", "plain")
    return argv, steps_of(chain, "rag", "plain"), parameters(chain, "rag", "plain")


@pytest.mark.parametrize(("flags", "steps"), [
    (["--top_k", "1"], 4), (["--max_doc_length", "25"], 4), (["--init_lr_frac", "0.5"], 4), (["--num_epochs", "2"], 7),
    (["--device_batch_size", "16"], 2), (["--grad_accum_steps", "2"], 2), (["--max_seq_len", "120"], 4),
    (["--seed", "1"], 4), (["--world_share", "0.5"], 7), (["--context_weight", "0"], 4),
])
def test_every_flag_changes_something(chain, plain, flags, steps):
    argv, plain_steps, plain_parameters = plain
    assert plain_steps == ["step_000004"], "32 questions in batches of 10"
    tag = flags[0].strip("-") + flags[1]
    run(rag_finetune.main, *argv, "--tag", tag, *flags)
    assert steps_of(chain, "rag", tag) == [f"step_{steps:06d}"]
    assert difference(parameters(chain, "rag", tag), plain_parameters) > 1e-6


def test_the_same_flags_give_the_same_parameters(chain, plain):
    argv, _, plain_parameters = plain
    run(rag_finetune.main, *argv, "--tag", "same")
    assert difference(parameters(chain, "rag", "same"), plain_parameters) == 0

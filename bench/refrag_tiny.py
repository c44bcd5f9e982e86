"""Asking again with the preset `tiny`: three seeds from a reader to the numbers, on worlds that nobody has seen.

    python -m bench.refrag_tiny --preset data/tiny_preset --output data/refrag_tiny

Begins with the readers that bench.tiny_preset left (rag/tiny-SEED). Each seed learns traces, then rewards; then the
same where traces are incomplete, beside rejection sampling (raft) with as many rollouts: a noisier retriever, one hop
more than the traces had, and a knowledge base of which nothing is known but questions, in other words than those of
traces, and answers ("unlabelled"). "random" is a control: rewards that know nothing. Stopped and started again it goes
on.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.refrag_measures import Records, Setting, ask_all, gains, load, make_unlabelled, numbers, say, work_folder
from bench.stages import run_stages
from nanochat.checkpoint_files import META_FILE
from nanochat.checkpoint_manager import find_checkpoint
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import ConfigError, UserError


@dataclass(frozen=True, kw_only=True)
class RefragTinyConfig:
    preset: str = "data/tiny_preset"  # folder of bench.tiny_preset, with a reader for each seed
    output: str = "data/refrag_tiny"  # working folder: minutes, records of every question
    seeds: tuple[int, ...] = (0, 1, 2)  # one model each
    num_steps: int = 0                # of the supervised part; 0: as configs/tiny_refrag.py has it
    rl_steps: int = 0                 # with rewards; 0: as configs/tiny_refrag.py has it
    noise: float = 0.25               # of the noisier retriever
    per_length: int = 60              # test questions of each length and world
    parts: str = "plain,noisy,longer,unlabelled,random"  # which rewards are learned, and where
    raft: str = "noisy,longer,unlabelled"  # of these the parts with rejection sampling beside
    gate: str = "off"                 # strict or off: whether rewards are learned in any case
    results: str = "bench/results/refrag_tiny.json"  # where the numbers go


CONFIG = RefragTinyConfig
PARTS = ("plain", "noisy", "longer", "unlabelled", "random")
SHORT = ("--stages", "chains1,chains2")  # traces of one hop less than the questions of the part with rewards
SHOWN = ("em_1", "em_2", "em_3", "all_evidence_2", "abstain_f1", "valid", "searches_over")


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.refrag_tiny", description=__doc__ or "")
    for name in ("parts", "raft"):
        unknown = [part for part in getattr(config, name).split(",") if part and part not in PARTS]
        if unknown:
            raise ConfigError(f"Unknown part {unknown[0]!r}", hint=f"--{name} takes parts of {','.join(PARTS)}")
    seeds = {str(seed): one(config, seed) for seed in config.seeds}
    told = {name: getattr(config, name) for name in ("noise", "gate", "parts", "raft", "rl_steps", "num_steps")}
    write_json(Path(config.results), {"config": told, "seeds": seeds})
    return 0


def stages_of(config: RefragTinyConfig, seed: int, kb: str, unlabelled: str = "") -> dict[str, list[str]]:
    """name -> arguments of refrag_finetune, in order; names are tags. `unlabelled`: the knowledge base of that part."""
    base = ["configs/tiny_refrag.py", "--knowledge_base", kb, "--cloze_per_document", "0", "--seed", str(seed),
            "--resume", "true"]
    supervised = ["--source", "rag", "--source_tag", f"tiny-{seed}", "--use_rewards", "false",
                  *(["--num_steps", str(config.num_steps)] if config.num_steps else [])]
    parts, beside = config.parts.split(","), config.raft.split(",")
    stages: dict[str, list[str]] = {}
    if parts != ["longer"]:
        stages["sft"] = [*base, *supervised]
    if "longer" in parts:
        stages["short"] = [*base, *supervised, *SHORT]
    rewarded = [*base, "--num_steps", "0", "--source", "refrag", "--gate", config.gate,
                *(["--rl_steps", str(config.rl_steps)] if config.rl_steps else [])]
    for algorithm in ("rloo", "raft"):
        how = [*rewarded, "--rl_algo", algorithm]
        mine = [part for part in parts if algorithm == "rloo" or part in beside]
        if "plain" in mine:
            stages[algorithm] = [*how, "--source_tag", f"{seed}-sft"]
        if "noisy" in mine:
            stages[f"{algorithm}-noisy"] = [*how, "--source_tag", f"{seed}-sft", "--search_noise", str(config.noise)]
        if "longer" in mine:
            # gold episodes of the longer questions would be traces that the supervised part did not have
            stages[f"{algorithm}-longer"] = [*how, "--source_tag", f"{seed}-short", "--gold_steps", "0"]
        if "unlabelled" in mine:
            # who is right one time in ten would rather abstain than learn: a wrong answer costs little here
            stages[f"{algorithm}-unlabelled"] = [*how, "--source_tag", f"{seed}-sft", "--knowledge_base", unlabelled,
                                                 "--world_share", "0.25", "--answer_threshold", "0.05"]
        if "random" in mine:
            # the likelihood guard knows which episodes are right, and so is no random reward
            stages[f"{algorithm}-random"] = [*how, "--source_tag", f"{seed}-sft", "--reward_mode", "random",
                                             "--guard_weight", "0"]
    return {name: [*argv, "--tag", f"{seed}-{name}"] for name, argv in stages.items()}


def one(config: RefragTinyConfig, seed: int) -> dict[str, Any]:
    """All stages of one seed, and what came of them."""
    base = Path(config.preset) / f"seed_{seed}"
    if not (base / "base" / "checkpoints" / "rag" / f"tiny-{seed}").is_dir():
        raise UserError(f"No reader rag/tiny-{seed} in {base / 'base'}",
                        hint=f"make it: python -m bench.tiny_preset --output {config.preset}")
    os.environ["NANOCHAT_BASE_DIR"] = str(base / "base")
    work = work_folder(config.output, seed)
    parts = config.parts.split(",")
    unlabelled = str(make_unlabelled(work / "unlabelled", seed)) if "unlabelled" in parts else ""
    stages = stages_of(config, seed, str(base / "world" / "knowledge_base"), unlabelled)
    minutes = run_stages({name: ["scripts.refrag_finetune", *argv] for name, argv in stages.items()}, work,
                         f"seed {seed}")
    setting = Setting(per_length=config.per_length)
    noisy = Setting(per_length=config.per_length, noise=config.noise)
    unseen = Setting(per_length=config.per_length, wordings="held_out")
    single = Setting(per_length=config.per_length, max_hops=1)
    # name -> model and how it is asked
    questions = {
        "sft": ("sft", setting), "rloo": ("rloo", setting), "raft": ("raft", setting),
        "single search": ("sft", single), "sft, other wordings": ("sft", unseen),
        "rloo, other wordings": ("rloo", unseen), "noisy sft": ("sft", noisy), "noisy rloo": ("rloo-noisy", noisy),
        "noisy raft": ("raft-noisy", noisy), "longer sft": ("short", setting), "longer rloo": ("rloo-longer", setting),
        "longer raft": ("raft-longer", setting), "longer sft, single search": ("short", single),
        "noisy rloo on clean": ("rloo-noisy", setting), "unlabelled rloo, other wordings": ("rloo-unlabelled", unseen),
        "unlabelled raft, other wordings": ("raft-unlabelled", unseen),
        "unlabelled rloo on plain": ("rloo-unlabelled", setting), "random": ("rloo-random", setting),
    }
    asked = {name: ask(work, f"{seed}-{model}", how, seed) for name, (model, how) in questions.items()
             if model in stages}
    found = {name: numbers(records) for name, records in asked.items()}
    changes = {name: gains(asked[before], asked[after]) for name, before, after in (
        ("rewards", "sft", "rloo"), ("rejection", "sft", "raft"), ("rewards, noisy", "noisy sft", "noisy rloo"),
        ("rejection, noisy", "noisy sft", "noisy raft"), ("rewards, longer", "longer sft", "longer rloo"),
        ("rejection, longer", "longer sft", "longer raft"), ("lost elsewhere", "sft", "noisy rloo on clean"),
        ("rewards, unlabelled", "sft, other wordings", "unlabelled rloo, other wordings"),
        ("rejection, unlabelled", "sft, other wordings", "unlabelled raft, other wordings"),
        ("lost elsewhere, unlabelled", "sft", "unlabelled rloo on plain"), ("random rewards", "sft", "random"))
        if before in asked and after in asked}
    print0(f"seed {seed}, minutes: {', '.join(f'{name} {value:.1f}' for name, value in minutes.items())}")
    for name, table in found.items():
        print0(say(name, table, SHOWN))
    for name, table in changes.items():
        print0(say(name, table, ("em", "all_evidence", "abstains")))
    return {"minutes": minutes, "numbers": found, "gains": changes}


def ask(work: Path, tag: str, setting: Setting, seed: int) -> Records:
    """Records of a model, from the file where they are kept, or asked now if the model was trained again since."""
    name = f"{tag}-{setting.max_hops}-{setting.noise}-{setting.wordings}-{setting.per_length}.json"
    path = work / "records" / name
    trained = (find_checkpoint("refrag", tag) / META_FILE).stat().st_mtime
    if path.exists() and path.stat().st_mtime >= trained:
        return json.loads(path.read_text(encoding="utf-8"))
    records = ask_all(load(tag), setting, seed=seed)
    write_json(path, records)
    return records


if __name__ == "__main__":
    raise SystemExit(run_main(main))

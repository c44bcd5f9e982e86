"""Do monitors hear what goes wrong, and does the run recover? Seeded runs with provoked faults, and healthy ones.

    python -m bench.refrag_faults --tag 0-sft

Each run learns from rewards, from the same supervised model; after `--begin` healthy updates a fault sets in: a bug in
the reward, a rate ten times too high, or tokens of the documents trained as if they had been chosen. A run has
recovered when the weights that it ends with, those of the moment or after a pause the best ones, are at most 2 points
worse than the model it began with, on questions that it never saw. Some of the runs are made once more with nobody
watching: what monitors save is the difference. Stopped and started again it goes on with the run it was in; with
--half 0 and --half 1 two processes share the runs.
"""

import copy
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_manager import load_model
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig
from nanochat.errors import UserError
from nanochat.rag.curriculum import FIRST_SEED, HELD_OUT_SEED
from nanochat.refrag import policy_training
from nanochat.refrag.control import Control
from nanochat.refrag.measuring import QuestionSet, measure
from nanochat.refrag.policy_loss import LossSettings
from nanochat.refrag.policy_settings import PolicySettings
from nanochat.refrag.policy_training import PolicyTraining
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.rewards import REWARDS, RewardSettings
from nanochat.refrag.sources import DrawSettings, PoolSource, WorldSource
from nanochat.refrag.trace import Reference, Trace
from nanochat.training import build_optimizer, fit
from scripts.refrag_learner import rates
from tasks.world_chains import CHAIN_WORLD, ChainConfig


@dataclass(frozen=True, kw_only=True)
class RefragFaultsConfig:
    tag: str = "default-sft"          # supervised refrag checkpoint
    runs: int = 20                    # with faults, the kinds in turn
    healthy: int = 5                  # without
    unwatched: int = 10               # of those with faults, once more with --monitors off
    steps: int = 40                   # updates of a run
    begin: int = 12                   # healthy updates before the fault
    eval_every: int = 4               # updates between evaluations
    questions: int = 8                # per update
    group_size: int = 6               # episodes per question
    dev_questions: int = 48           # of the development set
    test_questions: int = 150         # of the test before and after a run
    max_hops: int = 2                 # searches per episode
    rate: float = 3e-4                # of all weights, as configs/tiny_refrag.py has it
    output: str = "data/refrag_faults"  # working folder: what every run found
    half: int = -1                    # 0 or 1: only every second run, and no summary; -1: all
    results: str = "bench/results/refrag_faults.json"  # where the numbers go


CONFIG = RefragFaultsConfig


@dataclass
class Run:
    """One training, with a switch for its fault."""

    config: RefragFaultsConfig
    fault: str
    seed: int
    mode: str = "act"  # of its monitors
    is_faulty: bool = False
    best: float = -1.0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)  # of the training, then
    first_alarm: tuple[int, str] | None = None  # after the fault set in
    false_alarms: int = 0


def reward_bugs() -> Mapping[str, Any]:
    """Rewards with a bug, as they happen."""
    gated = REWARDS["gated"]

    def abstaining_pays(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
        return {"abstention": 1.0} if trace.abstained else gated(trace, reference, settings)

    def swapped(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
        return {name: -value for name, value in gated(trace, reference, settings).items()}

    def any_answer(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
        return {"answer": 0.0 if trace.abstained else 1.0}

    return {"reward: abstaining pays": abstaining_pays, "reward: sign": swapped, "reward: any answer": any_answer}


FAULTS = (*reward_bugs(), "rate x10", "masked tokens leak")


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.refrag_faults", description=__doc__ or "")
    if config.half not in (-1, 0, 1):
        raise UserError(f"--half is 0 or 1, or -1 for all runs; not {config.half}")
    model, tokenizer, _ = load_model("refrag", "cpu", "train", config.tag)
    kinds = [FAULTS[number % len(FAULTS)] for number in range(config.runs)]
    runs = [Run(config, fault, seed) for seed, fault in enumerate([*kinds, *["none"] * config.healthy])]
    runs += [Run(config, fault, seed, mode="off") for seed, fault in enumerate(kinds[: config.unwatched])]
    rows = []
    for number, run in enumerate(runs):
        if config.half in (-1, number % 2):
            rows.append(kept(run, model, tokenizer))
            print0(", ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                             for name, value in rows[-1].items()))
    if config.half >= 0:
        return 0
    found = summary(rows)
    print0(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    write_json(Path(config.results), {**found, "runs": rows})
    return 0


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the runs, and how many points those with faults lost, watched and not."""
    watched = [row for row in rows if row["monitors"] == "act"]
    faulty, healthy = ([row for row in watched if (row["fault"] == "none") == is_healthy]
                       for is_healthy in (False, True))
    alone = [row for row in rows if row["monitors"] == "off"]
    same = [row for row in faulty if row["seed"] in {other["seed"] for other in alone}]
    return {"alarms": mean(row["alarm"] != "" for row in faulty),
            "recovered": mean(row["recovered"] for row in faulty),
            "recovered_unwatched": mean(row["recovered"] for row in alone),
            "false_alarms": mean(row["false_alarms"] > 0 for row in watched),
            "healthy_lost": mean(not row["recovered"] for row in healthy),
            "lost": mean(row["before"] - row["after"] for row in same),
            "lost_unwatched": mean(row["before"] - row["after"] for row in alone)}


def kept(run: Run, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What the run found, made now unless it was made before with the same settings."""
    settings = {name: value for name, value in asdict(run.config).items()
                if name not in ("runs", "healthy", "unwatched", "output", "half", "results")}
    name = f"{run.fault.replace(': ', '-').replace(' ', '_')}-{run.seed}-{run.mode}.json"
    path = Path(run.config.output) / name
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"] == settings:
            return record["found"]
    found = one(run, copy.deepcopy(model), tokenizer)
    write_json(path, {"settings": settings, "found": found})
    return found


def one(run: Run, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Train with the fault, and compare what is left with what was there."""
    config = run.config
    hops = HopConfig(max_hops=config.max_hops, top_k=3)
    settings = PolicySettings(questions_per_step=config.questions, group_size=config.group_size, num_batches=4,
                              num_steps=config.steps, hops=hops, max_answer_tokens=32, gold_steps=0, seed=run.seed,
                              log_episodes=0)
    engine = Engine(model, tokenizer)
    dev = question_sets(config, HELD_OUT_SEED + 4 * 10**8, config.dev_questions)
    test = question_sets(config, HELD_OUT_SEED + 5 * 10**8, config.test_questions)

    def accuracy(sets: Sequence[QuestionSet]) -> float:
        return measure(engine, sets, hops, rewards=settings.rewards, max_tokens=32)["dev_accuracy"]

    before = accuracy(test)
    control = Control(LossSettings(), mode=run.mode, say=lambda line: print0(f"    {line}"))
    optimizer = build_optimizer(model, **rates(config.rate))
    training = PolicyTraining(engine, world_source(config), settings, control,
                              frozen=copy.deepcopy(model).eval().requires_grad_(False))

    def roll_back() -> None:
        load(run, model, optimizer)
        training.forget_episodes()
        training.restore_memory(run.memory)

    control.roll_back = roll_back

    def evaluate(step: int) -> dict[str, float]:
        value = accuracy(dev)
        if value > run.best:
            run.best, run.memory = value, copy.deepcopy(training.record())
            run.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        control.evaluated(step, {"dev_accuracy": value})
        return {"dev_accuracy": value}

    def look(record: Mapping[str, Any]) -> None:
        if "loss" in record:
            training.after_update(record["step"], record)
        for alarm in control.alarms[:1]:
            if run.is_faulty and run.first_alarm is None:
                run.first_alarm = (record["step"], alarm.signal)
            run.false_alarms += not run.is_faulty
        control.alarms.clear()

    evaluate(0)
    real = REWARDS["gated"], policy_training.walk_masks
    try:
        fit(model, switched(run, training), training.loss, optimizer, num_steps=config.steps, log=look, log_every=1,
            grad_accum_steps=settings.num_batches, loss_sigmas=0.0, evaluate=evaluate, eval_every=config.eval_every,
            schedule=lambda step: control.rate * (10.0 if run.is_faulty and run.fault == "rate x10" else 1.0),
            is_interrupted=lambda: bool(control.paused))
    finally:
        REWARDS["gated"], policy_training.walk_masks = real
    if control.paused:
        load(run, model, optimizer)
    after = accuracy(test)
    step, signal = run.first_alarm or (-1, "")
    return {"fault": run.fault, "seed": run.seed, "monitors": run.mode, "alarm": signal,
            "delay": step - config.begin if signal else -1, "paused": control.paused.partition(":")[0],
            "before": before, "after": after, "recovered": after >= before - 0.02, "false_alarms": run.false_alarms}


def switched(run: Run, training: PolicyTraining) -> Any:
    """The batches of the training; the fault is switched on in the step where it begins."""
    def batches(step: int, micro: int) -> Any:
        if step == run.config.begin and run.fault != "none" and not run.is_faulty:
            run.is_faulty = True
            if run.fault in reward_bugs():
                REWARDS["gated"] = reward_bugs()[run.fault]
            elif run.fault == "masked tokens leak":
                policy_training.walk_masks = leaking(policy_training.walk_masks, run.seed)
        return training.batches(step, micro)

    return batches


def leaking(walk: Any, seed: int) -> Any:
    """Walks that take one in twenty of the given tokens for chosen ones."""
    def wrong(engine: Engine, ids: Sequence[int], mask: Sequence[int], hops: HopConfig) -> Iterator[Any]:
        rng = random.Random(f"{seed}:{len(ids)}")
        taken = [one or int(place > 0 and rng.random() < 0.05) for place, one in enumerate(mask)]
        return walk(engine, ids, taken, hops)

    return wrong


def world_of(config: RefragFaultsConfig, seed: int) -> ChainWorld:
    lengths = tuple(range(1, config.max_hops + 1))
    return ChainWorld(seed, CHAIN_WORLD, chains=ChainConfig(seed=seed, hops=lengths, per_length=100))


def world_source(config: RefragFaultsConfig) -> WorldSource:
    return WorldSource(lambda seed: world_of(config, seed).traces, DrawSettings(max_hops=config.max_hops),
                       first=FIRST_SEED, past=HELD_OUT_SEED)


def question_sets(config: RefragFaultsConfig, seed: int, count: int) -> list[QuestionSet]:
    source = PoolSource(world_of(config, seed).traces, DrawSettings(max_hops=config.max_hops))
    drawn = source.draw("faults", count)
    return [QuestionSet(questions=drawn.questions, search=drawn.search)]


def load(run: Run, model: Any, optimizer: Any) -> None:
    """The best weights so far; the optimizer forgets."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(run.weights[name])
    for part in optimizer.optimizers:
        part.state.clear()


def mean(found: Any) -> float:
    values = list(map(float, found))
    return sum(values) / max(1, len(values))


if __name__ == "__main__":
    raise SystemExit(run_main(main))

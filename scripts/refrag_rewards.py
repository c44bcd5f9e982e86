"""The part of refrag_finetune that learns from rewards: its questions, its gate, its checkpoints."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nanochat.checkpoint_files import read_meta
from nanochat.checkpoint_manager import find_checkpoint, load_model, save_checkpoint
from nanochat.common import print0, rank
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig
from nanochat.errors import CheckpointNotFound, ConfigError
from nanochat.evaluation.statistics import wilson_interval
from nanochat.rag.curriculum import FIRST_SEED, HELD_OUT_SEED
from nanochat.refrag.advantages import RL_ALGORITHMS
from nanochat.refrag.control import Control
from nanochat.refrag.episode_log import EpisodeLog, log_path
from nanochat.refrag.measuring import QuestionSet, gate, measure
from nanochat.refrag.policy_loss import LossSettings
from nanochat.refrag.policy_settings import PolicySettings
from nanochat.refrag.policy_training import PolicyTraining
from nanochat.refrag.practice import PRACTICE_WORLD, ChainWorld, practice_chains
from nanochat.refrag.rewards import RewardSettings
from nanochat.refrag.sources import DrawSettings, MixedSource, PoolSource, WorldSource
from nanochat.refrag.trace_config import TraceConfig
from nanochat.training.precision import autocast, pick_dtype
from scripts.early_stop import EarlyStop
from scripts.refrag_data import changed, make_reward_source, world_retriever
from scripts.refrag_learner import RewardLearner
from scripts.training_run import find_start, row_length, set_aside, train
from tasks.world_chains import CHAIN_WORLD, ChainConfig

DEV_SEED = HELD_OUT_SEED + 10**8  # worlds of the development set, and of the gate behind it
DEV_WORLDS = 4
PRACTICE_ABSENT = 0.34  # of the questions of a step: without an answer; of traces it is .4
FOREVER = 10**9  # evaluations without a better one after which nothing ends
GAP_LIMITS = {torch.float32: 0.01, torch.bfloat16: 0.1}  # nats that sampling and training may differ by


def policy_settings(config: Any) -> PolicySettings:
    """Raises ConfigError for rewards that cannot be."""
    try:
        weights = tuple(float(part) for part in config.reward_weights.split(","))
    except ValueError:
        raise ConfigError(f"--reward_weights {config.reward_weights!r} are not numbers",
                          hint="answer, relevance, efficiency: --reward_weights 0.6,0.3,0.1") from None
    # so many documents per search are refused here, not where the first gold episode shows them
    TraceConfig(max_hops=config.max_hops, top_k=config.top_k_per_hop)
    how = RL_ALGORITHMS[config.rl_algo]
    if how.compares and config.group_size < 2:
        raise ConfigError(f"--rl_algo {config.rl_algo} compares the episodes of a question, but --group_size is 1",
                          hint="--group_size 8, or --rl_algo reinforce")
    return PolicySettings(
        algorithm=config.rl_algo, num_steps=config.rl_steps, questions_per_step=config.questions_per_step,
        group_size=config.group_size, num_batches=-(-config.questions_per_step // config.device_batch_size),
        updates=config.updates_per_rollout, temperature=config.temperature, gold_steps=config.gold_steps,
        max_answer_tokens=config.max_answer_tokens, gold_weight=config.gold_weight, seed=config.seed,
        hops=HopConfig(max_hops=config.max_hops, top_k=config.top_k_per_hop, max_query_tokens=config.max_query_tokens),
        rewards=RewardSettings(mode=config.reward_mode, answer_threshold=config.answer_threshold, weights=weights,
                               seed=config.seed),
        log_episodes=config.log_episodes,
    )


def learn_from_rewards(
    config: Any, manager: Any, data: Any, unseen: Any, device: torch.device, *, source_tag: str
) -> dict[str, Any]:
    """Reinforcement learning from refrag/SOURCE_TAG, into refrag/TAG; returns the last metrics.

    Where the gate finds that rewards can teach nothing, refrag/TAG is the supervised model.
    """
    settings = policy_settings(config)
    config = changed(config, source="refrag", source_tag=source_tag, compile="false", eval_every=config.rl_eval_every,
                     save_every=config.rl_eval_every)
    early_stop = EarlyStop("refrag", config.tag, config.early_stop_patience or FOREVER, metric="dev_error")
    early_stop.recover()
    if config.resume and early_stop.is_finished():
        print0(f"refrag/{config.tag} has ended and holds its best checkpoint, step {early_stop.finished_step()}: "
               f"nothing to do. To go on from there: --source refrag --source_tag {config.tag} --tag {config.tag}-2 "
               "--num_steps 0")
        return {}
    if config.resume and _was_refused(config.tag):
        if config.gate != "off":
            print0(f"refrag/{config.tag} did not pass the gate and is the supervised model: nothing to do. To learn "
                   "from rewards all the same: --gate off")
            return {}
        # there is nothing to go on from
        config = changed(config, resume=False)
    start = find_start(config, "refrag", device)
    frozen, _, supervised = load_model("refrag", device, "eval", start.origin["tag"], start.origin["step"])
    taught = supervised.get("data", {})  # rewards change no answer into one in other words
    engine = Engine(start.model, start.tokenizer)
    sets = development_sets(config, manager, data)
    _say(config, settings)
    if start.state is None and config.gate != "off" and not _passes(config, engine, sets, settings, start):
        return {}
    context = autocast(device, pick_dtype(config.dtype, device))
    control = Control(LossSettings(kl=config.kl, guard=config.guard_weight, temperature=config.temperature,
                                   is_supervised=settings.how.is_supervised), mode=config.monitors, say=print0)
    policy = PolicyTraining(
        engine, training_source(config, manager, data, unseen), settings, control, frozen=frozen.requires_grad_(False),
        log=EpisodeLog(log_path(config.tag), start.tokenizer, start_step=start.state["step"] if start.state else 0),
        context=context, gap_limit=GAP_LIMITS.get(pick_dtype(config.dtype, device), 0.1))
    learner = RewardLearner(policy, settings.num_batches, config.rl_lr)
    control.roll_back = lambda: learner.roll_back(config.tag)
    if start.state is not None:
        policy.restore(start.state["meta"].get("rewards", {}))
    evaluate = _evaluation(engine, sets, settings)

    def look(step: int, metrics: Mapping[str, Any]) -> bool:
        # after the early stop has kept what is the best: what an alarm does may put other weights in its place
        control.evaluated(step, {**metrics, "dev_accuracy": 1 - metrics["dev_error"]})
        return bool(control.paused)

    result = train(
        config, "refrag", start.model, start.tokenizer, policy.batches, num_steps=config.rl_steps,
        row_len=row_length(config, start.model), state=start.state, evaluate=evaluate, stop=look,
        early_stop=early_stop, learner=learner, steps_flag="--rl_steps",
        extra_meta=lambda: {"from": dict(start.origin), "rewards": policy.record(), "data": taught})
    _say_gain(control, early_stop, sets)
    return result.get("metrics", {})


def training_source(config: Any, manager: Any, data: Any, unseen: Any) -> Any:
    """Questions of new worlds, and of the knowledge base."""
    draws = DrawSettings(max_hops=config.max_hops, top_k=config.top_k_per_hop, unanswerable_share=PRACTICE_ABSENT)
    worlds = WorldSource(lambda seed: _world(config, seed, is_practice=True).traces, draws,
                         first=FIRST_SEED, past=HELD_OUT_SEED)
    mine = make_reward_source(data.questions, manager, draws, unseen=unseen) if config.world_share < 1 else None
    if mine is None:
        return worlds
    return MixedSource([worlds, mine], [config.world_share, 1 - config.world_share])


def development_sets(config: Any, manager: Any, data: Any) -> dict[str, list[QuestionSet]]:
    """Questions that are never trained on: of worlds of their own ("dev_"), and of the knowledge base ("kb_")."""
    draws = DrawSettings(max_hops=config.max_hops, top_k=config.top_k_per_hop)
    each = -(-config.dev_questions // DEV_WORLDS)
    worlds = [PoolSource(_world(config, DEV_SEED + number).traces, draws) for number in range(DEV_WORLDS)]
    sets = {"dev_": [_set(source, each) for source in worlds]}
    mine = make_reward_source(data.validation_questions, manager, draws) if config.world_share < 1 else None
    if mine is not None:
        sets["kb_"] = [_set(mine, config.dev_questions)]
    return sets


def _set(source: PoolSource, count: int) -> QuestionSet:
    drawn = source.draw("development", count)
    return QuestionSet(questions=drawn.questions, search=drawn.search)


def _world(config: Any, seed: int, *, is_practice: bool = False) -> ChainWorld:
    """A world of the development set, or one as traces are practised in."""
    lengths = tuple(range(1, min(4, config.max_hops) + 1))
    each = max(8, -(-2 * config.questions_per_step // len(lengths)), -(-config.dev_questions // (2 * len(lengths))))
    chains = practice_chains(lengths, each, seed) if is_practice else ChainConfig(
        seed=seed, hops=lengths, per_length=each)
    return ChainWorld(seed, PRACTICE_WORLD if is_practice else CHAIN_WORLD, world_retriever(config),
                      noise=config.search_noise, chains=chains)


def _evaluation(
    engine: Engine, sets: Mapping[str, list[QuestionSet]], settings: PolicySettings
) -> Callable[[int], dict[str, Any]]:
    """Greedy episodes; `dev_error` is what the best checkpoint has least of: 1 less the accuracy of all questions."""
    counts = {prefix: sum(len(part.questions) for part in parts) for prefix, parts in sets.items()}

    def evaluate(step: int) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for prefix, parts in sets.items():
            metrics |= measure(engine, parts, settings.hops, rewards=settings.rewards, prefix=prefix,
                               max_tokens=settings.max_answer_tokens)
        accuracy = sum(metrics[f"{prefix}accuracy"] * count for prefix, count in counts.items()) / sum(counts.values())
        return metrics | {"dev_error": 1 - accuracy}

    return evaluate


def _passes(
    config: Any, engine: Engine, sets: Mapping[str, list[QuestionSet]], settings: PolicySettings, start: Any
) -> bool:
    """Whether rewards can teach this model anything; if not, it is kept as it is under the run's tag."""
    numbers, missed = gate(
        engine, [part for parts in sets.values() for part in parts], settings.hops, rewards=settings.rewards,
        max_tokens=settings.max_answer_tokens, temperature=settings.temperature, seed=settings.seed)
    print0("Gate before rewards: " + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
    for sentence in missed:
        print0(f"  {sentence}")
    if not missed:
        return True
    print0(f"Rewards would teach this model nothing: refrag/{config.tag} is the supervised one. More steps or better "
           "traces help; to learn from rewards all the same: --gate off")
    if rank() == 0:
        set_aside("refrag", config.tag)
    save_checkpoint("refrag", config.tag, 0, model=start.model, tokenizer=start.tokenizer,
                    meta={"from": dict(start.origin), "missed": missed, "gate": {
                        name: value for name, value in numbers.items() if math.isfinite(value)}})
    return False


def _was_refused(tag: str) -> bool:
    """Whether a tag holds what the gate kept as it was."""
    try:
        return "missed" in read_meta(find_checkpoint("refrag", tag))
    except CheckpointNotFound:
        return False


def _say(config: Any, settings: PolicySettings) -> None:
    per_step = f"{settings.questions_per_step} questions x {settings.group_size} episodes"
    print0(f"Rewards: {config.reward_mode}, learned with {config.rl_algo}, {per_step} per step and process, up to "
           f"{config.max_hops} searches of {config.top_k_per_hop} documents")
    if config.reward_mode == "legacy":
        print0("Warning: the weighted sum pays for wrong answers (0.39 with one good document) and as much for an "
               "abstention as for a wrong answer without documents; use it for comparison only")
    elif config.reward_mode in ("random", "constant"):
        print0(f"Warning: --reward_mode {config.reward_mode} is a control run: what improves is no work of rewards")


def _say_gain(control: Control, early_stop: EarlyStop, sets: Mapping[str, list[QuestionSet]]) -> None:
    values = control.monitors.history.dev("dev_accuracy")
    if not values or early_stop.best_step < 0:
        return
    total = sum(len(part.questions) for parts in sets.values() for part in parts)
    told = []
    for value in (values[0], 1 - early_stop.best):
        low, high = wilson_interval(round(value * total), total)
        told.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
    print0(f"Development set, {total:,} questions: {told[0]} before rewards, {told[1]} at the best step, "
           f"{early_stop.best_step}; {control.num_alarms} alarm(s)")

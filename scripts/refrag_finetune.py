"""Train a model to ask again: traces of several searches first, then reinforcement learning with rewards (REFRAG).

    python -m scripts.refrag_finetune --knowledge_base data/my_kb --source rag --max_hops 3 --use_rewards true
"""

from dataclasses import dataclass
from typing import Any, Literal

from nanochat.common import print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import CheckpointNotFound, ConfigError, KnowledgeBaseNotFound
from scripts.refrag_data import chain_curriculum, changed, check_stages, make_trace_pool, refrag_data
from scripts.training_run import TuningConfig, check_numbers, find_start, row_length, say_unused, train
from scripts.training_tasks import load_chats

SFT = "-sft"  # what follows the tag of the supervised part where rewards come after it


@dataclass(frozen=True, kw_only=True)
class RefragFinetuneConfig(TuningConfig):
    """Settings of scripts.refrag_finetune."""

    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    questions: str = ""               # file of questions or episodes, or a folder of both; empty: beside the folder
    cloze_per_document: int = 4       # fill-in questions made from each document; 0 for none
    validation_share: float = 0.1     # share of documents whose questions are kept for validation
    source: str = "mid"               # checkpoint to start from: base, mid, rag, refrag, or hf:FOLDER_OR_ID
    source_tag: str = ""              # its tag; empty: the same as --tag
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # practice worlds: bm25 for dense ones
    max_hops: int = 3                 # searches per question
    top_k_per_hop: int = 3            # documents per search; traces draw 1 ... top_k_per_hop
    use_rewards: bool = True          # reinforcement learning after the supervised part; false: plain SFT on traces
    stages: str = "chains1,chains2,chains3,chains4"  # traces to practise, as far as --max_hops goes: longer chains
    world_share: float = 0.7          # share of questions from generated worlds, new ones at every step
    reading_share: float = 0.3        # share of plain reading among the traces of worlds
    base_tasks: str = ""              # conversations to mix in: NAME[:PATH][:WEIGHT], comma-separated
    task_samples: int = 10000         # conversations per base task
    chat_share: float = 0.15          # share of examples from base tasks
    num_steps: int = 1500             # optimizer steps of the supervised part; 0: none, --source refrag goes on
    device_batch_size: int = 2        # conversations per GPU and step; lower it when memory runs out
    max_seq_len: int = 4096           # tokens of one conversation; documents are dropped to fit
    context_weight: float = 0.1       # loss weight of tokens that are not answers
    decision_weight: float = 2.0      # loss weight of the token that decides between answering and abstaining
    init_lr_frac: float = 0.02        # all rates of the supervised part are multiplied by this
    matrix_lr: float = 9e-3           # peak rate of linear layers (Muon) at a factor of 1
    lora_lr: float = 1e-2             # peak rate of adapters (AdamW) at a factor of 1
    rl_algo: Literal["rloo", "grpo", "dr_grpo", "ppo", "reinforce", "raft"] = "rloo"  # how rewards are learned from
    rl_steps: int = 200               # optimizer steps with rewards
    rl_lr: float = 1e-5               # peak rate of the part with rewards, of all that is trained (AdamW)
    questions_per_step: int = 16      # questions of a step with rewards, per process
    group_size: int = 8               # episodes per question
    updates_per_rollout: int = 0      # steps that use the same episodes; 0: as the algorithm has it
    temperature: float = 1.0          # that episodes are sampled with
    max_query_tokens: int = 32        # of a query
    max_answer_tokens: int = 64       # of an answer, in training
    kl: float = 0.02                  # weight of the divergence from the supervised model
    guard_weight: float = 1.0         # weight of a fall of the likelihood of right episodes
    gold_steps: int = 50              # first steps with rewards in which a gold episode goes with each question
    gold_weight: float = 0.2          # of a token of these, compared with one of an episode
    reward_mode: Literal["gated", "legacy", "random", "constant"] = "gated"  # what an episode is worth
    reward_weights: str = "0.6,0.3,0.1"  # of answer, relevance, efficiency with --reward_mode legacy
    answer_threshold: float = 0.33    # answering pays when it is right with a higher probability than this
    search_noise: float = 0.0         # share of the documents that searches in practice worlds find by mistake
    gate: Literal["strict", "off"] = "strict"  # start with rewards only where they can teach something
    monitors: Literal["act", "say", "off"] = "act"  # what alarms do
    rl_eval_every: int = 25           # steps with rewards between evaluations and checkpoints
    dev_questions: int = 96           # questions of the development set, from worlds of its own
    early_stop_patience: int = 0      # evaluations without a better one that end the part with rewards; 0 never does
    log_episodes: int = 8             # episodes per step kept for replay


CONFIG = RefragFinetuneConfig


def check_settings(config: RefragFinetuneConfig) -> None:
    """Raises ConfigError or KnowledgeBaseNotFound for settings that cannot be; says which have no effect."""
    check_numbers(config, "max_hops", "top_k_per_hop", "device_batch_size", "max_seq_len", "rl_steps",
                  "questions_per_step", "group_size", "max_query_tokens", "max_answer_tokens", "rl_eval_every",
                  "dev_questions")
    if config.source not in ("base", "mid", "rag", "refrag") and not config.source.startswith("hf:"):
        raise ConfigError(f"Checkpoint source {config.source!r} is not known to refrag_finetune",
                          hint="use one of base, mid, rag, refrag, hf:FOLDER_OR_ID")
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb")
    source_tag = config.source_tag or config.tag
    own = {config.tag, config.tag + SFT} if config.use_rewards and config.num_steps else {config.tag}
    if config.source == "refrag" and source_tag in own:
        rewards_alone = ", or learn from rewards alone: --num_steps 0" if source_tag != config.tag else ""
        raise ConfigError(f"--source refrag goes on from refrag/{source_tag} and would write over it",
                          hint=f"give the new run a name of its own: --source_tag {source_tag} --tag {config.tag}-2"
                          + rewards_alone)
    if not config.num_steps and (config.source != "refrag" or not config.use_rewards):
        raise ConfigError("--num_steps 0 leaves out the supervised part, which only a refrag checkpoint has behind it",
                          hint="--source refrag --use_rewards true, or --num_steps 1500")
    if config.use_rewards and config.shard:
        raise ConfigError("--shard does not go with --use_rewards: episodes are sampled with whole weights",
                          hint="--use_rewards false --shard true, then rewards without --shard")
    if not 0 <= config.search_noise <= 1:
        raise ConfigError(f"--search_noise is {config.search_noise}, must lie in 0..1", hint="--search_noise 0.2")
    if config.use_rewards and not config.temperature:
        raise ConfigError("--temperature is 0.0, so that all episodes of a question would be the same",
                          hint="--temperature 1.0")
    if not config.num_steps:
        say_unused(config, "with --num_steps 0", *(name for name in TRACE_SETTINGS if origins(config)[name] == "flag"))
    elif not config.base_tasks:
        say_unused(config, "without --base_tasks", "chat_share", "task_samples")
    if not config.use_rewards:
        # a config file is for both parts
        say_unused(config, "with --use_rewards false",
                   *(name for name in REWARD_SETTINGS if origins(config)[name] == "flag"))
    elif config.reward_mode != "legacy":
        say_unused(config, f"with --reward_mode {config.reward_mode}", "reward_weights")


TRACE_SETTINGS = (
    "stages", "reading_share", "base_tasks", "chat_share", "task_samples", "max_seq_len", "context_weight",
    "decision_weight", "init_lr_frac", "matrix_lr", "embedding_lr", "scalar_lr", "lora_lr", "grad_accum_steps",
    "eval_every", "save_every", "spike_loss", "data_workers",
)
REWARD_SETTINGS = (
    "rl_algo", "rl_steps", "rl_lr", "questions_per_step", "group_size", "updates_per_rollout", "temperature",
    "max_query_tokens", "max_answer_tokens", "kl", "guard_weight", "gold_steps", "gold_weight", "reward_mode",
    "reward_weights", "answer_threshold", "search_noise", "gate", "monitors", "rl_eval_every", "dev_questions",
    "early_stop_patience", "log_episodes",
)


def main(argv: list[str]) -> int:
    config = load_config(RefragFinetuneConfig, argv, prog="scripts.refrag_finetune", description=__doc__ or "")
    check_settings(config)
    # imported here so that --help does not wait for it
    from nanochat.retrieval import RetrievalManager

    manager = RetrievalManager(config.retriever_type, config.knowledge_base)
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.training.distributed import init_distributed, shutdown_distributed

    stages = check_stages(config)
    device = pick_device(config.device)
    set_cpu_threads()
    init_distributed(device)
    if config.use_rewards:
        from scripts.refrag_rewards import learn_from_rewards, policy_settings

        # refused now, not when the traces are learned
        policy_settings(config)
        check_steps(config)
    data, unseen = refrag_data(config, manager)
    source_tag = config.source_tag
    if config.num_steps:
        supervised = changed(config, tag=config.tag + SFT) if config.use_rewards else config
        learn_traces(supervised, manager, data, unseen, stages, device)
        source_tag = supervised.tag
    if config.use_rewards:
        learn_from_rewards(config, manager, data, unseen, device, source_tag=source_tag)
    shutdown_distributed()
    print0(f"Next: python -m scripts.chat_cli --knowledge_base {config.knowledge_base} --source refrag "
           f"--tag {config.tag} --max_hops {config.max_hops}")
    return 0


def check_steps(config: RefragFinetuneConfig) -> None:
    """Raises ConfigError where --resume would train the supervised part on, without the rewards that followed it."""
    from nanochat.checkpoint_files import read_meta
    from nanochat.checkpoint_manager import find_checkpoint

    if not config.resume or not config.num_steps:
        return
    try:
        begun = read_meta(find_checkpoint("refrag", config.tag)).get("from", {})
    except CheckpointNotFound:
        return
    if begun.get("tag") == config.tag + SFT and config.num_steps > begun["step"]:
        raise ConfigError(f"refrag/{config.tag} learns from rewards behind step {begun['step']} of {begun['tag']}, "
                          f"which --num_steps {config.num_steps} would train on without it",
                          hint=f"--num_steps {begun['step']} --resume true, or a new run: --tag {config.tag}-2")


def learn_traces(
    config: RefragFinetuneConfig, manager: Any, data: Any, unseen: Any, stages: list[str], device: Any
) -> None:
    """The supervised part: traces of the stages, in checkpoints refrag/TAG."""
    from nanochat.checkpoint_manager import require_mamba
    from nanochat.rag.held_out import HeldOut
    from nanochat.rag.quoting import quoted_share

    start = find_start(config, "refrag", device)
    require_mamba(start.model.config, config.source, config.source_tag or config.tag)
    chats = load_chats(config, is_explicit=origins(config)["base_tasks"] != "default")
    row_len = row_length(config, start.model)
    pool = make_trace_pool(data.questions, manager, unseen=unseen)
    curriculum = chain_curriculum(config, stages, start.tokenizer, row_len, data, pool, chats)
    validation = HeldOut(curriculum, make_trace_pool(data.validation_questions, manager), data.validation_episodes)
    if start.state is not None and not curriculum.restore(start.state["meta"].get("curriculum", {})):
        print0(f"refrag/{config.tag} was trained in other stages: going on with the first of {', '.join(stages)}")
    train(
        config, "refrag", start.model, start.tokenizer, curriculum.batches, num_steps=config.num_steps, row_len=row_len,
        lr_frac=config.init_lr_frac, state=start.state, version=lambda: curriculum.index,
        # with rewards behind them, more steps would be another run
        steps_flag="" if config.use_rewards else "--num_steps",
        evaluate=lambda step: curriculum.evaluate(start.model, step) | validation.measure(start.model),
        extra_meta=lambda: {"curriculum": curriculum.record(), "from": dict(start.origin),
                            "knowledge_base": manager.knowledge_base.fingerprint,
                            "data": {"quoted_share": quoted_share(data.questions, data.episodes,
                                                                  manager.knowledge_base.documents)}})


if __name__ == "__main__":
    raise SystemExit(run_main(main))

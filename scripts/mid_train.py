"""Train a base model to recall and to read: practice on generated worlds, stage by stage, and general chat if any.

    python -m scripts.mid_train --source base --stages recall,facts
"""

from dataclasses import dataclass

from nanochat.common import print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError
from scripts.training_run import TuningConfig, check_numbers, find_start, row_length, say_unused, train
from scripts.training_tasks import load_chats


@dataclass(frozen=True, kw_only=True)
class MidTrainConfig(TuningConfig):
    """Settings of scripts.mid_train."""

    source: str = "base"              # checkpoint to start from; hf:FOLDER_OR_ID for a published one
    source_tag: str = ""              # its tag; empty: the same as --tag
    stages: str = "recall,keys,names,facts"  # in order, comma-separated: copy, recall, keys, names, facts, documents
    base_tasks: str = ""              # conversations to mix in: NAME[:PATH][:WEIGHT], comma-separated
    task_samples: int = 10000         # conversations per base task
    chat_share: float = 0.15          # share of examples from base tasks, once stages read
    num_steps: int = 1000             # most optimizer steps; the gate of the last stage ends training earlier
    stop_at_gate: bool = True         # stop when the last stage's gate is passed
    device_batch_size: int = 32       # examples per process and micro-batch
    max_seq_len: int = 512            # tokens of a packed row
    context_weight: float = 0.1       # loss weight of tokens that are not answers
    decision_weight: float = 2.0      # loss weight of the token that decides between answering and abstaining
    retriever_type: str = "simple"    # retriever of the practice worlds
    init_lr_frac: float = 1.0         # all rates are multiplied by this


CONFIG = MidTrainConfig


def check_settings(config: MidTrainConfig) -> list[str]:
    """The stages to practise. Raises ConfigError for settings that cannot be; says which have no effect."""
    from nanochat.rag.practice import STAGES
    from nanochat.retrieval.base import check_retriever_type

    check_numbers(config, "num_steps", "device_batch_size", "max_seq_len")
    stages = [name.strip() for name in config.stages.split(",") if name.strip()]
    unknown = [name for name in stages if name not in STAGES]
    if unknown or not stages:
        raise ConfigError(f"Unknown stage {unknown[0] if unknown else ''!r}", hint=f"there are {', '.join(STAGES)}")
    check_retriever_type(config.retriever_type)
    if all(STAGES[name].kind != "read" for name in stages):
        say_unused(config, "without a stage that reads", "base_tasks", "chat_share", "task_samples")
    elif not config.base_tasks:
        say_unused(config, "without --base_tasks", "chat_share", "task_samples")
    return stages


def main(argv: list[str]) -> int:
    config = load_config(MidTrainConfig, argv, prog="scripts.mid_train", description=__doc__ or "")
    stages = check_settings(config)
    # imported here so that --help does not wait for it
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.rag.curriculum import Curriculum, Mixture
    from nanochat.training.distributed import init_distributed, shutdown_distributed

    device = pick_device(config.device)
    set_cpu_threads()
    chats = load_chats(config, is_explicit=origins(config)["base_tasks"] != "default")
    start = find_start(config, "mid", device)
    row_len = row_length(config, start.model)
    curriculum = Curriculum(
        stages, start.tokenizer, seed=config.seed + 1, row_len=row_len, examples_per_step=config.device_batch_size,
        context_weight=config.context_weight, decision_weight=config.decision_weight,
        retriever_type=config.retriever_type,
        mixture=Mixture(chats=chats, chat_share=config.chat_share if chats else 0.0),
    )
    if start.state is not None:
        if not curriculum.restore(start.state["meta"].get("curriculum", {})):
            print0(f"mid/{config.tag} was trained in other stages: going on with the first of {config.stages}")
        if curriculum.is_passed and config.stop_at_gate:
            print0(f"mid/{config.tag} has passed its gates at step {start.state['step']}: nothing to do")
            return 0
    init_distributed(device)
    result = train(
        config, "mid", start.model, start.tokenizer, curriculum.batches, num_steps=config.num_steps, row_len=row_len,
        lr_frac=config.init_lr_frac, state=start.state, evaluate=lambda step: curriculum.evaluate(start.model, step),
        stop=(lambda step, metrics: curriculum.is_passed) if config.stop_at_gate else None,
        extra_meta=lambda: {"curriculum": curriculum.record(), "from": dict(start.origin)},
        version=lambda: curriculum.index,
    )
    shutdown_distributed()
    if result.get("metrics") and not curriculum.is_passed:
        print0(f"The gate of stage {curriculum.names[curriculum.index]} was not passed in {config.num_steps} steps; "
               "more steps will help: --num_steps")
    print0(f"Next: python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid --tag {config.tag}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))

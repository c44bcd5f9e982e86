"""Pre-train a model from scratch on plain text, with a share of copying practice.

    python -m scripts.base_train --input data/my_documents.jsonl --depth 4
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nanochat.common import print0, run_main, world_size
from nanochat.config import load_config
from nanochat.errors import ConfigError
from scripts.depth_dial import MODEL_FIELDS, follow_batch, given, model_config, put, turn_dial, with_letters
from scripts.training_run import TrainingConfig, check_numbers, resume_point, say_unused, train


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig(TrainingConfig):
    """Settings of scripts.base_train."""

    input: str = ""                   # text files, comma-separated: .jsonl(.gz) or .txt, a.jsonl:2 is read twice
    tokenizer: str = ""               # folder with tokenizer.json; empty: tokenizer in the base folder
    depth: int = 0                    # layers; sets shape, rates, batch and steps not given by hand; 0: as below
    tokens_per_parameter: float = 20.0  # with --depth, train on so many tokens per parameter
    num_tokens: int = 0               # train on so many tokens instead; 0: see --tokens_per_parameter
    practice_share: float = 0.0       # share of steps that practise copying on generated worlds; 1 with no input
    num_steps: int = 1000             # optimizer steps; given by hand it wins over --num_tokens, the batch stays
    device_batch_size: int = 8        # rows of sequence_len tokens per process and micro-batch
    validation_input: str = ""        # text files for the validation loss; empty: documents held out of --input
    validation_share: float = 0.02    # share of the documents of each file held out for the validation loss
    validation_rows: int = 128        # rows read at each evaluation, the same ones every time
    context_weight: float = 0.1       # loss weight of the given part of copying practice
    # with --depth also spread, first, last, attention or mamba
    block_pattern: str = "M,T,M,T"    # one letter per layer, T attention, M Mamba-2; or the name of a preset
    attention_share: float = 0.25     # share of T in spread, first and last
    n_embd: int = 128                 # model width
    n_head: int = 4                   # query heads of T blocks
    n_kv_head: int = 4                # key/value heads of T blocks
    head_dim: int = 0                 # size of a head; 0: n_embd / n_head
    mlp_hidden: int = 256             # width of the gated MLP
    rope_theta: float = 0.0           # base of rotary positions in T blocks; 0 leaves them out
    attention_conv: int = 4           # kernel of the convolution on q, k, v; 0 leaves it out
    slot_scale: float = 0.0           # share of its slot's embedding given to each token of a document; 0 leaves it out
    d_state: int = 32                 # state size per Mamba head
    headdim: int = 64                 # channels per Mamba head
    chunk_size: int = 32              # positions per chunk of the SSD scan
    sequence_len: int = 512           # tokens of a row
    init_std: float = 0.1             # standard deviation of embeddings at the start
    embedding_multiplier: float = 8.0  # embeddings enter the first layer multiplied by this


CONFIG = BaseTrainConfig


def main(argv: list[str]) -> int:
    config = load_config(BaseTrainConfig, argv, prog="scripts.base_train", description=__doc__ or "")
    check_settings(config)
    # imported here so that --help does not wait for it
    from nanochat.checkpoint_manager import load_model
    from nanochat.common import base_dir
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer
    from nanochat.training.distributed import init_distributed, shutdown_distributed
    from scripts.text_fingerprint import fingerprint, say_other_text
    from scripts.text_input import open_text

    device = pick_device(config.device)
    set_cpu_threads()
    state = resume_point(config, "base")
    if state is None:
        tokenizer = Tokenizer.load(config.tokenizer or base_dir() / "tokenizer")
        config = turn_dial(config, tokenizer.vocab_size, device)
        check_size(model_config(config, tokenizer.vocab_size))
        shape = model_config(config, tokenizer.vocab_size, tokenizer.slot_ids)
        model = LanguageModel(shape, seed=config.seed).to(device)
    else:
        model, tokenizer, _ = load_model("base", device, "train", config.tag, state["step"])
        meta = state["meta"]
        config = follow_checkpoint(config, model.config, meta.get("config", {}))
        config = follow_batch(config, meta.get("config", {}), meta.get("processes", world_size()))
        config = turn_dial(config, tokenizer.vocab_size, device)
    init_distributed(device)
    text, held_out = open_text(config, tokenizer) if config.input else (None, None)
    text_files = fingerprint(config.input, config.validation_input)
    if state is not None:
        say_other_text(state["meta"].get("text"), text_files)
    practice_share = config.practice_share if config.input else 1.0
    practice = make_practice(config, tokenizer)

    def batches(step: int, micro: int) -> Any:
        # practice is spread evenly: step s practises when the running share crosses a whole number
        is_practice = int((step + 1) * practice_share) > int(step * practice_share)
        if is_practice or text is None:
            return replace(practice.batches(step, micro), kind="copy")
        return text.batches(step, micro)

    def evaluate(step: int) -> dict[str, Any]:
        metrics = practice.evaluate(model, step) if practice_share > 0 else {}
        return metrics if held_out is None else metrics | held_out(model)

    train(config, "base", model, tokenizer, batches, num_steps=config.num_steps, row_len=config.sequence_len,
          state=state, evaluate=evaluate, extra_meta=lambda: {"text": text_files, "processes": world_size()})
    shutdown_distributed()
    print0(f"Next: python -m scripts.mid_train --source base --tag {config.tag}")
    return 0


def check_settings(config: BaseTrainConfig) -> None:
    """Raises ConfigError for settings that cannot be; says which have no effect."""
    check_numbers(config, "num_steps", "device_batch_size", "validation_rows")
    if not config.input and config.practice_share == 0:
        raise ConfigError("--input is missing", hint="name text files, or practise only: --practice_share 1")
    if not config.input:
        say_unused(config, "without --input", "validation_share", "validation_rows", "validation_input")
    if config.validation_input:
        say_unused(config, "with --validation_input", "validation_share")
    if config.practice_share == 0:
        say_unused(config, "with --practice_share 0", "context_weight")
    if not config.depth:
        say_unused(config, "without --depth", "attention_share")
    if "num_steps" in given(config) and not config.depth:
        # with --depth they still set the batch, which is that of the whole run
        say_unused(config, "with --num_steps", "num_tokens", "tokens_per_parameter")
    elif config.num_tokens:
        say_unused(config, "with --num_tokens", "tokens_per_parameter")


def make_practice(config: BaseTrainConfig, tokenizer: Any) -> Any:
    """The curriculum of copying practice."""
    from nanochat.rag.curriculum import Curriculum

    return Curriculum(
        ["copy"], tokenizer, seed=config.seed, row_len=config.sequence_len, retriever_type="simple",
        # a copying example has about half a row of tokens
        examples_per_step=2 * config.device_batch_size, context_weight=config.context_weight,
    )


def follow_checkpoint(config: BaseTrainConfig, shape: Any, before: Mapping[str, Any]) -> BaseTrainConfig:
    """Settings to resume with: the shape that nobody gave is the checkpoint's, which was begun with settings `before`.

    Raises ConfigError, which names what was given and is another model's.
    """
    from nanochat.model.config import parse_block_pattern

    chosen = [name for name in ("depth", "attention_share", *MODEL_FIELDS) if name in given(config)]
    theirs = {**before, **shape.to_dict()}
    now = {name: getattr(config, name) for name in chosen}
    if "block_pattern" in chosen:
        # a preset, or letters with blanks
        now["block_pattern"] = ",".join(parse_block_pattern(with_letters(config, "flag").block_pattern))
    for name in chosen:
        if name in theirs and now[name] != theirs[name]:
            raise ConfigError(
                f"--{name} is {getattr(config, name)}, but base/{config.tag} was begun with {theirs[name]}",
                hint=f"to go on with it: --{name} {theirs[name]}; to begin another run: --tag NAME, without --resume",
            )
    return put(config, {name: theirs[name] for name in MODEL_FIELDS}, "checkpoint")


def check_size(shape: Any) -> None:
    """Refuse a model whose weights alone are more than this machine can hold, where it is built. Raises ConfigError."""
    import torch

    from nanochat.training.memory import GB, memory_limit
    from nanochat.training.shape import count_parameters

    number, limit = count_parameters(shape), memory_limit(torch.device("cpu"))
    if 4 * number > limit:
        raise ConfigError(f"A model of {number:,} parameters takes {4 * number / GB:,.0f} GB, this machine has "
                          f"{limit / GB:,.1f} GB left", hint="choose a smaller one, e.g. --depth 4")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

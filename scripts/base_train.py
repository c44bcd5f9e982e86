"""Pre-train a model from scratch on plain text, with a share of copying practice.

    python -m scripts.base_train --input data/my_documents.jsonl --block_pattern "M,T,M,T"
"""

import math
from dataclasses import dataclass
from typing import Any

from nanochat.common import print0, run_main, world_size
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError
from scripts.training_run import TrainingConfig, check_numbers, resume_point, say_unused, train


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig(TrainingConfig):
    """Settings of scripts.base_train."""

    input: str = ""                   # text files, comma-separated: .jsonl(.gz) or .txt; empty: practice only
    tokenizer: str = ""               # folder with tokenizer.json; empty: tokenizer in the base folder
    practice_share: float = 0.0       # share of steps that practise copying on generated worlds; 1 with no input
    num_steps: int = 1000             # optimizer steps
    device_batch_size: int = 8        # rows of sequence_len tokens per process and micro-batch
    validation_share: float = 0.02    # share of the texts kept for the validation loss
    validation_rows: int = 32         # rows read at each evaluation
    context_weight: float = 0.1       # loss weight of the given part of copying practice
    block_pattern: str = "M,T,M,T"    # one letter per layer: T attention, M Mamba-2
    n_embd: int = 128                 # model width
    n_head: int = 4                   # query heads of T blocks
    n_kv_head: int = 4                # key/value heads of T blocks
    head_dim: int = 0                 # size of a head; 0: n_embd / n_head
    mlp_hidden: int = 256             # width of the gated MLP
    attention_conv: int = 4           # kernel of the convolution on q, k, v; 0 leaves it out
    d_state: int = 32                 # state size per Mamba head
    headdim: int = 64                 # channels per Mamba head
    chunk_size: int = 32              # positions per chunk of the SSD scan
    sequence_len: int = 512           # tokens of a row
    init_std: float = 0.1             # standard deviation of embeddings at the start
    embedding_multiplier: float = 8.0  # embeddings enter the first layer multiplied by this


CONFIG = BaseTrainConfig
MODEL_FIELDS = ("block_pattern", "n_embd", "n_head", "n_kv_head", "head_dim", "mlp_hidden", "attention_conv", "d_state",
                "headdim", "chunk_size", "sequence_len", "init_std", "embedding_multiplier")


def main(argv: list[str]) -> int:
    config = load_config(BaseTrainConfig, argv, prog="scripts.base_train", description=__doc__ or "")
    check_numbers(config, "num_steps", "device_batch_size", "validation_rows")
    if not config.input and config.practice_share == 0:
        raise ConfigError("--input is missing", hint="name text files, or practise only: --practice_share 1")
    if not config.input:
        say_unused(config, "without --input", "validation_share", "validation_rows")
    if config.practice_share == 0:
        say_unused(config, "with --practice_share 0", "context_weight")
    # imported here so that --help does not wait for it
    from nanochat.checkpoint_manager import load_model
    from nanochat.common import base_dir
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.model import LanguageModel, ModelConfig
    from nanochat.rag.curriculum import Curriculum
    from nanochat.tokenizer import Tokenizer
    from nanochat.training.distributed import init_distributed, shutdown_distributed

    device = pick_device(config.device)
    set_cpu_threads()
    state = resume_point(config, "base")
    if state is None:
        tokenizer = Tokenizer.load(config.tokenizer or base_dir() / "tokenizer")
        shape = {name: getattr(config, name) for name in MODEL_FIELDS}
        model = LanguageModel(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=config.seed).to(device)
    else:
        model, tokenizer, _ = load_model("base", device, "train", config.tag, state["step"])
        check_shape(config, model.config)
    init_distributed(device)
    practice_share = config.practice_share if config.input else 1.0
    practice = Curriculum(
        ["copy"], tokenizer, seed=config.seed, row_len=config.sequence_len, retriever_type="simple",
        # a copying example has about half a row of tokens
        examples_per_step=2 * config.device_batch_size, context_weight=config.context_weight,
    )
    text, held_out = _text(config, tokenizer)

    def batches(step: int, micro: int) -> Any:
        # practice is spread evenly: step s practises when the running share crosses a whole number
        is_practice = int((step + 1) * practice_share) > int(step * practice_share)
        return practice.batches(step, micro) if is_practice or text is None else text.batches(step, micro)

    def evaluate(step: int) -> dict[str, Any]:
        metrics = practice.evaluate(model, step) if practice_share > 0 else {}
        return metrics if held_out is None else metrics | held_out(model)

    train(config, "base", model, tokenizer, batches, num_steps=config.num_steps, state=state, evaluate=evaluate)
    shutdown_distributed()
    print0(f"Next: python -m scripts.mid_train --source base --tag {config.tag}")
    return 0


def check_shape(config: BaseTrainConfig, shape: Any) -> None:
    """Refuse to resume with another model than the checkpoint's. Settings that nobody gave follow the checkpoint."""
    from nanochat.model import ModelConfig

    given = [name for name in MODEL_FIELDS if origins(config)[name] != "default"]
    wanted = ModelConfig.from_dict({**shape.to_dict(), **{name: getattr(config, name) for name in given}})
    for name in given:
        if getattr(wanted, name) != getattr(shape, name):
            raise ConfigError(
                f"--{name} is {getattr(config, name)}, but base/{config.tag} was begun with {shape.to_dict()[name]}",
                hint="begin another run: --tag NAME, without --resume",
            )


def _text(config: BaseTrainConfig, tokenizer: Any) -> tuple[Any, Any]:
    """The training stream, and a function that gives the validation loss, in nats and bits per byte; None without text.
    """
    if not config.input:
        return None, None
    import random

    import torch

    from nanochat.training import language_model_loss
    from nanochat.training.text import TextStream
    from scripts.tok_train import read_all

    texts = list(read_all(config.input))
    random.Random(config.seed).shuffle(texts)
    num_held_out = max(1, round(len(texts) * config.validation_share))
    ids = tokenizer.encode_batch(texts)
    print0(f"Text: {len(texts)} pieces, {sum(map(len, ids)):,} tokens, {num_held_out} pieces for validation")
    rows = dict(bos=tokenizer.special("bos"), row_len=config.sequence_len, seed=config.seed)
    micro = config.grad_accum_steps * world_size()
    stream = TextStream(ids[num_held_out:], rows=config.device_batch_size, micro_per_step=micro, **rows)
    kept = ids[:num_held_out]
    bytes_per_token = sum(len(text.encode()) for text in texts[:num_held_out]) / max(1, sum(map(len, kept)))
    if sum(map(len, kept)) + len(kept) <= config.sequence_len:
        print0("Too little text for a validation loss: give more with --input or raise --validation_share")
        return stream, None
    held = TextStream(kept, rows=config.validation_rows, micro_per_step=1, **rows)

    @torch.no_grad()
    def validation(model: Any) -> dict[str, float]:
        model.eval()
        loss = language_model_loss(model, held.batches(0, 0).to(model.device), group=tokenizer.doc_ids).loss.item()
        return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) / bytes_per_token}

    return stream, validation


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Write a model as a folder that transformers, vLLM and llama.cpp's converter read: weights, tokenizer, chat template.

    nanochat export --to hf my_model_hf
    python -m scripts.export --to hf my_model_hf --source rag --tag d20 --dtype bfloat16
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common import print0, run_main
from nanochat.config import load_config
from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    to: tuple[str, ...] = ()          # format and folder: --to hf DIR (required)
    source: str = "rag"               # checkpoint to export: base, mid, rag, refrag or hf:FOLDER_OR_ID
    tag: str = ""                     # name of the checkpoint; empty: the most recent one
    step: int = -1                    # step of the checkpoint; -1: the last one
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights in the folder


CONFIG = ExportConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.export", description=__doc__ or "")
    if len(config.to) != 2 or config.to[0] != "hf" or not config.to[1].strip():
        raise ConfigError(f"--to is {' '.join(config.to)!r}, expected hf and a folder", hint="--to hf my_model_hf")
    folder = Path(config.to[1]).expanduser()
    from nanochat.checkpoint_manager import load_model
    from nanochat.interop.exporting import check_target, export

    check_target(folder)
    model, tokenizer, meta = load_model(
        config.source, "cpu", "eval", config.tag or None, None if config.step < 0 else config.step)
    where = config.source if config.source.startswith("hf:") else f"{meta['source']}/{meta['tag']}, step {meta['step']}"
    # a README is published: it names no folder of this machine
    origin = meta["tag"] if config.source.startswith("hf:") else where
    limits = export(model, tokenizer, folder, dtype=config.dtype, source=origin)
    size = sum(entry.stat().st_size for entry in folder.iterdir())
    print0(f"{where} -> {folder}: {model.num_parameters:,} parameters, {config.dtype}, {size / 1e6:,.1f} MB")
    for limit in limits:
        print0(f"  note: {limit}")
    print0(f"  README.md there says how to use it with transformers, vLLM and llama.cpp; here: --source hf:{folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))

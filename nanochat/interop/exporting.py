"""A native model to a folder that transformers, vLLM and llama.cpp's converter read."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nanochat.common import check_output, write_folder, write_json, write_text
from nanochat.errors import ConfigError, UnsupportedModel, UserError
from nanochat.interop.config import ARCHITECTURES, OWN_KEY
from nanochat.interop.folder import CONFIG_FILE, WEIGHTS_FILE, read_json
from nanochat.interop.published import family_of, published_config, serving_limits
from nanochat.interop.readme import readme_text
from nanochat.interop.tokenizer import BOS, EOS, PAD, write_tokenizer
from nanochat.interop.weights import rules
from nanochat.model import LanguageModel
from nanochat.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OWN_FILES = {  # what an export may consist of; a folder with anything else is not replaced
    CONFIG_FILE, "generation_config.json", WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "README.md",
}


def export(
    model: LanguageModel, tokenizer: Tokenizer, folder: str | Path, *, dtype: str = "float32", name: str = "",
    source: str = "",
) -> list[str]:
    """Write the model as a folder for transformers, whole or not at all; returns what other programs cannot do with it.

    A dense GraniteMoeHybridForCausalLM where the shape allows it, BambaForCausalLM with half-rotated heads or biases in
    the MLP, Mamba2ForCausalLM without MLPs. `dtype` is float32, bfloat16 or float16; the README is headed by `name` and
    says that the weights come from `source`. An earlier export at `folder` is replaced. Importing the folder and
    exporting it again gives the same weights, byte for byte.

    Raises UnsupportedModel for shapes that no published family has (attention_conv, slot_scale) and for values beyond
    float16, ConfigError for an unknown dtype, UserError when the folder holds anything else or cannot be written.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known", hint=f"choose one of {', '.join(DTYPES)}")
    folder = Path(folder).expanduser()
    family = family_of(model.config)
    check_target(folder)
    tensors = published_tensors(model, family, DTYPES[dtype])
    record = published_config(model.config, family) | _token_ids(tokenizer) | {"dtype": dtype, "torch_dtype": dtype}
    limits = serving_limits(model.config, family)
    with write_folder(folder) as place:
        write_json(place / CONFIG_FILE, record)
        write_json(place / "generation_config.json", _generation_config(tokenizer) | {"use_cache": record["use_cache"]})
        try:
            save_file(tensors, place / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:
            # a full disk, by another name
            raise OSError(str(error)) from error
        write_tokenizer(tokenizer, place, model_max_length=model.config.sequence_len)
        write_text(place / "README.md", readme_text(
            name=name or folder.name, architecture=ARCHITECTURES[family], config=model.config, tokenizer=tokenizer,
            num_parameters=model.num_parameters, dtype=dtype, source=source, limits=limits,
        ))
    return limits


def published_tensors(model: LanguageModel, family: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, as the family stores them. Raises UnsupportedModel when a value overflows `dtype`."""
    parameters = dict(model.named_parameters())
    tensors = {}
    for rule in rules(parameters, family, model.config.block_pattern):
        for name, part in rule.split(parameters[rule.native].detach()).items():
            tensors[name] = part.to("cpu", dtype).contiguous()
            if dtype == torch.float16 and not tensors[name].isfinite().all():
                raise UnsupportedModel(f"{name} has values beyond float16", hint="export with --dtype bfloat16")
    return tensors


def check_target(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or an earlier export. Raises UserError."""
    check_output(folder, flag="--to hf", is_folder=True)
    if not folder.exists():
        return
    held = sorted(entry.name for entry in folder.iterdir())
    if not held:
        return
    is_export = CONFIG_FILE in held and OWN_KEY in read_json(folder / CONFIG_FILE)
    foreign = [name for name in held if name not in OWN_FILES]
    if not is_export or foreign:
        what = f"holds {foreign[0]}" if foreign else "is not empty and no export of ours"
        raise UserError(f"{folder} {what}: it would be replaced", hint="give a folder that does not exist yet")


def _token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    # a spare id pads: a class that never trains its padding row must not pad with a mark
    return {"bos_token_id": tokenizer.special(BOS), "eos_token_id": tokenizer.special(EOS),
            "pad_token_id": tokenizer.special(PAD)}


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return _token_ids(tokenizer) | {"do_sample": False}

"""A folder in the manner of transformers to a native model: config, safetensors (sharded or not), tokenizer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.device import pick_device
from nanochat.errors import CheckpointError, UnsupportedModel
from nanochat.interop.config import Published, read_config
from nanochat.interop.fields import WHAT_LOADS
from nanochat.interop.folder import AGAIN, CONFIG_FILE, TYPES, Tensors, open_tensors, read_json
from nanochat.interop.hub import fetch
from nanochat.interop.tokenizer import load_tokenizer
from nanochat.interop.weights import NAMINGS, Rule, rules
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import RESERVED_NAMES, Tokenizer
from nanochat.tokenizer.imported import find_reserved

NOISE = 0.1  # spread of new rows around the mean row, as a part of the spread of all rows
_SAME_MODEL = "config.json and weights must come from the same model"


def load(
    folder_or_id: str, device: str | torch.device = "cpu", phase: str = "eval", *, dtype: torch.dtype | None = None
) -> tuple[LanguageModel, Tokenizer, dict[str, Any]]:
    """Model, tokenizer and meta of a folder that transformers can load, or of a model id on the Hugging Face hub.

    Dense GraniteMoeHybridForCausalLM, BambaForCausalLM and Mamba2ForCausalLM. Our reserved ids that the tokenizer lacks
    come behind its own; their rows of the embedding, and of an untied head, are the mean row with a little seeded
    noise. Logits of all other ids stay as published. dtype None means float32, but on a GPU with phase "eval" the type
    that is stored. meta has source, tag (the folder's name, fit for a tag), step 0, path, family and new_rows (how many
    ids have untrained rows).

    Raises CheckpointNotFound, CheckpointError when a file is damaged or a tensor is missing, too many or misshapen,
    UnsupportedModel when the native model has no counterpart, MissingDependency for an id without huggingface_hub.
    """
    place = pick_device(str(device))
    folder = fetch(folder_or_id)
    published = read_config(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    tokenizer = load_tokenizer(folder)
    with open_tensors(folder) as tensors:
        table = f"{NAMINGS[published.family].embed}.weight"
        keeps_type = place.type == "cuda" and phase == "eval" and table in tensors.names()
        stored = TYPES.get(tensors.type_name(table), torch.float32) if keeps_type else torch.float32
        model, new_ids = _build(published, tensors, tokenizer, folder, dtype or stored)
    model = model.to(place).train(phase == "train")
    # the folder of a downloaded id is named after its commit
    name = folder.resolve().name if Path(folder_or_id).expanduser().is_dir() else folder_or_id.rpartition("/")[2]
    meta = {"source": f"hf:{folder_or_id}", "tag": re.sub(r"[^\w.+-]+", "-", name).lstrip("-+.") or "hf", "step": 0,
            "path": str(folder), "family": published.family, "new_rows": len(new_ids)}
    return model, tokenizer, meta


@torch.no_grad()
def _build(
    published: Published, tensors: Tensors, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype
) -> tuple[LanguageModel, list[int]]:
    """The model with the folder's weights, and the ids whose rows were made here."""
    rows = published.config.vocab_size
    changes = {"vocab_size": max(rows, tokenizer.vocab_size)}
    if published.is_tied is None:
        changes["tie_embeddings"] = "lm_head.weight" not in tensors.names()
    config = ModelConfig.from_dict(published.config.to_dict() | changes)
    try:
        with torch.device("meta"):
            model = LanguageModel(config, seed=None)
    except (RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: no tensor can have the sizes it says: {error}",
                              hint=_SAME_MODEL) from error
    parameters = dict(model.named_parameters())
    plan = rules(parameters, published.family, config.block_pattern)
    # before anything is allocated: a config may say any size, the weights are as large as their files
    _check(plan, parameters, tensors, folder, rows=rows, config=config)
    model = model.to(dtype).to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    for rule in plan:
        target = parameters[rule.native]
        target = target[:rows] if rule.is_vocab else target
        for name, part in rule.split(target).items():
            part.copy_(tensors.read(name))
            if not bool(torch.isfinite(part).all()):
                raise CheckpointError(f"{tensors.path(name)}: {name} holds values that are not finite", hint=AGAIN)
    # is_reserved would also name the control tokens of the source, whose rows are trained
    reserved = [] if knows_reserved(folder) else [tokenizer.special(name) for name in RESERVED_NAMES]
    new_ids = sorted({*reserved, *range(rows, config.vocab_size)})
    for rule in plan:
        if rule.is_vocab:
            fill_rows(parameters[rule.native], new_ids)
    return model, new_ids


def _check(
    plan: list[Rule], parameters: Mapping[str, nn.Parameter], tensors: Tensors, folder: Path, *, rows: int,
    config: ModelConfig,
) -> None:
    """Hold the stored tensors' names and shapes against the config before anything is copied."""
    wanted = {name for rule in plan for name in rule.published}
    found = tensors.names()
    if missing := sorted(wanted - found):
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]}" + _and_more(missing), hint=AGAIN)
    extra = sorted(found - wanted)
    if experts := [name for name in extra if "block_sparse_moe" in name]:
        raise UnsupportedModel(f"{tensors.path(experts[0])}: {experts[0]} belongs to a mixture of experts, which does "
                               "not load", hint=WHAT_LOADS)
    if extra == ["lm_head.weight"] and config.tie_embeddings:
        table = next(rule.published[0] for rule in plan if rule.is_vocab)
        if torch.equal(tensors.read("lm_head.weight"), tensors.read(table)):
            extra = []  # a tied head that was stored as well
    if extra:
        raise CheckpointError(f"{tensors.path(extra[0])} has the tensor {extra[0]}, for which its config has no place"
                              + _and_more(extra), hint=_SAME_MODEL)
    table = next(rule.published[0] for rule in plan if rule.is_vocab)
    for name, size, stored in zip(("vocab_size", "hidden_size"), (rows, config.n_embd), tensors.shape(table)):
        if size != stored:
            raise CheckpointError(f"{folder / CONFIG_FILE}: {name} is {size}, but {table} has shape "
                                  f"{tensors.shape(table)} in {tensors.path(table).name}", hint=_SAME_MODEL)
    for rule in plan:
        shape = parameters[rule.native].shape
        expected = rule.published_shape((rows, *shape[1:]) if rule.is_vocab else shape)
        for name in rule.published:
            if tensors.shape(name) != expected:
                raise CheckpointError(f"{tensors.path(name)}: {name} has shape {tensors.shape(name)}, the config says "
                                      f"{expected}", hint=_SAME_MODEL)
            if tensors.type_name(name) not in TYPES:
                stored = f"{name} is stored as {tensors.type_name(name)}"
                raise UnsupportedModel(f"{tensors.path(name)}: {stored}: quantised weights do not load",
                                       hint=WHAT_LOADS)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def knows_reserved(folder: Path) -> bool:
    """Whether the folder's own tokenizer has our reserved tokens, so that the weights have trained rows for them."""
    return find_reserved(read_json(folder / "tokenizer.json")) is not None


@torch.no_grad()
def fill_rows(weight: Tensor, ids: list[int]) -> None:
    """Set rows of (V, C) to the mean of the others plus seeded noise: plausible, distinct, the same every time.

    Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    if not ids:
        return
    is_old = torch.ones(len(weight), dtype=torch.bool)
    is_old[ids] = False
    old = weight[is_old].float()
    noise = torch.randn(len(ids), weight.shape[1], generator=torch.Generator().manual_seed(0))
    weight[ids] = (old.mean(dim=0) + NOISE * old.std() * noise).to(weight.dtype)

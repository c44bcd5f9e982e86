"""Tokenizers in and out: a transformers folder's tokenizer as ours, and ours as files that transformers loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import write_json, write_text
from nanochat.errors import CheckpointError
from nanochat.interop.chat_template import BREAK, CUT
from nanochat.interop.chat_template import chat_template as template_of
from nanochat.tokenizer import FILE_NAME, Tokenizer
from nanochat.tokenizer.imported import ImportedTokenizer, find_reserved
from nanochat.tokenizer.tokenizer import read_json

# which reserved names are what transformers calls bos, eos and pad. The padding token is a spare one: were it the end
# of an answer, trainers that mask padding would never teach a model to stop
BOS, EOS, PAD = "bos", "assistant_end", "spare_15"
CONFIG_FILE, SPECIAL_FILE, TEMPLATE_FILE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DROP = {"type": "Replace", "pattern": {"String": BREAK}, "content": ""}
_SPLIT = {"type": "Split", "pattern": {"String": CUT}, "behavior": "Removed", "invert": False}
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a transformers folder, with our reserved ids behind its own; an export of ours as it was.

    Raises CheckpointError when there is no tokenizer.json or it cannot be loaded.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {FILE_NAME}",
            hint=f"write one: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})",
        )
    content = without_breaks(read_json(path, hint="download the folder again"))
    if find_reserved(content) is not None:
        return Tokenizer.from_content(content, where=str(path))
    records = [_read_record(folder / name) for name in (CONFIG_FILE, SPECIAL_FILE)]
    return ImportedTokenizer.adopt(
        content,
        extra_tokens=[token for record in records for token in _declared_tokens(record)],
        control={token for record in records for token in _control_tokens(record)},
        where=str(path),
    )


def write_tokenizer(
    tokenizer: Tokenizer, folder: str | Path, *, model_max_length: int, chat_template: str | None = None
) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja; AutoTokenizer.from_pretrained loads them.

    The same text has the same ids there, unless it spells a control token: transformers takes that for one, other than
    in the template, where texts are broken up. None writes our template.
    """
    folder = Path(folder)
    content = with_breaks(json.loads(tokenizer.to_json()), cuts=bool(tokenizer.control_pieces))
    write_text(folder / FILE_NAME, json.dumps(content, ensure_ascii=False))
    record: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.token(BOS),
        "eos_token": tokenizer.token(EOS),
        "pad_token": tokenizer.token(PAD),
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
        # the template writes bos; converters would otherwise assume that the tokenizer does
        "add_bos_token": False,
        "add_eos_token": False,
    }
    write_json(folder / CONFIG_FILE, record)
    write_text(folder / TEMPLATE_FILE, template_of(tokenizer) if chat_template is None else chat_template)


def with_breaks(content: Mapping[str, Any], *, cuts: bool) -> dict[str, Any]:
    """A tokenizer.json that drops BREAK when it has looked for control tokens and, with `cuts`, cuts texts at CUT."""
    content = {**content, "normalizer": _in_front(_DROP, content.get("normalizer"), "normalizers")}
    if cuts:
        content["pre_tokenizer"] = _in_front(_SPLIT, content.get("pre_tokenizer"), "pretokenizers")
    return content


def without_breaks(content: Any) -> Any:
    """The inverse of `with_breaks`; other content as it is."""
    if not isinstance(content, dict):
        return content
    content = {**content, "normalizer": _behind(_DROP, content.get("normalizer"), "normalizers")}
    return {**content, "pre_tokenizer": _behind(_SPLIT, content.get("pre_tokenizer"), "pretokenizers")}


def _in_front(step: dict[str, Any], others: Any, name: str) -> dict[str, Any]:
    return step if others is None else {"type": "Sequence", name: [step, others]}


def _behind(step: dict[str, Any], steps: Any, name: str) -> Any:
    if steps == step:
        return None
    inner = steps.get(name) if isinstance(steps, dict) else None
    return inner[1] if isinstance(inner, list) and len(inner) == 2 and inner[0] == step else steps


def _read_record(path: Path) -> Mapping[str, Any]:
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: not a JSON object", hint="take the file published with the model")
    return record


def _text_of(token: Any) -> str | None:
    """A token as the files give it: a text, or an object with a text."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None


def _control_tokens(record: Mapping[str, Any]) -> set[str]:
    named = [record.get(role) for role in _ROLES]
    for name in _LISTS:
        values = record.get(name) or []
        named += values.values() if isinstance(values, dict) else values if isinstance(values, list) else []
    return {text for text in map(_text_of, named) if text is not None}


def _declared_tokens(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`added_tokens_decoder`, in the order of the ids."""
    declared = record.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict):
        return []
    numbered = [(int(i), token) for i, token in declared.items() if len(i) < 10 and i.isdecimal() and _text_of(token)]
    in_order = sorted(numbered, key=lambda pair: pair[0])
    return [token if isinstance(token, dict) else {"content": token} for _, token in in_order]

"""What an imported tokenizer.json is turned into: nothing put before a text, no cutting, and the reserved tokens."""

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from nanochat.errors import CheckpointError
from nanochat.tokenizer.reserved import PREFIXES, reserved_tokens

# a token of this form is a control token, whether or not its file says so
_LOOKS_LIKE_CONTROL = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)
# the source and the adopted pipeline must agree on these, the latter with a space before them
_PROBES = ("Torvik", "the 12 bridges, of 1987", "(a) \u00e9t\u00e9", "x  y\nz")
_RARE = "\U0010fffd\ufdd0 \x00"
# a published vocabulary has a few ids that stand for nothing, a hostile file may claim any number
_MAX_HOLES = 10_000
_HINT = "take the tokenizer.json that was published with the model, or write it with transformers' save_pretrained"


def unusable(where: str, reason: str) -> CheckpointError:
    """The error for a tokenizer.json that cannot be loaded."""
    return CheckpointError(f"{where} is not a tokenizer that loads: {reason:.300}", hint=_HINT)


def build_backend(content: Any, *, where: str) -> Backend:
    """The library's tokenizer of a parsed tokenizer.json; it takes any text. Raises CheckpointError naming `where`."""
    try:
        backend = Backend.from_str(json.dumps(content))
        # a vocabulary without an unknown token fails at the first character it lacks
        backend.encode_batch([*_PROBES, _RARE], add_special_tokens=False)
        return backend
    except BaseException as error:  # noqa: BLE001
        # the library raises Exception itself, and a class of its own below BaseException when it panics
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise unusable(where, str(error)) from error


def added_tokens(content: Any) -> list[dict[str, Any]]:
    """The added tokens of a parsed tokenizer.json that have a text and an id."""
    entries = content.get("added_tokens") if isinstance(content, dict) else None
    return [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    ]


def is_control(entry: Mapping[str, Any]) -> bool:
    """Whether an added token is a control token. One character is text whatever its file says: it cannot be cut."""
    is_named_so = bool(entry.get("special")) or _LOOKS_LIKE_CONTROL.fullmatch(entry["content"]) is not None
    return is_named_so and len(entry["content"]) > 1


def unknown_id(content: Mapping[str, Any]) -> int | None:
    """Id that the model gives to what its vocabulary lacks, None when there is none.

    Some files declare their end of text as unknown token too: that one must stay out of reach, and what is unknown is
    left out.
    """
    model, ids = content["model"], _ids_of(content)
    token = model.get("unk_token")
    if token is None and type(model.get("unk_id")) is int:
        token = next((name for name, i in ids.items() if i == model["unk_id"]), None)
    return ids.get(token) if isinstance(token, str) and "unk" in token.lower() else None


def adopted(
    content: Any, *, extra_tokens: Sequence[Mapping[str, Any]] = (), control: Iterable[str] = (), where: str
) -> dict[str, Any]:
    """A copy of a published tokenizer.json as ours: see ImportedTokenizer.adopt for the arguments and what is refused.

    Its ids stay. What it puts before a text goes if a space in the text has the same effect; what it adds around a
    text, where it cuts or fills up texts, and its dropout, go in any case.
    """
    _check(content, where=where)
    content = copy.deepcopy(content)
    content.update(truncation=None, padding=None, post_processor=None)
    content["model"].pop("dropout", None)
    _complete_added_tokens(content, extra_tokens, set(control))
    content = _without_prefix(content, where=where)
    _fill_holes(content, where=where)
    taken = _ids_of(content)
    prefix = next((prefix for prefix in PREFIXES if taken.keys().isdisjoint(reserved_tokens(prefix))), None)
    if prefix is None:
        raise unusable(where, f"it has tokens like {reserved_tokens(PREFIXES[-1])[0]!r} of its own")
    first = max(taken.values()) + 1
    content["added_tokens"] += [_entry(token, first + i) for i, token in enumerate(reserved_tokens(prefix))]
    return content


def _check(content: Any, *, where: str) -> None:
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise unusable(where, "it has no model")
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        is_known = all(type(i) is int and i >= 0 for i in vocab.values())
    else:
        is_known = isinstance(vocab, list) and all(
            isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str) for piece in vocab
        )
    if not is_known or not vocab:
        raise unusable(where, "it has no vocabulary")
    given = content.get("added_tokens", [])
    if not isinstance(given, list) or len(added_tokens(content)) != len(given):
        raise unusable(where, "an added token has no text or no id")


def _ids_of(content: Mapping[str, Any]) -> dict[str, int]:
    """Text -> id of every token; of a text that a list of pieces holds twice, the last id, as in the library."""
    vocab = content["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece[0]: i for i, piece in enumerate(vocab)}
    ids.update((entry["content"], entry["id"]) for entry in added_tokens(content))
    return ids


def _entry(token: str, token_id: int, **fields: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": token, **flags, **fields}


def _complete_added_tokens(
    content: dict[str, Any], extra_tokens: Sequence[Mapping[str, Any]], control: set[str]
) -> None:
    """One list of added tokens, those of other files included, in which control tokens and only those are special."""
    entries = {entry["content"]: dict(entry) for entry in added_tokens(content)}
    ids = _ids_of(content)
    extra = {token["content"]: token for token in extra_tokens}
    for token in [*extra, *sorted(control - extra.keys())]:
        if token and token not in entries:
            ids.setdefault(token, max(ids.values()) + 1)
            flags = {name: bool(value) for name, value in extra.get(token, {}).items() if name in _entry("", 0)}
            flags.pop("content", None)
            entries[token] = {**_entry(token, ids[token], special=False), **flags, "id": ids[token]}
    for token, entry in entries.items():
        is_special = entry.get("special") or extra.get(token, {}).get("special") or token in control
        entry["special"] = is_control({"content": token, "special": is_special})
        if entry["special"]:
            entry.update(_entry(token, entry["id"]))
    content["added_tokens"] = sorted(entries.values(), key=lambda entry: entry["id"])


def _without_prefix(content: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Nothing put before a text, if a space in the text then gives the same ids; else the content as it is."""
    changed = copy.deepcopy(content)
    for step in _steps(changed, "pre_tokenizer", "pretokenizers"):
        if step.get("type") == "Metaspace":
            step.pop("add_prefix_space", None)
            step["prepend_scheme"] = "never"
        elif step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    steps = _steps(changed, "normalizer", "normalizers")
    if any(step.get("type") == "Prepend" for step in steps):
        kept = [step for step in steps if step.get("type") != "Prepend"]
        changed["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    source = build_backend(content, where=where)
    if changed == content:
        return content
    backend = build_backend(changed, where=where)
    source.encode_special_tokens = backend.encode_special_tokens = True
    same = all(source.encode(probe).ids == backend.encode(" " + probe).ids for probe in _PROBES)
    return changed if same else content


def _steps(content: dict[str, Any], name: str, inner: str) -> list[dict[str, Any]]:
    part = content.get(name)
    if not isinstance(part, dict):
        return []
    steps = part.get(inner)
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else [part]


def _fill_holes(content: dict[str, Any], *, where: str) -> None:
    """Names for ids below the highest one that stand for nothing: the library gives a new token the next free one."""
    ids = _ids_of(content)
    highest = max(ids.values())
    if highest + 1 - len(set(ids.values())) > _MAX_HOLES:
        raise unusable(where, f"its ids go up to {highest}, but it has {len(ids)} tokens")
    vocab, entries = content["model"]["vocab"], content["added_tokens"]
    num_pieces = len(vocab)
    for hole in sorted(set(range(highest)) - set(ids.values())):
        name = f"<|unused_{hole}|>"
        entries.append(_entry(name, hole))
        if isinstance(vocab, dict):
            vocab[name] = hole
        elif hole < num_pieces:
            raise unusable(where, f"its piece {hole} stands there twice")
    entries.sort(key=lambda entry: entry["id"])

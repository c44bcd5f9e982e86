"""What a sentence-transformers folder says (pooling, length, prefixes), and the fingerprint of all of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, write_json
from nanochat.errors import UserError
from nanochat.retrieval.encoders.base import EncoderError

POOLINGS = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
_OLD_POOLINGS = {  # the names in folders written before sentence-transformers 6
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean", "pooling_mode_lasttoken": "lasttoken",
}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
_UNLIMITED = 100_000  # tokenizers without a limit say 10^30
_HINT = "give a folder that SentenceTransformer(folder) loads"


@dataclass(frozen=True, kw_only=True)
class SentenceFolder:
    """A sentence encoder on disk."""

    folder: Path                # holds config.json, tokenizer and weights of the transformer
    dimension: int              # of its vectors, after pooling and projections
    pooling: str                # one of POOLINGS
    projections: tuple[Path, ...]  # folders of Dense modules, applied after pooling
    max_tokens: int             # longer texts are cut
    lower_case: bool            # texts are lower-cased before the tokenizer
    query_prefix: str
    document_prefix: str
    fingerprint: str            # 32 hex digits over everything above (but the places) and the weights


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read the description of a model. Raises EncoderError in one sentence when it is no sentence encoder."""
    modules = _modules(folder)
    place = folder / modules[0][1]
    config = _json(place / "config.json", required=True)
    pooling = _pooling(folder, modules)
    projections = tuple(folder / path for kind, path in modules if kind == "Dense")
    hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if not isinstance(hidden, int):
        raise EncoderError(f"{place / 'config.json'} names no hidden_size", hint=_HINT)
    sentence = _json(place / "sentence_bert_config.json")
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    settings = {
        "dimension": _json(projections[-1] / "config.json", required=True)["out_features"] if projections else hidden,
        "pooling": pooling,
        "max_tokens": _max_tokens(place, sentence, config),
        "lower_case": bool(sentence.get("do_lower_case")),
        "query_prefix": str(prompts.get("query") or ""),
        "document_prefix": next((str(prompts[name]) for name in _DOCUMENT_PROMPTS if prompts.get(name)), ""),
    }
    return SentenceFolder(
        folder=place, projections=projections, fingerprint=_fingerprint(place, projections, settings), **settings
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module; a plain transformer counts as one with mean pooling."""
    if not (folder / "modules.json").is_file():
        if (folder / "config.json").is_file():
            return [("Transformer", "")]
        raise EncoderError(f"{folder} is no model folder: it has neither modules.json nor config.json", hint=_HINT)
    try:
        records = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules = [(str(record["type"]).rpartition(".")[2], str(record["path"])) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{folder / 'modules.json'} cannot be read: {error}", hint=_HINT) from error
    for kind, path in modules:
        if kind not in ("Transformer", "Pooling", "Normalize", "Dense", "Dropout"):
            raise EncoderError(f"{folder} has a module {kind!r}, which is not supported", hint="take another model")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise EncoderError(f"{folder / 'modules.json'} points out of its folder: {path!r}", hint=_HINT)
    kinds = [kind for kind, _ in modules]
    if "Dense" in kinds and "Normalize" in kinds[: kinds.index("Dense")]:
        raise EncoderError(f"{folder} has a Normalize before a Dense module: not supported", hint="take another model")
    if not modules or modules[0][0] != "Transformer":
        raise EncoderError(f"{folder} does not begin with a Transformer module", hint="take another model")
    return modules


def _pooling(folder: Path, modules: list[tuple[str, str]]) -> str:
    place = next((path for kind, path in modules if kind == "Pooling"), None)
    config = _json(folder / place / "config.json", required=True) if place is not None else {}
    modes = config.get("pooling_mode") or [name for key, name in _OLD_POOLINGS.items() if config.get(key)] or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise EncoderError(
            f"{folder} pools by {' + '.join(map(str, modes))}; supported is one of: {', '.join(POOLINGS)}",
            hint="take another model",
        )
    if config.get("include_prompt") is False:
        raise EncoderError(f"{folder} leaves its prompt out of the pooling: not supported", hint="take another model")
    return modes[0]


def _max_tokens(place: Path, sentence: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    limits = [sentence.get("max_seq_length")]
    if not limits[0]:
        # roberta keeps two positions for itself, and says so in its tokenizer's limit
        limits = [_json(place / "tokenizer_config.json").get("model_max_length"), config.get("max_position_embeddings")]
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < _UNLIMITED]
    return min(known, default=512)


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if required:
            raise EncoderError(f"Not found: {path}", hint=_HINT) from error
        return {}
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read: {error}", hint=_HINT) from error
    if not isinstance(record, dict):
        raise EncoderError(f"{path} holds no JSON object", hint=_HINT)
    return record


def _fingerprint(place: Path, projections: tuple[Path, ...], settings: Mapping[str, Any]) -> str:
    files = []
    for pattern in _WEIGHTS:
        files = files or sorted(place.glob(pattern))
    if not files:
        raise EncoderError(f"{place} has no weights: neither model.safetensors nor pytorch_model.bin", hint=_HINT)
    tokenizers = [file for pattern in _TOKENIZERS for file in sorted(place.glob(pattern))]
    if not tokenizers:
        raise EncoderError(f"{place} has no tokenizer: no tokenizer.json and no vocabulary", hint=_HINT)
    # tokenizer.json says all that the others say
    files += tokenizers[:1] if tokenizers[0].name == "tokenizer.json" else tokenizers
    files += [place / "config.json"]
    files += [file for folder in projections for file in sorted(folder.iterdir()) if file.is_file()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update("".join(_hashes(files)).encode())
    return digest.hexdigest()[:32]


def _hashes(files: list[Path]) -> list[str]:
    """SHA-256 of each file, remembered by place, size and time of change: weights may be gigabytes."""
    remembered = base_dir() / "encoders" / "hashes.json"
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    found = {}
    for file in files:
        state = file.stat()
        key = f"{file.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        if not isinstance(known.get(key), str):
            with file.open("rb") as opened:
                found[key] = hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            found[key] = known[key]
    if found.keys() - known.keys():
        try:
            write_json(remembered, known | found)
        except UserError:
            pass  # a read-only home: hash again next time
    return list(found.values())

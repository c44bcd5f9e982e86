"""What base_train reads: text files with weights, tokenised once, split into documents for training and validation."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import base_dir, print0, world_size
from nanochat.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer
    from nanochat.training.text import Corpus, TextStream
    from nanochat.training.validation import Validation

TEXT_FILE = re.compile(r"\.(jsonl|jsonl\.gz|txt)$")


def parse_inputs(names: str) -> list[tuple[str, float]]:
    """Files and weights of --input: "a.jsonl:2,b.txt" is a.jsonl twice and b.txt once. Raises ConfigError."""
    inputs = []
    for name in filter(None, (name.strip() for name in names.split(","))):
        path, colon, weight = name.rpartition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError:
            # the colon belongs to the name
            path, value = name, 1.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"--input {name}: the weight is {weight}, must be above 0",
                              hint=f"for example --input {path}:2 reads the file twice in every epoch")
        inputs.append((path or name, value))
    return inputs


def check_files(paths: Iterable[str], *, flag: str = "--input") -> None:
    """Refuse what is no file before the others are read. Raises DocumentError."""
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(entry.name for entry in path.iterdir() if TEXT_FILE.search(entry.name))
            named = ",".join(str(path / name) for name in inside[:3]) or f"{path}/FILE.jsonl"
            raise DocumentError(f"{path} is a folder, not a file", hint=f"name the files in it: {flag} {named}")
        if not path.exists():
            raise DocumentError(f"File not found: {path}", hint=f"check the path given to {flag}")


def no_text(path: str) -> DocumentError:
    """The error for a file without any text; its hint fits the kind of file."""
    is_jsonl = path.removesuffix(".gz").endswith((".jsonl", ".json"))
    hint = "each line needs content or text" if is_jsonl else "write text into it: every line is one document"
    return DocumentError(f"No text in {path}: the file is empty", hint=hint)


def read_documents(path: str) -> Iterator[str]:
    """One text per line of the file: its title, content and other texts, one below the other."""
    from scripts.tok_train import read_records

    return ("\n".join(texts) for texts in read_records(path))


def open_text(config: Any, tokenizer: "Tokenizer") -> "tuple[TextStream, Validation | None]":
    """The training stream of --input, and what measures the loss on text that is not trained on; None when too short.

    That is --validation_input, or documents held out of every input file: which ones depends on the file, not on
    --seed. Weights count in training only.
    """
    from nanochat.training.text import Corpus, TextStream

    named, held_out = parse_inputs(config.input), [path for path, _ in parse_inputs(config.validation_input)]
    check_files(path for path, _ in named)
    check_files(held_out, flag="--validation_input")
    inputs = [(_open(path, tokenizer), weight) for path, weight in named]
    if config.validation_input:
        held = Corpus.join([_open(path, tokenizer) for path in held_out])
        kept = [corpus for corpus, _ in inputs]
    elif config.validation_share:
        kept, parts = zip(*(corpus.split(config.validation_share) for corpus, _ in inputs), strict=True)
        held = Corpus.join(parts)
    else:
        kept, held = [corpus for corpus, _ in inputs], inputs[0][0].select([])
    corpus = Corpus.join([
        part.repeat(weight, seed=config.seed) for part, (_, weight) in zip(kept, inputs, strict=True)])
    print0(f"Text: {corpus.num_tokens:,} tokens an epoch in {len(corpus):,} documents; for validation "
           f"{held.num_tokens:,} tokens in {len(held):,} documents")
    stream = TextStream(
        corpus, bos=tokenizer.special("bos"), rows=config.device_batch_size, row_len=config.sequence_len,
        micro_per_step=config.grad_accum_steps * world_size(), seed=config.seed,
    )
    return stream, _validation(config, held, tokenizer)


def _open(path: str, tokenizer: "Tokenizer") -> "Corpus":
    from nanochat.training.token_cache import open_tokens

    corpus = open_tokens(path, lambda: read_documents(path), tokenizer, base_dir() / "tokens")
    if not len(corpus):
        raise no_text(path)
    return corpus


def _validation(config: Any, held: "Corpus", tokenizer: "Tokenizer") -> "Validation | None":
    from nanochat.training.validation import Validation

    if held.num_tokens <= config.sequence_len:
        print0("Too little text for a validation loss: give more with --input or raise --validation_share")
        return None
    validation = Validation(held, tokenizer, rows=config.validation_rows, row_len=config.sequence_len,
                            batch_rows=config.device_batch_size)
    print0(f"Validation: {validation.rows} rows of {config.sequence_len} tokens, {validation.num_bytes:,} bytes")
    return validation

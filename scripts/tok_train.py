"""Train a tokenizer on documents, conversations or plain text.

    python -m scripts.tok_train --input data/my_documents.jsonl --vocab_size 4096
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import base_dir, check_output, print0, run_main
from nanochat.config import load_config
from nanochat.errors import ConfigError, DocumentError

TEXT_FIELDS = ("title", "content", "text", "question")
# every 19th text is held out to measure compression; an odd number, because titles and contents alternate
HOLD_OUT_EVERY = 19


@dataclass(frozen=True, kw_only=True)
class TokTrainConfig:
    input: str = ""                   # files to learn from, comma-separated: .jsonl, .jsonl.gz or .txt (required)
    vocab_size: int = 4096            # ids in all, reserved ones and the 256 bytes included
    output: str = ""                  # folder for tokenizer.json; empty: tokenizer in the base folder
    max_chars: int = 200_000_000      # stop reading after so many characters; 0 reads everything


CONFIG = TokTrainConfig


def main(argv: list[str]) -> int:
    config = load_config(TokTrainConfig, argv, prog="scripts.tok_train", description=__doc__ or "")
    # imported here so that --help does not wait for it
    from nanochat.tokenizer import Tokenizer, check_vocab_size
    from scripts.text_input import check_files

    if not config.input.strip(" ,"):
        raise ConfigError("--input is missing", hint="name the files: --input data/documents.jsonl,data/chats.jsonl.gz")
    if config.max_chars < 0:
        raise ConfigError(f"--max_chars is {config.max_chars}", hint="give a positive number, or 0 for everything")
    names = [name.strip() for name in config.input.split(",") if name.strip()]
    check_files(names)
    check_vocab_size(config.vocab_size)
    folder = output_folder(config.output)
    texts = list(_limit(read_all(names), config.max_chars))
    held_out = texts[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    chosen = [text for i, text in enumerate(texts, start=1) if i % HOLD_OUT_EVERY] if held_out else texts
    print0(f"Training on {len(chosen)} texts, {sum(map(len, chosen))} characters ...")
    tokenizer = Tokenizer.train(chosen, config.vocab_size)
    tokenizer.save(folder)
    if tokenizer.vocab_size < config.vocab_size:
        print0(f"The texts gave {tokenizer.vocab_size} ids, not {config.vocab_size}: no pair is left that repeats")
    measured = held_out or texts
    num_bytes = sum(len(text.encode("utf-8", "replace")) for text in measured)
    num_tokens = sum(map(len, tokenizer.encode_batch(measured)))
    on = "held-out texts" if held_out else "the training texts, too few to hold some out"
    print0(f"Compression: {num_bytes / num_tokens:.2f} bytes per token on {on}")
    print0(f"Wrote {folder / 'tokenizer.json'}: {tokenizer.vocab_size} ids")
    print0("Next: python -m scripts.base_train --help")
    return 0


def read_texts(path: str) -> Iterator[str]:
    """Texts of one file: those of `read_records`, each by itself."""
    for texts in read_records(path):
        yield from texts


def read_records(path: str) -> Iterator[list[str]]:
    """The texts of each line of a file, each after one space, as the chat format writes them.

    A .jsonl line gives its title, content, text and question and the contents of its messages; any other file gives
    its lines. Raises DocumentError with file:line.
    """
    from tasks.jsonl import parse_record, read_lines

    is_jsonl = path.removesuffix(".gz").endswith((".jsonl", ".json"))
    for where, line in read_lines(path):
        texts = [line]
        if is_jsonl:
            record = parse_record(line, where=where)
            messages = record.get("messages")
            parts = [record, *(messages if isinstance(messages, list) else [])]
            texts = [part[name] for part in parts if isinstance(part, dict) for name in TEXT_FIELDS if name in part]
            texts = [text for text in texts if isinstance(text, str) and text.strip()]
            if not texts:
                raise DocumentError(f"{where}: no text here", hint=f"known fields: {', '.join(TEXT_FIELDS)}, messages")
        yield [" " + text.strip() for text in texts]


def read_all(paths: Sequence[str]) -> Iterator[str]:
    from scripts.text_input import no_text

    is_empty = True
    for path in paths:
        for text in read_texts(path):
            is_empty = False
            yield text
    if is_empty:
        raise no_text(paths[0]) if len(paths) == 1 else DocumentError(
            f"No text in {', '.join(paths)}: every file is empty", hint="name a file with text: --input FILE.jsonl")


def output_folder(output: str) -> Path:
    """Where tokenizer.json goes. Raises UserError when it could not be written there."""
    folder = Path(output) if output else base_dir() / "tokenizer"
    if folder.suffix == ".json" and not folder.is_dir():
        instead = folder.parent if folder.name == "tokenizer.json" else folder.with_suffix("")
        raise ConfigError(f"--output {output} names a file, expected a folder for tokenizer.json",
                          hint=f"--output {instead}")
    check_output(folder, flag="--output", is_folder=True)
    return folder


def _limit(texts: Iterator[str], max_chars: int) -> Iterator[str]:
    num_chars = 0
    for text in texts:
        yield text
        num_chars += len(text)
        if max_chars and num_chars >= max_chars:
            return


if __name__ == "__main__":
    raise SystemExit(run_main(main))

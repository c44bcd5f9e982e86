"""SmolTalk: everyday conversations without documents, from a local folder or file, or the hub's smol-smoltalk."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat.conversation import check_conversation
from nanochat.errors import ConversationError, DocumentError, MissingDependency, UserError
from tasks.jsonl import JsonlTask, parse_record, read_lines, sample
from tasks.reading import PLAIN, Reading

HUB_ID = "HuggingFaceTB/smol-smoltalk"
LOCAL_FILES = ("data/smoltalk.jsonl", "data/smoltalk.jsonl.gz", "data/smoltalk")

_OFFLINE_HINT = (
    f"where there is a network: hf download {HUB_ID} --repo-type dataset --local-dir data/smoltalk, then "
    "--base_tasks SmolTalk=data/smoltalk; or your own conversations: --base_tasks Jsonl:data/chats.jsonl"
)
_logger = logging.getLogger(__name__)


class SmolTalk(JsonlTask):
    """Chat to keep a model's manners while it learns to read documents."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "SmolTalk":
        """At most `samples` conversations (0: all), chosen by the seed.

        A given file or folder (.jsonl, .jsonl.gz, .parquet, also further down) or data/smoltalk comes first, the hub's
        training split next, through the library `datasets` and its cache. Raises MissingDependency without a library
        that is needed, UserError when the hub cannot be read, DocumentError for a folder without such files.
        """
        place = path or next((name for name in LOCAL_FILES if Path(name).exists()), "")
        if place and (Path(place).is_dir() or place.endswith(".parquet")):
            return cls(_legal(_folder_rows(Path(place), samples, seed)))
        if place:
            return super().load(samples, seed, path=place)
        return cls(_legal(_hub_rows(samples, seed)))


def _folder_rows(folder: Path, samples: int, seed: int) -> Iterable[Mapping[str, Any]]:
    """Rows of the files of a folder, those of a test split left out."""
    files = [folder] if folder.is_file() else sorted(
        path for path in folder.rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")))
    train = [path for path in files if not path.name.startswith(("test", "valid"))] or files
    if not train:
        raise DocumentError(f"No conversations in {folder}: no .parquet, .jsonl or .jsonl.gz is there",
                            hint=_OFFLINE_HINT)
    tables = [_open_table(path) for path in train if path.suffix == ".parquet"]
    lines = [pair for path in train if path.suffix != ".parquet" for pair in read_lines(path)]
    total = len(lines) + sum(table.metadata.num_rows for table in tables)
    chosen = set(sample(range(total), samples, seed))
    for number, (where, line) in enumerate(lines):
        if number in chosen:
            yield parse_record(line, where=where)
    start = len(lines)
    for table in tables:
        for batch in table.iter_batches(columns=["messages"]):
            # rows are made into Python objects one by one, and only those that are wanted
            yield from ({"messages": batch.column(0)[row].as_py()} for row in range(batch.num_rows)
                        if start + row in chosen)
            start += batch.num_rows


def _open_table(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as missing:
        raise MissingDependency(f"No module named 'pyarrow': {path} is a parquet file",
                                hint="uv pip install pyarrow, or give conversations as lines: Jsonl:FILE") from missing
    try:
        table = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DocumentError(f"{path}: cannot be read as parquet ({(str(error).splitlines() or ['damaged'])[0]:.100})",
                            hint="is the download complete? A Git LFS pointer is no file") from error
    if "messages" not in table.schema_arrow.names:
        raise DocumentError(f"{path} has no column 'messages' but {', '.join(table.schema_arrow.names[:8])}",
                            hint='each row needs "messages": [{"role": ..., "content": ...}]')
    return table


def _hub_rows(samples: int, seed: int) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'datasets': the task SmolTalk needs it to read from the hub",
            hint=f"uv pip install datasets; or {_OFFLINE_HINT}",
        ) from missing
    try:
        rows = load_dataset(HUB_ID, split="train")
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Cannot load {HUB_ID} from the hub: {reason}", hint=_OFFLINE_HINT) from error
    rows = rows.shuffle(seed=seed)
    return rows.select(range(min(samples or len(rows), len(rows))))


def _legal(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as conversations; the few that break the grammar are left out and counted in the log."""
    kept, left_out = [], 0
    for row in rows:
        conversation = {"messages": row.get("messages")}
        try:
            check_conversation(conversation)
        except ConversationError:
            left_out += 1
        else:
            kept.append(conversation)
    if left_out:
        _logger.warning("SmolTalk: left out %d conversations that break the grammar, kept %d", left_out, len(kept))
    return kept

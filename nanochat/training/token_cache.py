"""Token ids of a text file, kept on disk beside the tokenizer they came from and read back memory-mapped.

A large file is tokenised once. Its folder is named after everything the ids depend on: the file's path, size and time,
and the tokenizer. Folders are written whole or not at all, so a crash leaves nothing half done.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from nanochat.common import print0, write_folder, write_json
from nanochat.errors import CheckpointError
from nanochat.training.text import Corpus

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

FORMAT = 1
SMALL_BYTES = 2**20  # files up to this size are tokenised at every start
BATCH_DOCUMENTS, BATCH_CHARS = 1000, 4_000_000  # texts given to the tokenizer together
_HEADER = {"fortran_order": False}


def open_tokens(
    path: str | Path, texts: Callable[[], Iterable[str]], tokenizer: "Tokenizer", folder: str | Path
) -> Corpus:
    """The documents of `texts()` as ids, from `folder` where they were written before, else tokenised and kept there.

    `path` is the file that the texts come from; ids of a small one are not kept. Under torchrun the first process of
    each machine writes, the others wait. Raises what `texts` raises, and CheckpointError for a damaged folder.
    """
    if not Path(path).exists() or Path(path).stat().st_size <= SMALL_BYTES:
        return Corpus.of_ids(tokenizer.encode_batch(list(texts())), bos=tokenizer.special("bos"))
    place = Path(folder) / _fingerprint(path, tokenizer)
    if not place.exists():
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _write(place, path, texts(), tokenizer)
        else:
            # torchrun ends this process if the writing one fails
            while not place.exists():
                time.sleep(0.2)
    return _read(place)


def _fingerprint(path: str | Path, tokenizer: "Tokenizer") -> str:
    path = Path(path).resolve()
    stat = path.stat()
    parts = [FORMAT, str(path), stat.st_size, stat.st_mtime_ns, tokenizer.to_json()]
    return f"{path.name.split('.')[0]}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def _in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while first := list(islice(texts, 1)):
        batch, chars = first, len(first[0])
        while len(batch) < BATCH_DOCUMENTS and chars < BATCH_CHARS and (more := list(islice(texts, 1))):
            batch += more
            chars += len(more[0])
        yield batch


def _write(place: Path, path: str | Path, texts: Iterable[str], tokenizer: "Tokenizer") -> None:
    """Tokenise into `place`: ids with a bos before each document, and where the documents start."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    lengths, bos = [], tokenizer.special("bos")
    begin, read_bytes = time.perf_counter(), 0
    with write_folder(place) as temporary:
        with open(temporary / "tokens.npy", "wb") as file:
            _write_header(file, dtype, 0)
            header = file.tell()
            for batch in _in_batches(texts):
                for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                    file.write(np.asarray([bos, *ids], dtype=dtype).tobytes())
                    lengths.append(len(ids) + 1)
                    read_bytes += len(text.encode("utf-8", "replace"))
            file.seek(0)
            _write_header(file, dtype, sum(lengths))
            assert file.tell() == header, f"the header grew from {header} to {file.tell()} bytes"
        starts = np.cumsum([0, *lengths], dtype=np.int64)
        np.save(temporary / "starts.npy", starts, allow_pickle=False)
        write_json(temporary / "about.json", {
            "file": Path(path).name, "documents": len(lengths), "tokens": int(starts[-1]), "bytes": read_bytes,
        })
    seconds = time.perf_counter() - begin
    print0(f"Tokenised {path}: {len(lengths):,} documents, {starts[-1]:,} tokens in {seconds:.1f} s; kept in {place}")


def _write_header(file: BinaryIO, dtype: np.dtype, length: int) -> None:
    # numpy leaves room in the header for the shape to grow
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "shape": (length,), **_HEADER})


def _read(place: Path) -> Corpus:
    try:
        tokens = np.load(place / "tokens.npy", mmap_mode="r", allow_pickle=False)
        starts = np.load(place / "starts.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(place, error) from error
    if tokens.ndim != 1 or starts.ndim != 1 or not len(starts) or starts[-1] != len(tokens):
        raise _damaged(place, "its files do not belong together")
    return Corpus.of_array(tokens, starts)


def _damaged(place: Path, reason: Any) -> CheckpointError:
    return CheckpointError(f"Kept tokens in {place} are damaged: {reason}", hint=f"remove the folder: rm -r {place}")


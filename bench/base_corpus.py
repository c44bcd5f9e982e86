"""The corpus of the base model: simple stories, encyclopedic paragraphs, textbooks and novels, split by document.

    python -m bench.base_corpus --data ../shared/data --output data/base_corpus

Writes train.jsonl, what nobody trains on (heldout_<part>.jsonl), and corpus.json with counts.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import print0, run_main, write_json, write_jsonl
from nanochat.config import load_config
from nanochat.errors import UserError

HELD_OUT_SHARE = 0.03  # of documents without a split of their own


@dataclass(frozen=True, kw_only=True)
class BaseCorpusConfig:
    data: str = ""                    # folder of the data sets (required)
    output: str = "data/base_corpus"  # folder to write
    megabytes: float = 4.0            # most text taken from textbooks, and as much again from novels


CONFIG = BaseCorpusConfig
Piece = tuple[bool, dict[str, str]]  # whether it is held out, document


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.base_corpus", description=__doc__ or "")
    data, output = Path(config.data), Path(config.output)
    if not config.data or not (data / "text").is_dir():
        raise UserError(f"No data sets in {config.data!r}", hint="--data ../shared/data")
    output.mkdir(parents=True, exist_ok=True)
    limit = int(config.megabytes * 1e6)
    parts = {
        "stories": list(stories(data / "fairytaleqa")),
        "encyclopedia": list(encyclopedia(data / "squad")),
        "textbooks": list(sample(data / "text" / "openstax.jsonl.gz", limit)),
        "novels": list(sample(data / "text" / "eltec_novels.jsonl.gz", limit)),
    }
    train = [document for part in parts.values() for is_held_out, document in part if not is_held_out]
    write_jsonl(output / "train.jsonl", train)
    counts = {"train": count(train)}
    for name, part in parts.items():
        held_out = [document for is_held_out, document in part if is_held_out]
        write_jsonl(output / f"heldout_{name}.jsonl", held_out)
        counts[f"heldout_{name}"] = count(held_out)
        counts[f"train_{name}"] = count([document for is_held_out, document in part if not is_held_out])
    write_json(output / "corpus.json", counts)
    for name, (documents, size) in counts.items():
        print0(f"{name:<22} {documents:>7,} documents {size / 1e6:>7.2f} MB")
    return 0


def count(documents: list[dict[str, str]]) -> tuple[int, int]:
    """Documents and bytes of their text."""
    return len(documents), sum(len(document["content"].encode()) for document in documents)


def read(path: Path) -> Iterator[dict]:
    """The records of a JSONL file, packed or not."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        yield from map(json.loads, file)


def stories(folder: Path) -> Iterator[Piece]:
    """Whole stories, their sections joined; held out are those of the test questions."""
    tested = {name.rpartition("-")[0] for row in read(folder / "test.jsonl.gz") for name in row["supporting_ids"]}
    tested |= {name.rpartition("-")[0] for row in read(folder / "dev.jsonl.gz") for name in row["supporting_ids"]}
    sections: dict[str, list[dict]] = {}
    for row in read(folder / "corpus.jsonl.gz"):
        sections.setdefault(row["id"].rpartition("-")[0], []).append(row)
    for name, rows in sections.items():
        text = "\n".join(row["content"] for row in rows)
        yield name in tested, {"id": name, "title": rows[0]["title"], "content": f"{rows[0]['title']}\n{text}"}


def encyclopedia(folder: Path) -> Iterator[Piece]:
    """Paragraphs under the name of their article; held out are the articles of the dev questions."""
    for row in read(folder / "corpus.jsonl.gz"):
        text = f"{row['title']}\n{row['content']}"
        yield row["split"] != "train", {"id": row["id"], "title": row["title"], "content": text}


def sample(path: Path, limit: int) -> Iterator[Piece]:
    """Documents in the order of a hash of their id, up to `limit` bytes of text."""
    taken = 0
    for row in sorted(read(path), key=lambda row: _place(row["id"])):
        taken += len(row["content"].encode())
        if taken > limit:
            return
        held_out = _place(row["id"] + "/split") < HELD_OUT_SHARE
        yield held_out, {"id": row["id"], "title": row["title"], "content": row["content"]}


def _place(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


if __name__ == "__main__":
    raise SystemExit(run_main(main))

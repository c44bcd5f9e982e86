"""Real English passages and known-item queries for the speed benches, out of the developers' data.

Every corpus of the data folder, cut at sentences into passages of 60 to 100 words (a shorter document of 20 words or
more is one passage), interleaved so that any count has the mix of the whole: some 430,000 passages. Beyond them
come rounds in which the sentences of neighbouring passages are shuffled into new ones: same words, new documents.
"""

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from nanochat.errors import UserError
from nanochat.retrieval.document import Document

FILES = (
    "squad/corpus", "2wikimultihop/corpus", "hotpotqa/corpus", "fairytaleqa/corpus", "ir_scifact/corpus",
    "pubmedqa/corpus", "qasc/corpus", "strategyqa/corpus", "medquad/qa_docs",
    "text/openstax", "text/eltec_novels", "text/peps", "text/wikitext2_valid",
)
_MIN_WORDS, _FULL_WORDS, _MAX_WORDS = 20, 60, 100
_BLOCK = 64  # neighbouring passages whose sentences are mixed in later rounds
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

# (corpus, title, sentences) of one passage
_Draft = tuple[str, str, list[str]]


def real_passages(data_folder: str | Path, count: int) -> list[Document]:
    """The first `count` passages; the same ones every time, and a prefix of any larger count."""
    return list(iterate_passages(data_folder, count))


def iterate_passages(data_folder: str | Path, count: int) -> Iterator[Document]:
    """The same passages one by one, for builds that must not hold them all."""
    folder = Path(data_folder)
    missing = [name for name in FILES if not (folder / f"{name}.jsonl.gz").is_file()]
    if missing:
        raise UserError(f"No passages in {folder}: {missing[0]}.jsonl.gz is missing", hint="--data ../shared/data")
    rounds = chain(_interleave(folder), chain.from_iterable(_shuffled(folder, seed) for seed in range(1, 1_000)))
    for number, (corpus, title, sentences) in enumerate(islice(rounds, count)):
        yield Document(id=f"p{number}", title=title, content=" ".join(sentences), source=corpus)


def known_item_queries(documents: Sequence[Document], count: int, *, seed: int = 0) -> list[tuple[str, int]]:
    """(query, position of the passage it is from): eight words in a row out of one sentence of a random passage."""
    choose = random.Random(seed)
    queries: list[tuple[str, int]] = []
    while len(queries) < count:
        position = choose.randrange(len(documents))
        words = choose.choice(_SENTENCE_END.split(documents[position].content)).split()
        if len(words) >= 8:
            start = choose.randrange(len(words) - 7)
            queries.append((" ".join(words[start : start + 8]), position))
    return queries


def _interleave(folder: Path) -> Iterator[_Draft]:
    """All corpora side by side, each as often as its size asks for."""
    sources = []
    for name in FILES:
        path = folder / f"{name}.jsonl.gz"
        sources.append([0.0, 1 / path.stat().st_size, _read(path, name.split("/")[0])])
    while sources:
        source = min(sources, key=lambda entry: entry[0])
        draft = next(source[2], None)
        if draft is None:
            sources.remove(source)
        else:
            source[0] += source[1]
            yield draft


def _read(path: Path, corpus: str) -> Iterator[_Draft]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            title = record.get("title") or ""
            for sentences in _pack(_SENTENCE_END.split(record["content"].strip())):
                yield corpus, title, sentences


def _pack(sentences: Iterable[str]) -> Iterator[list[str]]:
    """Sentences in groups of 60 to 100 words; a remainder is dropped unless it is all there is."""
    group: list[str] = []
    words = total = 0
    for sentence in sentences:
        parts = sentence.split()
        for start in range(0, len(parts), _MAX_WORDS):
            part = parts[start : start + _MAX_WORDS]
            if words + len(part) > _MAX_WORDS:
                if words >= _MIN_WORDS:
                    yield group
                    total += 1
                group, words = [], 0
            group.append(" ".join(part))
            words += len(part)
            if words >= _FULL_WORDS:
                yield group
                total += 1
                group, words = [], 0
    if words >= _MIN_WORDS and not total:
        yield group


def _shuffled(folder: Path, seed: int) -> Iterator[_Draft]:
    choose = random.Random(seed)
    drafts = _interleave(folder)
    while block := list(islice(drafts, _BLOCK)):
        sentences = [sentence for _, _, group in block for sentence in group]
        choose.shuffle(sentences)
        for number, group in enumerate(_pack(sentences)):
            corpus, title, _ = block[number % len(block)]
            yield corpus, title, group

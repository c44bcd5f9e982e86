"""Build a knowledge base: documents in, a folder with documents and a search index out.

    python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb --type simple
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common import print0, run_main
from nanochat.config import load_config
from nanochat.errors import ConfigError
from nanochat.retrieval.base import check_retriever_type


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    documents: str = ""               # file with one JSON document per line: .jsonl or .jsonl.gz (required)
    output: str = ""                  # folder to write; a knowledge base that is there is replaced (required)
    type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # retriever to build the index for
    model: str = ""                   # encoder for dense and hybrid, e.g. all-MiniLM-L6-v2
    limit: int = 0                    # read only so many documents; 0 reads all
    chunk_words: int = 0              # split longer documents into passages of so many words at most; 0: keep whole


CONFIG = BuildConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="nanochat.retrieval", description=__doc__ or "")
    return build(config.documents, config.output, config.type, model=config.model, limit=config.limit,
                 chunk_words=config.chunk_words)


def build(
    documents: str, output: str, retriever_type: str, *, model: str = "", limit: int = 0, chunk_words: int = 0
) -> int:
    """Read a file of documents, build the knowledge base, print what was made and how to go on."""
    for flag, value in (("documents", documents), ("output", output)):
        if not value:
            raise ConfigError(
                f"--{flag} is missing",
                hint="python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb --type simple",
            )
    if limit < 0:
        raise ConfigError(f"--limit is {limit}", hint="give a positive number, or 0 for all documents")
    if chunk_words < 0:
        raise ConfigError(f"--chunk_words is {chunk_words}", hint="80 suits small models; 0 keeps documents whole")
    check_retriever_type(retriever_type)
    if model and retriever_type in ("simple", "bm25"):
        print0(f"--model {model} has no effect: the {retriever_type} retriever uses no model")
    # imported here so that --help does not wait for it
    from nanochat.retrieval.knowledge_base import KnowledgeBase
    from nanochat.retrieval.readers import read_documents

    started = time.perf_counter()
    found = read_documents(documents, limit or None, progress=print0)
    print0(f"Read {len(found):,} documents from {documents}")
    knowledge_base = KnowledgeBase.build(found, output, retriever_type, chunk_words=chunk_words, progress=print0)
    unit = "documents"
    if chunk_words:
        unit = "passages"
        print0(f"{len(found):,} documents -> {len(knowledge_base.documents):,} passages of at most {chunk_words} words")
    num_words = sum(len(document.content.split()) for document in knowledge_base.documents)
    size = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
    print0(
        f"Wrote {output}: {len(knowledge_base.documents):,} {unit}, {num_words:,} words, {retriever_type} index, "
        f"{size / 1e6:.1f} MB, {time.perf_counter() - started:.1f} s"
    )
    print0(
        f"Next: python -m scripts.rag_finetune --knowledge_base {output} --source mid "
        f"--retriever_type {retriever_type}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Build a knowledge base: files and folders in, a folder with documents and a search index out.

    python -m nanochat.retrieval --documents data/handbook faq.jsonl --output data/my_kb --type hybrid
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanochat.common import base_dir, print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, DocumentError
from nanochat.retrieval.base import check_retriever_type

if TYPE_CHECKING:
    from nanochat.retrieval.chunking import Chunking
    from nanochat.retrieval.document import Document
    from nanochat.retrieval.linting import Linter, LintReport

_SHOWN_SKIPS = 10
_LINTED = 10_000  # documents that a build looks at; `nanochat kb lint` looks at all
_NOT_LINTED = ("near_duplicate", "mixed_languages")  # checks that take longer than the build


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    documents: tuple[str, ...] = ()   # files and folders, see docs/knowledge_base.md for the kinds (required)
    output: str = ""                  # folder to write; a knowledge base that is there gets a new version (required)
    type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # retriever to build the index for
    model: str = ""                   # encoder for dense and hybrid: all-MiniLM-L6-v2, a folder, a hub name, or lsa
    fusion: Literal["convex", "rrf"] = "convex"  # how hybrid joins its two rankings
    limit: int = 0                    # read only so many documents; 0 reads all
    chunk_words: int = 0              # split longer documents into passages of so many words at most; 0: keep whole
    chunk_tokens: int = 0             # the same in tokens of --chunk_tokenizer
    chunk_overlap: int = 0            # words or tokens that a passage repeats from the one before, in whole sentences
    chunk_tokenizer: str = ""         # tokenizer.json that counts tokens; empty: that of scripts.tok_train
    strict: bool = False              # stop at anything that cannot be read and at warnings about the documents


CONFIG = BuildConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="nanochat.retrieval", description=__doc__ or "")
    return build(config)


def build(config: BuildConfig) -> int:
    """Read documents, build the knowledge base, print what was made and how to go on."""
    check(config)
    # imported here so that --help does not wait for it
    from nanochat.retrieval.knowledge_base import KnowledgeBase
    from nanochat.retrieval.linting import Linter

    started = time.perf_counter()
    sources: dict[str, dict[str, Any]] = {}
    skipped: list[str] = []
    linter = Linter(skip=_NOT_LINTED)
    documents = looked_at(read(config, sources, skipped), linter, strict=config.strict)
    chunking = chunking_of(config)
    try:
        knowledge_base = KnowledgeBase.build(documents, config.output, config.type, chunking=chunking, sources=sources,
                                             settings=settings_of(config), progress=print0)
    finally:
        # also where nothing is left: what was skipped is why
        _tell_skipped(skipped)
    num_documents, num_passages = knowledge_base.num_documents, len(knowledge_base.documents)
    print0(f"Read {num_documents:,} documents from {', '.join(config.documents)}")
    unit = "documents"
    if chunking.unit != "off":
        unit = "passages"
        print0(f"{num_documents:,} documents -> {num_passages:,} passages of at most {chunking.size} {chunking.unit}")
    _tell_findings(linter.report(), num_documents, config)
    stats = knowledge_base.stats()
    size = stats["bytes_of_documents"] + sum(stats["bytes_of_indexes"].values())
    print0(f"Wrote {config.output}: {num_passages:,} {unit}, {config.type} index, {size / 1e6:.1f} MB, "
           f"version {knowledge_base.version}, {time.perf_counter() - started:.1f} s")
    print0(f"Try:  nanochat kb search \"your question\" --knowledge_base {config.output}")
    print0(f"Next: python -m scripts.rag_finetune --knowledge_base {config.output} --source mid "
           f"--retriever_type {config.type}")
    return 0


def check(config: BuildConfig) -> None:
    """Raise ConfigError for settings that cannot work together; name those without effect."""
    for flag, value in (("documents", config.documents), ("output", config.output)):
        if not value:
            raise ConfigError(
                f"--{flag} is missing",
                hint="python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb --type simple",
            )
    if config.limit < 0:
        raise ConfigError(f"--limit is {config.limit}", hint="give a positive number, or 0 for all documents")
    for name in ("chunk_words", "chunk_tokens", "chunk_overlap"):
        if getattr(config, name) < 0:
            raise ConfigError(f"--{name} is {getattr(config, name)}",
                              hint="80 words suit small models; 0 keeps documents whole")
    if config.chunk_words and config.chunk_tokens:
        raise ConfigError("--chunk_words and --chunk_tokens are both given", hint="give one of them")
    check_retriever_type(config.type)
    if config.model and config.type in ("simple", "bm25"):
        print0(f"--model {config.model} has no effect: the {config.type} retriever uses no model")
    if config.type != "hybrid" and origins(config)["fusion"] in ("flag", "file"):
        print0(f"--fusion has no effect: the {config.type} retriever fuses nothing")
    if config.chunk_overlap and not (config.chunk_words or config.chunk_tokens):
        print0("--chunk_overlap has no effect without --chunk_words or --chunk_tokens")


def settings_of(config: BuildConfig) -> dict[str, Any]:
    """The settings of the retriever."""
    if config.type in ("simple", "bm25"):
        return {}
    return {"model": config.model} if config.type == "dense" else {"model": config.model, "fusion": config.fusion}


def chunking_of(config: BuildConfig) -> "Chunking":
    """How documents become passages."""
    from nanochat.retrieval.chunking import Chunking

    if config.chunk_tokens:
        tokenizer = Path(config.chunk_tokenizer or base_dir() / "tokenizer")
        if not tokenizer.exists():
            raise ConfigError(f"Tokenizer not found: {tokenizer}",
                              hint="--chunk_tokenizer FILE, or train one: python -m scripts.tok_train")
        return Chunking("tokens", config.chunk_tokens, config.chunk_overlap, str(tokenizer))
    if config.chunk_words:
        return Chunking("words", config.chunk_words, config.chunk_overlap)
    return Chunking()


def read(config: BuildConfig, sources: dict[str, dict[str, Any]], skipped: list[str]) -> "Iterator[Document]":
    """The documents, as they are read. One file of records is read strictly, as is everything with --strict; of the
    rest, what cannot be read goes into `skipped`, and what `sync` shall know into `sources`."""
    from nanochat.retrieval.readers import kind_of, scan_documents
    from nanochat.retrieval.readers.bulk import named
    from nanochat.retrieval.writing.sync import documents_from, file_state

    limit = config.limit or None
    alone = Path(config.documents[0]) if len(config.documents) == 1 else None
    if alone is not None and not alone.is_dir() and kind_of(alone.name) in (".jsonl", ".ndjson"):
        # as it is before it is read: what is written meanwhile is a change
        state = file_state(alone, {}) if alone.is_file() else {}
        for _, entry in scan_documents(alone, limit):
            if isinstance(entry, DocumentError):
                raise entry
            yield named(entry, alone.name)
        if limit is None:
            sources[alone.name] = state
        return
    yield from documents_from(config.documents, sources, skipped, progress=print0, limit=limit)
    if config.strict and skipped:
        raise DocumentError(f"Strict: {skipped[0]}" + (f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""),
                            hint="repair or remove what cannot be read, or leave out --strict")


def looked_at(documents: "Iterable[Document]", linter: "Linter", *, strict: bool) -> "Iterator[Document]":
    """The documents as they pass; the linter sees the first of them, with `strict` all, and then anything worse than
    info stops the build before it is complete."""
    for number, document in enumerate(documents):
        if strict or number < _LINTED:
            linter.look(document)
        yield document
    found = [] if not strict or (report := linter.report()).is_clean else report.found
    if found:
        raise DocumentError(f"Strict: {found[0].count:,} documents with {found[0].meaning}, first {found[0].ids[0]!r}",
                            hint="see them all: nanochat kb lint --documents ...; or leave out --strict")


def _tell_findings(report: "LintReport", num_documents: int, config: BuildConfig) -> None:
    found = [finding for finding in report.found if finding.severity != "info"]
    if not found:
        return
    some = f" (of the first {report.num_documents:,} documents)" if report.num_documents < num_documents else ""
    print0(f"Worth a look{some}: " + "; ".join(f"{finding.count:,} {finding.name} (first {finding.ids[0]})"
                                                for finding in found[:_SHOWN_SKIPS]))
    print0(f"  all of it: nanochat kb lint {' '.join(config.documents)} --report lint_report")


def _tell_skipped(skipped: Sequence[str]) -> None:
    from nanochat.retrieval.readers.files import skip_lines

    for line in skip_lines(skipped, _SHOWN_SKIPS):
        print0(line)


if __name__ == "__main__":
    raise SystemExit(run_main(main))

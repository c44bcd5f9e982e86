"""Documents for RAG: write an example set, build a knowledge base, or check a file of documents.

    python -m scripts.prepare_rag_dataset --mode example --output data/rag_examples
    python -m scripts.prepare_rag_dataset --mode build --documents data/my_documents.jsonl --output data/my_kb
    python -m scripts.prepare_rag_dataset --mode validate --documents data/my_documents.jsonl
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common import print0, run_main, write_jsonl
from nanochat.config import load_config
from nanochat.errors import ConfigError, DocumentError, UserError
from nanochat.retrieval import Document

LONG_WORDS, SHORT_WORDS = 2000, 20
_SHOWN_ERRORS, _SHOWN_IDS = 10, 3


@dataclass(frozen=True, kw_only=True)
class PrepareRagDatasetConfig:
    mode: Literal["example", "build", "validate"] = "example"  # what to do
    documents: str = ""               # build, validate: file with one JSON document per line (.jsonl or .jsonl.gz)
    output: str = ""                  # example, build: folder to write; validate: knowledge base to check as well
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # example, build: index to make
    model: str = ""                   # build: encoder for dense and hybrid
    limit: int = 0                    # build, validate: read only so many documents; 0 reads all


CONFIG = PrepareRagDatasetConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.prepare_rag_dataset", description=__doc__ or "")
    if config.mode == "example":
        return write_example(config)
    if not config.documents and not (config.mode == "validate" and config.output):
        raise ConfigError("--documents is missing", hint="name the file: --documents my_documents.jsonl")
    if config.mode == "validate":
        return validate(config)
    from nanochat.retrieval.__main__ import build

    return build(config.documents, config.output, config.retriever_type, model=config.model, limit=config.limit)


def write_example(config: PrepareRagDatasetConfig) -> int:
    """Write documents.jsonl, queries_train.jsonl and knowledge_base/ into the output folder."""
    from nanochat.retrieval import KnowledgeBase, check_retriever_type
    from tasks.example_documents import SOURCE, example_documents, example_questions

    if not config.output:
        raise ConfigError("--output is missing", hint="name a folder: --output data/rag_examples")
    check_retriever_type(config.retriever_type)
    folder = Path(config.output)
    for name in ("documents", "limit", "model"):
        if getattr(config, name):
            print0(f"--{name} has no effect with --mode example")
    for name, mark in (("documents.jsonl", SOURCE), ("queries_train.jsonl", '"example_')):
        if (folder / name).is_file() and mark not in (folder / name).read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"Refusing to replace {folder / name}: it is not the example",
                            hint="choose another folder, e.g. --output data/rag_examples")
    documents, questions = example_documents(), example_questions()
    write_jsonl(folder / "documents.jsonl", documents)
    write_jsonl(folder / "queries_train.jsonl", questions)
    records = [Document.from_dict(record) for record in documents]
    KnowledgeBase.build(records, folder / "knowledge_base", config.retriever_type)
    print0(f"Wrote {folder / 'documents.jsonl'}: {len(documents)} documents")
    print0(f"Wrote {folder / 'queries_train.jsonl'}: {len(questions)} questions with answers")
    print0(f"Wrote {folder / 'knowledge_base'}: {config.retriever_type} index")
    print0(f"Next: python -m scripts.rag_finetune --knowledge_base {folder / 'knowledge_base'} --source mid "
           f"--retriever_type {config.retriever_type}")
    return 0


def validate(config: PrepareRagDatasetConfig) -> int:
    """Print what is in the documents (and the knowledge base); 2 when any line cannot be used."""
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.readers import scan_documents

    documents: list[Document] = []
    errors: list[DocumentError] = []
    if config.documents:
        for _, entry in scan_documents(config.documents, config.limit or None):
            (errors if isinstance(entry, DocumentError) else documents).append(entry)
        print0(config.documents)
        print0(report(documents, len(errors)))
        if not documents and not errors:
            errors.append(DocumentError(f"{config.documents}: holds no documents"))
    for error in errors[:_SHOWN_ERRORS]:
        print(f"Error: {error.problem}\n  hint: {error.hint}", file=sys.stderr)
    if len(errors) > _SHOWN_ERRORS:
        print(f"and {len(errors) - _SHOWN_ERRORS} more errors", file=sys.stderr)
    if config.output:
        knowledge_base = KnowledgeBase.open(config.output)
        knowledge_base.verify()
        kinds = ", ".join(knowledge_base.manifest["indexes"])
        print0(f"{config.output}: {len(knowledge_base.documents):,} documents, indexes: {kinds}; all files as written")
    return 2 if errors else 0


def report(documents: Sequence[Document], num_errors: int) -> str:
    """A table of counts and lengths, with the first ids of what deserves a look."""
    num_words = {document.id: len(document.content.split()) for document in documents}
    lengths = sorted(num_words.values()) or [0]
    titles = Counter(document.title.strip().lower() for document in documents)
    contents: dict[str, str] = {}
    repeated = [item.id for item in documents if contents.setdefault(item.content, item.id) != item.id]
    rows: list[tuple[str, str, list[str]]] = [
        ("documents", f"{len(documents):,}", []),
        ("lines with errors", f"{num_errors:,}", []),
        ("words (least, median, most)", f"{lengths[0]:,} / {lengths[len(lengths) // 2]:,} / {lengths[-1]:,}", []),
    ]
    findings = {
        f"longer than {LONG_WORDS:,} words": [name for name, words in num_words.items() if words > LONG_WORDS],
        f"shorter than {SHORT_WORDS} words": [name for name, words in num_words.items() if words < SHORT_WORDS],
        "without a title": [document.id for document in documents if not document.title.strip()],
        "sharing a title": [document.id for document in documents if titles[document.title.strip().lower()] > 1
                            and document.title.strip()],
        "repeating a content": repeated,
    }
    rows += [(name, f"{len(ids):,}", ids[:_SHOWN_IDS]) for name, ids in findings.items()]
    return "\n".join(f"  {name:<28} {count:>18}  {', '.join(ids)}".rstrip() for name, count, ids in rows)


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Documents and questions for RAG: an example set, an invented world, a knowledge base, a check, or training data.

    python -m scripts.prepare_rag_dataset --mode example --output data/rag_examples
    python -m scripts.prepare_rag_dataset --mode world --output data/world --seed 1
    python -m scripts.prepare_rag_dataset --mode build --documents data/my_documents.jsonl --output data/my_kb
    python -m scripts.prepare_rag_dataset --mode validate --documents data/my_documents.jsonl
    python -m scripts.prepare_rag_dataset --mode questions --documents data/my_kb --output data/my_questions.jsonl
    python -m scripts.prepare_rag_dataset --mode synthesize --knowledge_base data/my_kb --output data/my_training_data
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.common import print0, run_main, write_folder, write_json, write_jsonl
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, DocumentError, UserError
from nanochat.retrieval import Document
from scripts.multihop_files import MULTIHOP, chain_lines, check_hops, world_chains

_SHOWN_ERRORS = 10
NAMES = "names.json"


@dataclass(frozen=True, kw_only=True)
class PrepareRagDatasetConfig:
    mode: Literal["example", "world", "build", "validate", "questions", "synthesize"] = "example"  # what to do
    documents: tuple[str, ...] = ()   # build, validate, questions, synthesize: files and folders; questions: or a KB
    knowledge_base: str = ""          # synthesize: knowledge base to ask about, in the place of --documents
    output: str = ""                  # folder to write; questions: file; validate: knowledge base to check as well
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # index to make; of a KB: its own
    model: str = ""                   # build: encoder for dense and hybrid
    limit: int = 0                    # build, validate, questions, synthesize: read only so many documents; 0 reads all
    chunk_words: int = 0              # longest passage; build: 0 keeps documents whole; synthesize: 200 unless given
    seed: int = 0                     # world, questions, synthesize: another number gives another choice
    num_entities: int = 1000          # world: invented people, places and things, one document each
    questions_per_entity: int = 2     # world: fewer where a document has fewer facts
    questions_name: str = "queries_train.jsonl"  # world: its questions file; training finds this name by itself
    hops: int = 1                     # world, synthesize: also questions of 2 ... so many hops, in files of their own
    exclude: tuple[str, ...] = ()     # world: folders of other worlds, no name of which is used again
    questions_per_document: int = 4   # questions, synthesize: fewer where a document has less to ask for
    test_output: str = ""             # questions: second file, about other documents than the first
    test_share: float = 0.2           # questions, synthesize: share of the documents kept for the test
    validation_share: float = 0.1     # synthesize: share of the documents kept for validation
    kinds: tuple[str, ...] = ()       # synthesize: only these rules, such as faq table; empty: all
    max_documents: int = 8            # synthesize: documents shown in an episode: 1 ... this, equally often
    present_share: float = 0.75       # synthesize: episodes whose documents answer; the others teach to abstain
    random_share: float = 0.15        # synthesize: distractors drawn at random instead of from the retriever
    edited_share: float = 0.1         # synthesize: answerable episodes with another value in the evidence
    contradiction_share: float = 0.08  # synthesize: answerable episodes where a second document says otherwise
    injected_share: float = 0.05      # synthesize: answerable episodes where a distractor gives orders
    filter_top_k: int = 20            # synthesize: the retriever must find the evidence among so many hits
    teacher_url: str = ""             # synthesize: OpenAI-compatible server that writes questions, too
    teacher_model: str = ""           # synthesize: name of its model; the key is read from NANOCHAT_TEACHER_KEY
    teacher_questions: int = 4        # synthesize: questions the teacher is asked for per document
    teacher_timeout_s: float = 60.0   # synthesize: longest wait for one of its replies
    closed_book_source: str = ""      # synthesize: checkpoint whose answers without documents disqualify a question
    closed_book_tag: str = ""         # synthesize: its tag; empty: the most recent one


CONFIG = PrepareRagDatasetConfig
# mode -> what it reads besides --mode and --output
SETTINGS: dict[str, tuple[str, ...]] = {
    "example": ("retriever_type",),
    "world": ("retriever_type", "seed", "num_entities", "questions_per_entity", "questions_name", "hops", "exclude"),
    "build": ("documents", "retriever_type", "model", "limit", "chunk_words"),
    "validate": ("documents", "limit"),
    "questions": ("documents", "limit", "seed", "questions_per_document", "test_output", "test_share"),
    "synthesize": (
        "documents", "knowledge_base", "retriever_type", "limit", "chunk_words", "seed", "questions_per_document",
        "test_share", "validation_share", "kinds", "max_documents", "present_share", "random_share", "edited_share",
        "contradiction_share", "injected_share", "filter_top_k", "teacher_url", "teacher_model", "teacher_questions",
        "teacher_timeout_s", "closed_book_source", "closed_book_tag", "hops",
    ),
}


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.prepare_rag_dataset", description=__doc__ or "")
    is_check = config.mode == "validate" and config.output
    if "documents" in SETTINGS[config.mode] and not config.documents and not config.knowledge_base and not is_check:
        raise ConfigError("--documents is missing", hint="name the file: --documents my_documents.jsonl")
    if not config.output and config.mode not in ("build", "validate"):
        place = "file: --output data/my_questions.jsonl" if config.mode == "questions" else "folder: --output data/new"
        raise ConfigError("--output is missing", hint=f"name a {place}")
    for name, origin in origins(config).items():
        if origin in ("flag", "file") and name not in ("mode", "output", *SETTINGS[config.mode]):
            print0(f"--{name} has no effect with --mode {config.mode}")
    if "hops" in SETTINGS[config.mode]:
        check_hops(config)
    return MODES[config.mode](config)


def write_training_data(config: PrepareRagDatasetConfig) -> int:
    """Write questions and episodes made from documents, and a page that describes them."""
    from scripts.synthesize import synthesize

    return synthesize(config)


def build(config: PrepareRagDatasetConfig) -> int:
    """Build a knowledge base, as python -m nanochat.retrieval does."""
    from nanochat.retrieval.__main__ import BuildConfig
    from nanochat.retrieval.__main__ import build as build_knowledge_base

    same = {name: getattr(config, name) for name in ("documents", "output", "model", "limit", "chunk_words")}
    return build_knowledge_base(BuildConfig(**same, type=config.retriever_type))


def write_example(config: PrepareRagDatasetConfig) -> int:
    """Write documents.jsonl, queries_train.jsonl and knowledge_base/ into the output folder."""
    from nanochat.retrieval import KnowledgeBase, check_retriever_type
    from tasks.example_documents import SOURCE, example_documents, example_questions

    check_retriever_type(config.retriever_type)
    folder = Path(config.output)
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


def write_world(config: PrepareRagDatasetConfig) -> int:
    """Write an invented world: documents.jsonl, questions, names.json and knowledge_base/, all or nothing."""
    from nanochat.retrieval import KnowledgeBase, check_retriever_type
    from tasks.world_chains import CHAIN_WORLD
    from tasks.worlds import WorldConfig, make_world

    check_retriever_type(config.retriever_type)
    for name in ("num_entities", "questions_per_entity"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} is {getattr(config, name)}", hint="give a number above zero")
    name, folder = config.questions_name, Path(config.output)
    if Path(name).name != name or not name.endswith(".jsonl") or name in ("documents.jsonl", MULTIHOP):
        raise ConfigError(f"--questions_name is {name!r}", hint="a plain file name, such as queries_test.jsonl")
    _check_world_place(folder, name)
    excluded = frozenset(invented for other in config.exclude for invented in read_names(Path(other)))
    # where questions go on, the values that documents state are things with documents of their own
    settings = CHAIN_WORLD if config.hops > 1 else {}
    world = make_world(WorldConfig(seed=config.seed, num_entities=config.num_entities,
                                   questions_per_entity=config.questions_per_entity, **settings),
                       exclude_names=excluded)
    chains = world_chains(world, config, excluded) if config.hops > 1 else None
    names = world.names | (chains.names if chains else frozenset())
    with write_folder(folder.resolve()) as new:
        write_jsonl(new / "documents.jsonl", world.documents)
        write_jsonl(new / name, [question.to_dict() for question in world.questions])
        if chains and chains.questions:
            write_jsonl(new / MULTIHOP, chains.questions)
        documents = [Document.from_dict(record) for record in world.documents]
        KnowledgeBase.build(documents, new / "knowledge_base", config.retriever_type)
        write_json(new / NAMES, sorted(names))
    num_unanswerable = sum(not question.answers for question in world.questions)
    print0(f"Wrote {folder / 'documents.jsonl'}: {len(world.documents):,} documents of world {config.seed}")
    print0(f"Wrote {folder / name}: {len(world.questions):,} questions, {num_unanswerable:,} without an answer")
    for line in chain_lines(chains, folder / MULTIHOP) if chains else ():
        print0(line)
    print0(f"Wrote {folder / 'knowledge_base'}: {config.retriever_type} index")
    print0(f"Wrote {folder / NAMES}: {len(names):,} invented names"
           + (f", none of them in {', '.join(config.exclude)}" if config.exclude else ""))
    more = f"--source mid --retriever_type {config.retriever_type}"
    script = f"rag_finetune {more}" if name == "queries_train.jsonl" else "rag_eval"
    print0(f"Next: python -m scripts.{script} --knowledge_base {folder / 'knowledge_base'} --questions {folder / name}")
    return 0


def _check_world_place(folder: Path, questions_name: str) -> None:
    """Refuse to replace anything but a world that this command wrote."""
    found = sorted(os.listdir(folder)) if folder.is_dir() else []
    others = set(found) - {"documents.jsonl", questions_name, MULTIHOP, NAMES, "knowledge_base"}
    if others or (found and NAMES not in found) or (folder.exists() and not folder.is_dir()):
        what = f": it holds {sorted(others)[0]}" if others else ": it is not a world of this command"
        raise UserError(f"Refusing to replace {folder}{what}", hint="choose a new folder, e.g. --output data/world_2")


def read_names(folder: Path) -> list[str]:
    """The invented names of a world that --mode world wrote."""
    path = folder / NAMES
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        hint = f"write it: python -m scripts.prepare_rag_dataset --mode world --output {folder}"
        raise UserError(f"World not found: {path}", hint=hint) from missing
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="write that world again: --mode world") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: not a list of names", hint="write that world again: --mode world")
    return names


def write_questions(config: PrepareRagDatasetConfig) -> int:
    """Write fill-in questions about documents, those for a test about other documents than the rest."""
    from nanochat.rag.synthesis import cloze_questions, split_by_document
    from nanochat.retrieval import KnowledgeBase, read_documents

    if config.questions_per_document < 1 or config.limit < 0:
        raise ConfigError("--questions_per_document must be above zero and --limit not below",
                          hint="leave them out for 4 questions and all documents")
    if not 0 < config.test_share < 1:
        raise ConfigError(f"--test_share is {config.test_share}", hint="give a share between 0 and 1, such as 0.2")
    if not config.test_output and origins(config)["test_share"] in ("flag", "file"):
        print0("--test_share has no effect without --test_output")
    outputs = [Path(place) for place in (config.output, config.test_output) if place]
    _check_question_places(outputs)
    is_knowledge_base = len(config.documents) == 1 and (Path(config.documents[0]) / "CURRENT").is_file()
    documents = (KnowledgeBase.open(config.documents[0]).documents if is_knowledge_base
                 else read_documents(config.documents, progress=print0))
    documents = documents[: config.limit or None]
    made: Sequence[Mapping[str, Any]] = cloze_questions(
        [document.to_dict() for document in documents], per_document=config.questions_per_document, seed=config.seed
    )
    files = [made] if len(outputs) == 1 else split_by_document(made, test_share=config.test_share)
    if not all(files):
        raise UserError(f"Too few questions: {len(made)} from {len(documents):,} documents",
                        hint="give more documents of whole sentences, with names and numbers in them")
    for path, questions in zip(outputs, files, strict=True):
        write_jsonl(path, questions)
        num_asked = len({question["supporting_ids"][0] for question in questions})
        print0(f"Wrote {path}: {len(questions):,} questions about {num_asked:,} of {len(documents):,} documents")
    kind = "--knowledge_base " + (config.documents[0] if is_knowledge_base else "data/my_kb")
    print0(f"Next: python -m scripts.rag_eval {kind} --questions {outputs[-1]}")
    return 0


def _check_question_places(outputs: Sequence[Path]) -> None:
    for path in outputs:
        if path.suffix != ".jsonl" or path.is_dir():
            raise ConfigError(f"{path}: questions are written into a .jsonl file", hint="e.g. data/my_questions.jsonl")
        # every line of ours says what made it
        lines = path.read_text("utf-8", "replace").split("\n") if path.exists() else []
        if not all('"kind": "cloze"' in line for line in lines if line):
            raise UserError(f"Refusing to replace {path}: it holds other questions", hint="choose another file name")
    if len(set(outputs)) < len(outputs):
        raise ConfigError(f"--output and --test_output are both {outputs[0]}", hint="give two files")


def validate(config: PrepareRagDatasetConfig) -> int:
    """Print what is in the documents (and the knowledge base); 2 when any line cannot be used."""
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.linting import Linter
    from nanochat.retrieval.readers import scan_all

    linter, errors = Linter(), []
    for entry in scan_all(config.documents, config.limit or None) if config.documents else ():
        linter.look(entry)
        errors += [entry] if isinstance(entry, UserError) else []
    if config.documents:
        name = ", ".join(config.documents)
        print0(f"{name}\n{linter.report().table()}\nMore: nanochat kb lint {' '.join(config.documents)}")
        if not linter.report().num_documents and not errors:
            errors.append(DocumentError(f"{name}: holds no documents",
                                        hint="write one JSON object per line: id, title, content"))
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


MODES: dict[str, Callable[[PrepareRagDatasetConfig], int]] = {
    "example": write_example, "world": write_world, "build": build, "validate": validate, "questions": write_questions,
    "synthesize": write_training_data,
}


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Mode synthesize of scripts.prepare_rag_dataset: documents to questions and episodes, with a page of numbers."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import print0, write_folder, write_json, write_jsonl, write_text
from nanochat.config import origins
from nanochat.errors import ConfigError, UserError
from scripts.multihop_files import compose

if TYPE_CHECKING:
    from nanochat.rag.library import Library, Record
    from nanochat.retrieval import KnowledgeBase
    from scripts.prepare_rag_dataset import PrepareRagDatasetConfig

CHUNK_WORDS = 200  # longest passage where documents are read anew
MADE_BY = "prepare_rag_dataset --mode synthesize"
SHARES = ("present_share", "random_share", "edited_share", "contradiction_share", "injected_share", "validation_share",
          "test_share")


def synthesize(config: "PrepareRagDatasetConfig") -> int:
    """Write training data into the output folder, all or nothing."""
    from nanochat.rag.data_page import render_page, statistics_of
    from nanochat.rag.training_data import make_training_data

    data_config = settings_of(config)
    folder = Path(config.output)
    check_place(folder)
    teacher, knows = _teacher(config), _closed_book(config)
    started = time.perf_counter()
    with write_folder(folder.resolve()) as new:
        knowledge_base, place = _knowledge_base(config, new)
        library = _library(knowledge_base, config.retriever_type if _is_given(config, "retriever_type") else "")
        prepared = time.perf_counter()
        print0(f"Read {len(library.documents):,} documents or passages of {place or ', '.join(config.documents)}")
        more = list(_taught(teacher, library, config)) if teacher is not None else []
        data = make_training_data(library, data_config, more=more, knows=knows)
        # an empty file would look like a mistake to whoever reads it
        for name in (name for name in data.questions if data.questions[name]):
            write_jsonl(new / f"queries_{name}.jsonl", data.questions[name])
            write_jsonl(new / f"episodes_{name}.jsonl", data.episodes[name])
        of_several_hops = compose(data, library, config, new)
        statistics = statistics_of(data, made_by=MADE_BY, seed=config.seed, files=_digests(new),
                                   settings=_settings_record(config), teacher=dict(teacher.counts) if teacher else {})
        write_text(new / "statistics.html", render_page(statistics, data))
        statistics["knowledge_base"] = _state(knowledge_base)
        write_json(new / "statistics.json", statistics)
    _report(folder, data, len(library.documents), prepared - started, time.perf_counter() - prepared)
    for line in of_several_hops:
        print0(line)
    where = place or folder / "knowledge_base"
    print0(f"Next: python -m scripts.rag_finetune --knowledge_base {where} --questions {folder} --source mid")
    return 0


def settings_of(config: "PrepareRagDatasetConfig") -> Any:
    """What nanochat.rag.training_data needs to know. Raises ConfigError for settings that cannot work."""
    from nanochat.rag.episodes import EpisodeConfig
    from nanochat.rag.training_data import KINDS, DataConfig
    from nanochat.tokenizer import NUM_DOC_SLOTS

    if bool(config.documents) == bool(config.knowledge_base):
        both = "both given" if config.documents else "missing"
        raise ConfigError(f"--documents and --knowledge_base are {both}", hint="give one: files, or data/my_kb")
    for name, least in (("questions_per_document", 1), ("max_documents", 1), ("filter_top_k", 1), ("limit", 0),
                        ("chunk_words", 0), ("teacher_questions", 1), ("teacher_timeout_s", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"--{name} is {getattr(config, name)}", hint=f"give {least} or more")
    if config.max_documents > NUM_DOC_SLOTS:
        raise ConfigError(f"--max_documents is {config.max_documents}, but a model can tell {NUM_DOC_SLOTS} documents "
                          "apart", hint=f"at most --max_documents {NUM_DOC_SLOTS}")
    for name in SHARES:
        low, high = (0.05, 1.0) if name == "present_share" else (0.0, 0.9)
        if not low <= getattr(config, name) <= high:
            raise ConfigError(f"--{name} is {getattr(config, name)}", hint=f"give a share from {low} to {high}")
    for names in (SHARES[2:5], SHARES[5:]):
        if sum(getattr(config, name) for name in names) > 0.9:
            raise ConfigError(f"{', '.join(f'--{name}' for name in names)} are more than 0.9 together",
                              hint="lower one of them")
    inside = [name for name in config.documents if Path(name).resolve() in Path(config.output).resolve().parents]
    if inside:
        raise ConfigError(f"--output {config.output} lies inside --documents {inside[0]}: it would be read next time",
                          hint="choose a folder beside it, e.g. --output data/my_training_data")
    for name, given in (("documents", config.documents), ("knowledge_base", (config.knowledge_base,))):
        swallowed = [place for place in given if place and _is_inside(place, config.output)]
        if swallowed:
            raise ConfigError(f"--{name} {swallowed[0]} lies inside --output {config.output}, which is replaced",
                              hint=f"choose another folder: --output {Path(config.output)}-2")
    for kind in config.kinds:
        if kind not in KINDS:
            raise ConfigError(f"Unknown kind of question: {kind!r}", hint=f"choose from {', '.join(KINDS)}")
    for name in ("teacher_model", "teacher_questions", "teacher_timeout_s"):
        if not config.teacher_url and _is_given(config, name):
            print0(f"--{name} has no effect without --teacher_url")
    for name in ("chunk_words", "limit"):
        if _given_base(config) and _is_given(config, name):
            print0(f"--{name} has no effect with a knowledge base: its passages are taken as they are")
    episodes = EpisodeConfig(max_documents=config.max_documents, **{name: getattr(config, name) for name in SHARES[:5]})
    return DataConfig(kinds=config.kinds or KINDS, per_document=config.questions_per_document, seed=config.seed,
                      filter_top_k=config.filter_top_k, validation_share=config.validation_share,
                      test_share=config.test_share, episodes=episodes)


def check_place(folder: Path) -> None:
    """Refuse to replace anything but data that this command wrote and nobody changed."""
    if not folder.exists():
        return
    hint = "choose a new folder, e.g. --output data/my_training_data"
    if not folder.is_dir():
        raise UserError(f"Refusing to replace {folder}: it is a file", hint=hint)
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    try:
        statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        statistics = None
    if not isinstance(statistics, dict) or statistics.get("made_by") != MADE_BY:
        raise UserError(f"Refusing to replace {folder}: it is not training data of this command", hint=hint)
    files = statistics.get("files")
    known = files if isinstance(files, dict) else {}
    others = names - {*known, "statistics.json", "statistics.html", "knowledge_base"}
    if others:
        raise UserError(f"Refusing to replace {folder}: it holds {sorted(others)[0]}", hint=hint)
    for name, digest in known.items():
        if name in names and _digest(folder / name) != digest:
            raise UserError(f"Refusing to replace {folder}: {name} was edited since it was written", hint=hint)
    _check_knowledge_base(folder / "knowledge_base", statistics.get("knowledge_base"))


def _check_knowledge_base(place: Path, known: Any) -> None:
    """Refuse to replace a knowledge base that was changed since this command built it."""
    from nanochat.retrieval import KnowledgeBase

    if place.exists() and _state(KnowledgeBase.open(place)) != known:
        raise UserError(f"Refusing to replace {place}: it has changed since it was built here",
                        hint="ask about it as it is: python -m scripts.prepare_rag_dataset --mode synthesize "
                             f"--knowledge_base {place} --output {place.parent}-2")


def _state(knowledge_base: "KnowledgeBase") -> dict[str, Any]:
    return {"fingerprint": knowledge_base.fingerprint, "version": knowledge_base.version}


def _is_inside(place: str, folder: str) -> bool:
    whole = Path(folder).resolve()
    return whole == (path := Path(place).resolve()) or whole in path.parents


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: _digest(path) for path in sorted(folder.glob("*.jsonl"))}


def _given_base(config: "PrepareRagDatasetConfig") -> str:  # the knowledge base named as such or as documents, or ""
    one = config.documents[0] if len(config.documents) == 1 else ""
    return config.knowledge_base or (one if (Path(one) / "CURRENT").is_file() else "")


def _is_given(config: "PrepareRagDatasetConfig", name: str) -> bool:
    return origins(config)[name] in ("flag", "file")


def _settings_record(config: "PrepareRagDatasetConfig") -> dict[str, Any]:
    """The settings that decide what the data is, for statistics.json; places of files are not among them."""
    from scripts.prepare_rag_dataset import SETTINGS

    names = [name for name in SETTINGS["synthesize"] if name not in ("documents", "knowledge_base", "teacher_url")]
    return {name: list(value) if isinstance(value := getattr(config, name), tuple) else value for name in names}


def _knowledge_base(config: "PrepareRagDatasetConfig", new: Path) -> tuple["KnowledgeBase", str]:
    """The knowledge base to ask about, and its place; a new one inside the output (place "") for documents."""
    from nanochat.retrieval import KnowledgeBase, check_retriever_type, read_documents

    if given := _given_base(config):
        return KnowledgeBase.open(given), given
    check_retriever_type(config.retriever_type)
    documents = read_documents(config.documents, progress=print0)[: config.limit or None]
    chunk_words = config.chunk_words if _is_given(config, "chunk_words") else CHUNK_WORDS
    built = KnowledgeBase.build(documents, new / "knowledge_base", config.retriever_type, chunk_words=chunk_words)
    return built, ""


def _library(knowledge_base: "KnowledgeBase", retriever_type: str) -> "Library":
    """The passages of a knowledge base behind its retriever."""
    import numpy as np

    from nanochat.rag.library import Library

    retriever = knowledge_base.retriever(retriever_type or None)
    # asked for last: adding a missing index moves the knowledge base on
    documents = knowledge_base.documents
    rows = np.asarray(documents.rows, np.int64)  # type: ignore[attr-defined]
    num_rows = retriever.num_rows
    position_of = np.full(num_rows, -1, np.int64)
    position_of[rows] = np.arange(len(rows))
    live = knowledge_base.allowed()

    def search(queries: Sequence[str], top_k: int, allowed: Sequence[bool] | None) -> list[list[int]]:
        mask = live
        if allowed is not None:
            mask = np.zeros(num_rows, bool)
            mask[rows[np.asarray(allowed, bool)]] = True
        found = retriever.search(queries, top_k) if mask is None else retriever.search(queries, top_k, allowed=mask)
        return [[int(position_of[hit.position]) for hit in row] for row in found]

    return Library(list(_records(knowledge_base, documents)), search)


def _records(knowledge_base: "KnowledgeBase", documents: Any) -> Iterator["Record"]:
    """Passages as records; headings of their documents come along, with their places in the passage."""
    parent_id, headings = None, []
    for document in documents:
        record = document.to_dict()
        metadata = record.get("metadata") or {}
        parent, start = metadata.get("parent"), metadata.get("start")
        if isinstance(parent, str) and isinstance(start, int):
            if parent != parent_id:
                whole = knowledge_base.document(parent)
                stated = whole.metadata.get("headings") if whole is not None else None
                parent_id, headings = parent, stated if isinstance(stated, list) else []
            mine = [[item[0] - start, *item[1:]] for item in headings
                    if isinstance(item, list | tuple) and len(item) == 3 and type(item[0]) is int]
            inside = [item for item in mine if 0 <= item[0] < len(record["content"])]
            record["metadata"] = {**metadata, **({"headings": inside} if inside else {})}
        yield record


def _teacher(config: "PrepareRagDatasetConfig") -> Any:
    from nanochat.rag.teacher import Teacher

    if not config.teacher_url:
        return None
    folder = Path(config.output).resolve()
    return Teacher(config.teacher_url, config.teacher_model, timeout_s=config.teacher_timeout_s,
                   cache=folder.parent / f"{folder.name}.teacher.jsonl")


def _taught(teacher: Any, library: "Library", config: "PrepareRagDatasetConfig") -> Iterator["Record"]:
    from nanochat.rag.taught import taught_questions

    yield from taught_questions(teacher, library, config.teacher_questions, progress=print0)


def _closed_book(config: "PrepareRagDatasetConfig") -> Callable[[Sequence["Record"]], list[bool]] | None:
    """A judge of what a checkpoint answers without documents; None without a checkpoint."""
    if not config.closed_book_source:
        if _is_given(config, "closed_book_tag"):
            print0("--closed_book_tag has no effect without --closed_book_source")
        return None
    from nanochat.checkpoint_manager import load_model
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.engine import Engine
    from nanochat.evaluation.conditions import make_conversation
    from nanochat.evaluation.qa_metrics import contains_answer

    set_cpu_threads()
    model, tokenizer, _ = load_model(config.closed_book_source, device=pick_device("auto"), phase="eval",
                                     tag=config.closed_book_tag or None, step=None)
    engine = Engine(model, tokenizer)

    def knows(questions: Sequence["Record"]) -> list[bool]:
        print0(f"Closed book: {len(questions):,} questions without documents")
        known: list[bool] = []
        for start in range(0, len(questions), 32):
            batch = questions[start : start + 32]
            prompts = [make_conversation(asked["question"], None) for asked in batch]
            answers = engine.generate_batch(prompts, max_tokens=32)
            known += [contains_answer(text, asked["answers"][0]) for asked, (text, _) in zip(batch, answers)]
        return known

    return knows


def _report(folder: Path, data: Any, num_documents: int, reading_s: float, making_s: float) -> None:
    for name, questions in data.questions.items():
        if not questions:
            continue
        print0(f"Wrote {folder}/queries_{name}.jsonl: {len(questions):,} questions, episodes_{name}.jsonl: "
               f"{len(data.episodes[name]):,} episodes about {data.num_documents[name]:,} documents")
    empty = [name for name, questions in data.questions.items() if not questions]
    if empty:
        print0(f"No files for {' and '.join(empty)}: too few documents have questions to keep some apart")
    made, kept = sum(data.made.values()), sum(data.made.values()) - sum(data.taken.values())
    taken = ", ".join(f"{name} {count:,}" for name, count in data.taken.most_common() if count)
    print0(f"Kept {kept:,} of {made:,} questions; filters took: {taken or 'none'}")
    by_rule = data.seconds["rules"] + data.seconds["filters"]
    times = ", ".join(f"{name} {seconds:.1f}" for name, seconds in data.seconds.items())
    print0(f"{num_documents / max(by_rule, 1e-9):,.0f} documents/s by rule, {num_documents / max(making_s, 1e-9):,.0f} "
           f"in all (reading and indexing {reading_s:.1f} s, {times})")
    print0(f"Page: {folder}/statistics.html")

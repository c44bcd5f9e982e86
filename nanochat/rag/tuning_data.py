"""What a model is tuned on: questions and ready episodes, those kept for validation, and where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, ConversationError
from nanochat.rag.apart import families, split_records, unseen_ids
from nanochat.rag.question_file import QuestionError
from nanochat.rag.questions import BESIDE, questions_for, read_questions
from nanochat.retrieval import Document
from tasks.jsonl import parse_conversation, parse_record, read_lines

Records = Sequence[Mapping[str, Any]]
PARTS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class TuningData:
    """Questions are put before documents anew at every step; episodes are conversations used as they are written."""

    questions: Records = ()
    episodes: Records = ()
    validation_questions: Records = ()
    validation_episodes: Records = ()
    test_ids: frozenset[str] = frozenset()  # documents of a folder's test questions, which are for neither
    origin: str = ""  # for people: how many from where
    unused: Mapping[str, str] = field(default_factory=dict)  # setting that had no effect -> why

    def __len__(self) -> int:
        return len(self.questions) + len(self.episodes)


@dataclass
class _Found:
    questions: list[Any] = field(default_factory=list)
    episodes: list[Any] = field(default_factory=list)
    origin: list[str] = field(default_factory=list)


def tuning_data(
    knowledge_base: str | Path, documents: Sequence[Document], path: str, *, cloze_per_document: int,
    validation_share: float, seed: int, needs_evidence: bool = True,
) -> TuningData:
    """Training data of `path`: a file of question or of episode records, or a folder that holds both.

    Of a folder, queries_train.jsonl and episodes_train.jsonl are for training, those with `validation` in their names
    for validation. Without validation files a share of the documents, `validation_share`, keeps its questions for that.
    An empty path means the folder of the knowledge base or the one above it, where queries_train.jsonl lies there, and
    fill-in questions from the documents, `cloze_per_document` each. Questions must name their evidence, unless nothing
    `needs_evidence`. Raises QuestionError or ConversationError with
    file:line, and ConfigError when there is nothing to train on.
    """
    family_of = families(documents)
    ids = set(family_of)
    test_ids: frozenset[str] = frozenset()
    folder = _folder(knowledge_base, path)
    makes_cloze = False
    if folder is not None:
        train, held = (_read_folder(folder, part, ids, needs_evidence) for part in PARTS)
        test_ids = _test_ids(folder)
        if not (train.questions or train.episodes):
            raise QuestionError(f"{folder}: neither {BESIDE} nor episodes_train.jsonl is in this folder",
                                hint="make them: python -m scripts.prepare_rag_dataset --mode synthesize "
                                     f"--knowledge_base {knowledge_base} --output {folder}")
    elif path and is_episodes(path):
        train, held = _Found(episodes=read_episodes(path)), _Found()
        train.origin.append(f"{len(train.episodes):,} episodes from {path}")
    else:
        questions, origin = questions_for(knowledge_base, documents, path, cloze_per_document=cloze_per_document,
                                          seed=seed, needs_evidence=needs_evidence)
        train, held, makes_cloze = _Found(questions=questions, origin=[origin]), _Found(), True
    unused = {} if makes_cloze else {"cloze_per_document": f"on the data of {folder or path}, taken as it is"}
    if held.questions or held.episodes:
        unused["validation_share"] = f"where {folder} has validation data"
    else:
        train, held = _split(train, validation_share, family_of)
    return TuningData(
        questions=train.questions, episodes=train.episodes, validation_questions=held.questions,
        validation_episodes=held.episodes, test_ids=test_ids, origin=", ".join([*train.origin, *held.origin]),
        unused=unused,
    )


def unseen_documents(documents: Sequence[Document], data: TuningData, held_out: TuningData | None) -> frozenset[str]:
    """Ids of the documents that no context of training on `data` may show: those that only the validation of `held_out`
    (None: it is about other documents) or the folder's test questions are about.
    """
    held = [] if held_out is None else [*held_out.validation_questions, *held_out.validation_episodes]
    return unseen_ids(families(documents), data.questions, held, data.test_ids)


def held_out_data(documents: Sequence[Document], path: str) -> TuningData:
    """Validation data of a file or of a folder's validation files, for the documents of a knowledge base of its own."""
    ids = {document.id for document in documents}
    if Path(path).is_dir():
        found = _read_folder(Path(path), "validation", ids)
        if not (found.questions or found.episodes):
            raise QuestionError(f"{path}: neither queries_validation.jsonl nor episodes_validation.jsonl is there",
                                hint="name the file itself: --validation_questions FILE.jsonl")
    elif is_episodes(path):
        found = _Found(episodes=read_episodes(path))
    else:
        found = _Found(questions=read_questions(path, ids))
    return TuningData(validation_questions=found.questions, validation_episodes=found.episodes,
                      origin=f"{len(found.questions) + len(found.episodes):,} for validation from {path}")


def is_episodes(path: str | Path) -> bool:
    """Whether the first line of a file is an episode: a record with messages. False for a file that cannot be read;
    who reads it as questions then says what is wrong with it.
    """
    if not Path(path).is_file():
        return False
    where, line = next(iter(read_lines(path)), ("", ""))
    return '"messages"' in line and "messages" in parse_record(line, where=where)


def read_episodes(path: str | Path) -> list[dict[str, Any]]:
    """The conversations of a file, each of which ends with an answer. Raises ConversationError with file:line."""
    episodes = []
    for where, line in read_lines(path):
        episode = parse_conversation(line, where=where)
        if episode["messages"][-1]["role"] != "assistant":
            raise ConversationError(f"{where}: the episode does not end with an answer, so it teaches nothing",
                                    hint='its last message needs "role": "assistant"')
        episodes.append(episode)
    if not episodes:
        raise QuestionError(f"{path}: no episodes in this file", hint='each line needs {"messages": [...]}')
    return episodes


def _folder(knowledge_base: str | Path, path: str) -> Path | None:
    """The folder that is meant; without a path one that holds more than training questions."""
    if path:
        return Path(path) if Path(path).is_dir() else None
    home = Path(knowledge_base)
    return next((place for place in (home, home.parent) if (place / BESIDE).exists() and any(
        (place / name).exists() for name in ("queries_validation.jsonl", "episodes_train.jsonl"))), None)


def _read_folder(folder: Path, part: str, ids: set[str], needs_evidence: bool = True) -> _Found:
    found = _Found()
    for suffix in ("", ".gz"):
        queries, episodes = (folder / f"{kind}_{part}.jsonl{suffix}" for kind in ("queries", "episodes"))
        # a split of few documents may leave a file without a line
        if _has_lines(queries):
            found.questions += read_questions(queries, ids, needs_evidence=needs_evidence)
            found.origin.append(f"{len(found.questions):,} questions from {queries}")
        if _has_lines(episodes):
            found.episodes += read_episodes(episodes)
            found.origin.append(f"{len(found.episodes):,} episodes from {episodes}")
    return found


def _has_lines(path: Path) -> bool:
    return path.is_file() and next(iter(read_lines(path)), None) is not None


def _test_ids(folder: Path) -> frozenset[str]:
    """Ids of the documents that answer the questions kept for the test; whoever tests reads them with more care."""
    found: set[str] = set()
    for path in (folder / f"queries_test.jsonl{suffix}" for suffix in ("", ".gz")):
        for where, line in read_lines(path) if path.is_file() else ():
            named = parse_record(line, where=where).get("supporting_ids")
            found.update(name for name in (named if isinstance(named, list) else ()) if isinstance(name, str))
    return frozenset(found)


def _split(train: _Found, share: float, family_of: Mapping[str, str]) -> tuple[_Found, _Found]:
    """Training and validation data, those about the same documents on the same side."""
    if share >= 1:
        raise ConfigError(f"There is nothing to train on: --validation_share {share} keeps all documents for "
                          "validation", hint="--validation_share 0.1")
    mine, kept, note = split_records([*train.questions, *train.episodes], share, family_of)
    sides = [_Found(questions=[record for record in side if "messages" not in record],
                    episodes=[record for record in side if "messages" in record]) for side in (mine, kept)]
    sides[0].origin = [*train.origin, *([note] if note else [])]
    return sides[0], sides[1]

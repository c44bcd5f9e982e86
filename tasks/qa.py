"""Questions over a corpus, in three published forms, as reading episodes: a folder, SQuAD's JSON, HotpotQA's JSON."""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, DocumentError
from tasks.jsonl import JsonlTask, parse_record, read_lines, sample
from tasks.reading import PLAIN, Reading, episodes
from tasks.worlds import WorldConfig, make_world

Record = dict[str, Any]
# in a folder: files of documents, and of questions to train on; tests are never among them
CORPORA = ("corpus.jsonl", "documents.jsonl", "qa_docs.jsonl")
QUESTIONS = ("train.jsonl", "queries_train.jsonl", "qa.jsonl")
LONGEST_ANSWER = 60  # words taken from a document that is itself the answer
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class QaTask(JsonlTask):
    """A folder with a corpus and questions, or the question file beside the corpus.

    corpus.jsonl (or documents.jsonl) has documents with id, title and content; train.jsonl, queries_train.jsonl or
    qa.jsonl has questions with question, answers and supporting_ids, and maybe context_ids and split (others than
    `train` are left out). All may end in .gz. A document that carries a `question` of its own is its answer.
    """

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "QaTask":
        """At most `samples` questions (0: all), chosen by the seed. Raises DocumentError with file:line."""
        place = _given(path, "Qa:data/squad, a folder with corpus.jsonl and train.jsonl")
        folder = place if place.is_dir() else place.parent
        corpus = _first(folder, CORPORA)
        if corpus is None:
            raise DocumentError(f"No corpus in {folder}: none of {', '.join(CORPORA)} (or .gz) is there",
                                hint="put the documents beside the questions: corpus.jsonl with id, title, content")
        documents = [_document(line, where) for where, line in read_lines(corpus)]
        file = place if place.is_file() else _first(folder, QUESTIONS)
        if file is not None:
            records = [_question(line, where) for where, line in read_lines(file)]
            records = [record for record in records if record.get("split", "train") == "train"]
        else:
            records = [_of_document(document) for document in documents if isinstance(document.get("question"), str)]
        if not records:
            raise DocumentError(f"No questions to train on in {file or folder}",
                                hint=f"write {QUESTIONS[0]} with question, answers and supporting_ids")
        return cls(episodes(documents, sample(records, samples, seed), seed=seed, reading=reading))


class Squad(JsonlTask):
    """A file in the form of SQuAD 1.1 or 2.0: articles, paragraphs, questions; an impossible one is an abstention."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "Squad":
        """At most `samples` questions (0: all), chosen by the seed. Raises DocumentError for another form."""
        place = _given(path, "Squad:data/train-v2.0.json")
        documents: list[Record] = []
        questions: list[Record] = []
        for article in _rows(place, "data"):
            for paragraph in _field(article, "paragraphs", list, place):
                name = str(len(documents))
                documents.append({"id": name, "title": str(article.get("title", "")).replace("_", " "),
                                  "content": _field(paragraph, "context", str, place)})
                for asked in _field(paragraph, "qas", list, place):
                    texts = [answer["text"] for answer in asked.get("answers", ())
                             if isinstance(answer, Mapping) and answer.get("text")]
                    questions.append({"question": _field(asked, "question", str, place), "supporting_ids": [name],
                                      "answers": [] if asked.get("is_impossible") else texts})
        return cls(episodes(documents, sample(questions, samples, seed), seed=seed, reading=reading))


class Hotpot(JsonlTask):
    """A file in the form of HotpotQA and 2WikiMultihopQA: each question with its paragraphs and supporting facts.

    Single-turn: all supporting paragraphs are shown together, among the others of the question.
    """

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "Hotpot":
        """At most `samples` questions (0: all), chosen by the seed. Raises DocumentError for another form."""
        place = _given(path, "Hotpot:data/hotpot_train_v1.1.json")
        documents: list[Record] = []
        questions: list[Record] = []
        for row in sample(_rows(place, ""), samples, seed):
            names = {}
            for paragraph in _field(row, "context", list, place):
                if not isinstance(paragraph, Sequence) or len(paragraph) != 2:
                    raise _another_form(place, "a paragraph is [title, [sentence, ...]]")
                names[paragraph[0]] = str(len(documents))
                documents.append({"id": names[paragraph[0]], "title": str(paragraph[0]),
                                  "content": " ".join(str(sentence).strip() for sentence in paragraph[1])})
            facts = [fact[0] for fact in _field(row, "supporting_facts", list, place)]
            questions.append({
                "question": _field(row, "question", str, place), "answers": [_field(row, "answer", str, place)],
                "supporting_ids": list(dict.fromkeys(names[title] for title in facts if title in names)),
                "context_ids": list(names.values()),
            })
        return cls(episodes(documents, questions, seed=seed, reading=reading))


class Worlds(JsonlTask):
    """Episodes of a generated world: invented names, exact answers."""

    @classmethod
    def load(cls, samples: int, seed: int, *, path: str = "", reading: Reading = PLAIN) -> "Worlds":
        """About `samples` questions (0: 2,000) of a world of the seed. Raises ConfigError for a path."""
        if path:
            raise ConfigError(f"The task Worlds reads no file, found {path!r}", hint="write Worlds, or Worlds:2")
        wanted = samples or 2000
        world = make_world(WorldConfig(seed=seed, num_entities=min(2000, max(30, wanted // 4)),
                                       questions_per_entity=4))
        questions = sample([question.to_dict() for question in world.questions], wanted, seed)
        return cls(episodes(world.documents, questions, seed=seed, reading=reading))


def _given(path: str, example: str) -> Path:
    if not path:
        raise ConfigError("This task needs a file or folder", hint=f"name it after a colon: {example}")
    if not Path(path).exists():
        raise DocumentError(f"File not found: {path}", hint="check the path")
    return Path(path)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")
                 if (folder / f"{name}{suffix}").is_file()), None)


def _document(line: str, where: str) -> Record:
    record = parse_record(line, where=where)
    if not isinstance(record.get("content"), str) or "id" not in record:
        raise DocumentError(f"{where}: 'id' or 'content' is missing", hint="a document has id, title and content")
    return {**record, "id": str(record["id"]), "title": str(record.get("title") or "")}


def _question(line: str, where: str) -> Record:
    record = parse_record(line, where=where)
    if not isinstance(record.get("question"), str) or not record["question"].strip():
        raise DocumentError(f"{where}: 'question' is missing or empty", hint="a question has question, answers, "
                                                                             "supporting_ids")
    for name in ("answers", "supporting_ids"):
        values = record.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise DocumentError(f"{where}: {name!r} must be a list of texts", hint=f'"{name}": ["..."]')
        record[name] = values
    return record


def _of_document(document: Record) -> Record:
    """A question whose answer is the document itself: its first sentences."""
    answer = ""
    for sentence in _SENTENCE_END.split(document["content"].strip()):
        if answer and len(f"{answer} {sentence}".split()) > LONGEST_ANSWER:
            break
        answer = f"{answer} {sentence}".strip()
    answer = " ".join(answer.split()[: 2 * LONGEST_ANSWER])
    return {"question": document["question"], "answers": [answer] if answer else [],
            "supporting_ids": [document["id"]]}


def _rows(path: Path, name: str) -> list[Any]:
    """The list that a JSON file holds, or that stands under `name` in it."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            value = json.load(file)
    except (OSError, EOFError) as error:
        raise DocumentError(f"Cannot read {path}: {error}", hint="give a .json(.gz) file") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path}: not valid JSON ({error})", hint="is it cut off?") from error
    rows = value.get(name) if name and isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise _another_form(path, f'{{"{name}": [...]}}' if name else "a list of questions")
    return rows


def _field(record: Any, name: str, kind: type, path: Path) -> Any:
    value = record.get(name) if isinstance(record, Mapping) else None
    if not isinstance(value, kind):
        raise _another_form(path, f"{name!r} is missing or no {'text' if kind is str else 'list'}")
    return value


def _another_form(path: Path, what: str) -> DocumentError:
    return DocumentError(f"{path} has another form: {what}", hint="known forms: Qa:FOLDER, Squad:FILE, Hotpot:FILE, "
                                                                  "Jsonl:FILE for conversations")

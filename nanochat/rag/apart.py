"""What training and validation must not share: documents. Which ones a record is about, and a split that parts them."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nanochat.conversation import result_groups
from nanochat.retrieval import Document

Record = Mapping[str, Any]  # a question, or an episode, which has messages
COPY = "~"  # parts the id of a document from what a changed copy of it says instead
ENOUGH = 0.5  # of the share that was asked for: a split that gives validation less is none


def about_of(question: Record) -> list[str]:
    """Ids of the documents that a question is about: those that answer it, or that come close to it."""
    return list(dict.fromkeys(name for field in ("supporting_ids", "about_ids", "near_ids")
                              for name in question.get(field, ())))


def documents_of(record: Record) -> list[str]:
    """Ids of the documents that a record is about; of an episode its document_ids, or else all that it shows."""
    if "messages" not in record:
        return about_of(record)
    stated = record.get("document_ids")
    is_stated = isinstance(stated, list) and stated and all(isinstance(name, str) for name in stated)
    return list(stated) if is_stated else _originals(_shown(record))


def cited_by(record: Record) -> list[str]:
    """Ids of the documents that answer a question, or that the answers of an episode cite."""
    if "messages" not in record:
        return list(record["supporting_ids"])
    shown = _shown(record)
    return _originals(shown[slot] for message in record["messages"] for slot in message.get("citations", ())
                      if slot < len(shown))


def families(documents: Iterable[Document]) -> dict[str, str]:
    """Id of each document -> id of the whole document that it is a passage of, or its own."""
    return {document.id: parent if isinstance(parent := document.metadata.get("parent"), str) else document.id
            for document in documents}


def split_records(
    records: Sequence[Record], share: float, family_of: Mapping[str, str]
) -> tuple[list[Record], list[Record], str]:
    """Training and validation records, and a note for people where they share documents.

    Records about one document, or about passages of one (`family_of`), fall on the same side, and so do those that a
    chain of such records links. Where that leaves validation less than half of its share, the passages of a document
    are parted, then records that cite others, then all. A group larger than the share is for training, unless all are.
    The same records give the same split.
    """
    levels: tuple[tuple[str, Callable[[Record], Iterable[str]]], ...] = (
        ("", lambda record: [*(family_of.get(name, name) for name in documents_of(record)),
                             *([parent] if isinstance(parent := record.get("parent"), str) else [])]),
        ("", documents_of),
        ("validation shows documents of training",
         lambda record: ["|".join(sorted(cited))] if (cited := cited_by(record)) else []),
        ("validation is about documents of training", lambda record: []),
    )
    target = max(1, round(share * len(records)))
    for note, keys_of in levels if share > 0 and len(records) > 1 else ():
        groups = linked([[*keys_of(record)] or [f"record {place}"] for place, record in enumerate(records)])
        held = _chosen(groups, target)
        if sum(group in held for group in groups) >= ENOUGH * target:
            return ([record for record, group in zip(records, groups) if group not in held],
                    [record for record, group in zip(records, groups) if group in held], note)
    return list(records), [], ""


def linked(keys: Sequence[Sequence[str]]) -> list[str]:
    """For each record the name of its group: records with a common key, or linked by others, are of one group."""
    roots: dict[str, str] = {}

    def root(key: str) -> str:
        while roots.setdefault(key, key) != key:
            roots[key] = key = roots[roots[key]]
        return key

    for mine in keys:
        for key in mine[1:]:
            low, high = sorted((root(mine[0]), root(key)))
            roots[high] = low
    return [root(mine[0]) for mine in keys]


def _chosen(groups: Sequence[str], target: int) -> set[str]:
    """Names of the groups that validate: in an order drawn by their names, as many as fit into `target` records."""
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda name: random.Random(name).random())
    chosen: set[str] = set()
    taken = 0
    for name in order:
        if taken + sizes[name] <= min(target, len(groups) - 1):
            chosen.add(name)
            taken += sizes[name]
    # where all are larger the smallest one does, if it is no more than half of all
    smallest = min(order, key=lambda name: sizes[name])
    return chosen or ({smallest} if 2 * sizes[smallest] <= len(groups) else set())


def unseen_ids(
    family_of: Mapping[str, str], trained: Iterable[Record], held: Iterable[Record], more: Iterable[str] = ()
) -> frozenset[str]:
    """Ids of the documents that no context of training may show: those that the records kept back are about (`held`),
    those of `more`, and other passages of theirs, but for those that a question of training (`trained`) needs.
    """
    needed = {name for question in trained for name in question["supporting_ids"]}
    about = set(more)
    for record in held:
        # of an episode without document_ids, most of what it shows are distractors
        is_older = "messages" in record and "document_ids" not in record
        about.update(cited_by(record) if is_older else documents_of(record))
    families_held = {family_of[name] for name in about & family_of.keys()}
    families_held -= {family_of[name] for name in needed & family_of.keys()}
    return frozenset(name for name, family in family_of.items()
                     if name not in needed and (name in about or family in families_held))


def _shown(episode: Record) -> list[str]:
    return [document["id"] for message in episode["messages"] if message["role"] == "retrieval"
            for _, documents in result_groups(message) for document in documents]


def _originals(names: Iterable[str]) -> list[str]:
    """The ids without what those of changed copies end with, each once."""
    return list(dict.fromkeys(name.partition(COPY)[0] or name for name in names))

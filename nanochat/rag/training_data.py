"""Training data from documents: questions by rule and by a teacher, filtered, split by document, made into episodes.

Everything follows from the documents and the seed: the same ones give the same data.
"""

import itertools
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.errors import UserError
from nanochat.rag import filters
from nanochat.rag.absent import Absent
from nanochat.rag.composing import composed
from nanochat.rag.drafts import Draft
from nanochat.rag.episodes import Composer, EpisodeConfig
from nanochat.rag.grouping import SPLITS, groups_of, split_of
from nanochat.rag.layout import Page
from nanochat.rag.library import Library, Record, normal
from nanochat.rag.rules import RULES, drafts_of
from nanochat.rag.spans import MONTHS, Vocabulary, names_nothing
from nanochat.rag.synthesis import cloze_questions

KINDS = (*RULES, "cloze")
ABSENCES = ("evidence_removed", "entity_absent", "relation_absent", "bridge_broken")
NEAR_SHARE = 0.7  # of the questions that nothing answers: the document that comes close is shown for certain
ENOUGH = 2  # times max_documents: so many hits of a split are enough to choose distractors from
_NAME = re.compile(r"(?<![\w.])[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,}){0,2}(?!\w)")
EXTRA = 3  # so many times the wanted questions of a document are filtered, since some are lost


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How training data is made."""

    kinds: Sequence[str] = KINDS
    per_document: int = 4  # questions about one document
    filter_top_k: int = 20  # the evidence must be among so many hits
    validation_share: float = 0.1  # of the documents
    test_share: float = 0.1
    seed: int = 0
    episodes: EpisodeConfig = EpisodeConfig()


@dataclass
class TrainingData:
    """Questions and episodes of each split, and the numbers that describe how they came about."""

    questions: dict[str, list[Record]]
    episodes: dict[str, list[Record]]
    made: Counter[str] = field(default_factory=Counter)  # questions by kind before any filter
    taken: Counter[str] = field(default_factory=Counter)  # questions taken away by each filter
    seconds: dict[str, float] = field(default_factory=dict)
    num_documents: dict[str, int] = field(default_factory=dict)
    distractors: Counter[str] = field(default_factory=Counter)
    left_out: int = 0  # questions without an episode: their evidence is more than max_documents documents


def rule_questions(library: Library, config: DataConfig) -> list[Record]:
    """Questions by rule in document order, those of different kinds in turn; more than will be kept."""
    cloze: dict[str, list[Record]] = defaultdict(list)
    if "cloze" in config.kinds:
        for question in cloze_questions(library.documents, per_document=config.per_document, seed=config.seed,
                                        vocabulary=library.vocabulary):
            cloze[question["supporting_ids"][0]].append(question)
    kinds = [kind for kind in config.kinds if kind != "cloze"]
    found: list[Record] = []
    for document in library.documents:
        rng = random.Random(f"{config.seed}:{document['id']}")
        by_kind: dict[str, list[Record]] = defaultdict(list)
        for draft in drafts_of(Page(document), library.vocabulary, kinds):
            by_kind[draft.kind].append(record_of(document, draft))
        for group in by_kind.values():
            rng.shuffle(group)
        by_kind["cloze"] = [_placed(question, document, library.vocabulary) for question in cloze[document["id"]]]
        mixed = [question for turn in itertools.zip_longest(*by_kind.values()) for question in turn if question]
        numbers: Counter[str] = Counter()
        for question in mixed[: EXTRA * config.per_document]:
            question["id"] = f"{document['id']}#{question['kind']}{numbers[question['kind']]}"
            numbers[question["kind"]] += 1
            found.append(question)
    return found


def record_of(document: Any, draft: Draft) -> Record:
    """A draft as a question record, without an id."""
    record = {"id": "", "question": draft.question, "answers": [normal(document["content"][draft.start : draft.end])],
              "supporting_ids": [document["id"]], "hops": 1, "kind": draft.kind, "answer_id": document["id"],
              "answer_start": draft.start, "answer_end": draft.end}
    parent = (document.get("metadata") or {}).get("parent")
    return record | ({"subject": draft.subject} if draft.subject else {}) | (
        {"parent": parent} if isinstance(parent, str) else {})


def _placed(question: Record, document: Any, vocabulary: Vocabulary) -> Record:
    """A cloze question with the place of its answer, and the longest name in it as what it is about."""
    start, end = place_of(question["answers"][0], document["content"])
    window = question["question"].partition(": ")[2]
    names = [found[0] for found in _NAME.finditer(window) if found.start() and not names_nothing(found[0])
             and all(vocabulary.is_name(word) and word not in MONTHS for word in found[0].split())]
    subject = max(names, key=len, default="")
    return question | {"answer_id": document["id"], "answer_start": start, "answer_end": end} | (
        {"subject": subject} if subject else {})


def place_of(answer: str, content: str) -> tuple[int, int]:
    """Where an answer stands as whole words and numbers: no 30 in 300, no 5 in 3.5; (0, 0) where it does not."""
    before = r"(?<!\d[.,:])" if answer[:1].isdigit() else ""
    after = r"(?![.,:]\d)" if answer[-1:].isdigit() else ""
    found = re.search(rf"(?<!\w){before}{re.escape(answer)}(?!\w){after}", content)
    return found.span() if found else (0, 0)


def make_training_data(
    library: Library, config: DataConfig, *, more: Sequence[Record] = (),
    knows: Callable[[Sequence[Record]], Sequence[bool]] | None = None,
) -> TrainingData:
    """Questions and episodes from the documents of a library. more: questions of a teacher, filtered like the others.

    Raises UserError, which names the filter that took most, when no question is left.
    """
    data = TrainingData({}, {})
    with _timed(data, "rules"):
        made = [*more, *rule_questions(library, config)]
    data.made.update(question["kind"] for question in made)
    with _timed(data, "filters"):
        kept = filters.frequent(filters.local_filters(made, library, data.taken), data.taken)
    with _timed(data, "retrieval"):
        kept, hits = filters.found_filters(kept, library, data.taken, top_k=config.filter_top_k)
    if knows is not None:
        with _timed(data, "closed_book"):
            kept, hits = filters.closed_book(kept, hits, knows, data.taken)
    kept, hits = filters.capped(kept, hits, config.per_document, data.taken)
    if not kept:
        raise nothing_left(data, library)
    with _timed(data, "split"):
        positions = {library.position_of[question["answer_id"]] for question in kept}
        shares = (1 - config.validation_share - config.test_share, config.validation_share, config.test_share)
        splits = split_of(groups_of(library), [document["id"] for document in library.documents], positions, shares,
                          config.seed)
    hits_of = {question["id"]: row for question, row in zip(kept, hits, strict=True)}
    with _timed(data, "episodes"):
        for number, name in enumerate(SPLITS):
            mine = [question for question in kept if splits[library.position_of[question["answer_id"]]] == number]
            _make_split(library, config, data, name, mine, splits, number, hits_of)
    return data


def _make_split(
    library: Library, config: DataConfig, data: TrainingData, name: str, mine: list[Record], splits: Sequence[int],
    number: int, hits_of: dict[str, list[int]],
) -> None:
    rng = random.Random(f"{config.seed}:{name}")
    inside = [position for position, split in enumerate(splits) if split == number]
    data.num_documents[name] = len(inside)
    allowed = [split == number for split in splits]
    bridges = composed(mine, library, limit=max(1, len(mine) // 5)) if mine else []
    asked = [*mine, *bridges]
    absent = _absences(library, config, asked, hits_of, rng)
    # training shows no document of another split; the others fill up from training where they are too few
    spare = [] if number == 0 else [position for position, split in enumerate(splits) if split == 0]
    composer = Composer(library, asked, inside, spare, config.episodes, rng)
    wanted = [*asked, *(question for question, _ in absent)]
    found = _hits_inside(library, wanted, allowed, hits_of, enough=ENOUGH * config.episodes.max_documents)
    kinds = _present_kinds(len(asked), config.episodes, rng)
    presented = [composer.present(question, row, kind) for question, row, kind in zip(asked, found, kinds)]
    episodes = [episode for episode in presented if episode is not None]
    data.left_out += composer.left_out
    for (question, kind), row in zip(absent, found[len(asked) :], strict=True):
        about = [*question.get("about_ids", ()), *question.get("near_ids", ())]
        keep = question["supporting_ids"][:1] if kind == "bridge_broken" else about
        # what is asked about is near, but not always there
        keep = keep if kind == "relation_absent" or rng.random() < NEAR_SHARE else []
        episodes.append(composer.absent(question, row, kind, keep=keep))
    rng.shuffle(episodes)
    data.distractors.update(composer.ranks)
    data.episodes[name] = _numbered(episodes)
    data.questions[name] = [*asked, *(question for question, kind in absent if not question["answers"])]


def _hits_inside(
    library: Library, questions: Sequence[Record], allowed: Sequence[bool], hits_of: Mapping[str, list[int]], *,
    enough: int,
) -> list[list[int]]:
    """Hits of each question among the allowed documents: of those known already if they are enough, else searched."""
    found = [[position for position in hits_of.get(question["id"], []) if allowed[position]] for question in questions]
    lacking = [place for place, row in enumerate(found) if len(row) < enough]
    rows = library.search([questions[place]["question"] for place in lacking], filters.FETCHED,
                          None if all(allowed) else allowed) if lacking else []
    for place, row in zip(lacking, rows, strict=True):
        found[place] = row
    return found


def _present_kinds(count: int, config: EpisodeConfig, rng: random.Random) -> list[str]:
    """A kind for each of `count` episodes with evidence, as many of each as its share says."""
    kinds: list[str] = []
    for kind, share in (("edited", config.edited_share), ("contradiction", config.contradiction_share),
                        ("injected", config.injected_share)):
        kinds += [kind] * round(share * count)
    kinds = [*kinds[:count], *["answer"] * (count - len(kinds))]
    rng.shuffle(kinds)
    return kinds


def _absences(
    library: Library, config: DataConfig, asked: Sequence[Record], hits_of: dict[str, list[int]], rng: random.Random
) -> list[tuple[Record, str]]:
    """(question, kind) of the episodes without an answer, the kinds in turn as far as the questions allow."""
    share = config.episodes.present_share
    num_present = sum(len(question["supporting_ids"]) <= config.episodes.max_documents for question in asked)
    count = round(num_present * (1 - share) / share)
    maker = Absent(library, [question for question in asked if question["hops"] == 1])
    found: list[tuple[Record, str]] = []
    known: set[tuple[str, str]] = set()
    bridges = [question for question in asked if question["hops"] > 1]
    order = itertools.cycle(rng.sample(asked, len(asked))) if asked else iter(())
    for turn in range(count):
        kinds = ABSENCES if bridges else ABSENCES[:3]
        kind = kinds[turn % len(kinds)]
        made = None
        for _ in range(8):
            question = rng.choice(bridges) if kind == "bridge_broken" else next(order)
            made = _absence(maker, question, kind, hits_of, rng)
            if made is not None and (made[0]["question"], made[1]) not in known:
                break
            made = None
        if made is None:
            # what is always possible: the same question without its evidence
            made = next(order), "evidence_removed"
        known.add((made[0]["question"], made[1]))
        found.append(made)
    # few questions serve several times, each time about another thing
    new = iter(_numbered([question for question, _ in found if not question["answers"]]))
    return [(question if question["answers"] else next(new), kind) for question, kind in found]


def _absence(
    maker: Absent, question: Record, kind: str, hits_of: dict[str, list[int]], rng: random.Random
) -> tuple[Record, str] | None:
    if kind in ("evidence_removed", "bridge_broken"):
        return question, kind
    if question["hops"] > 1:
        return None
    make = maker.entity if kind == "entity_absent" else maker.relation
    made = make(question, hits_of[question["id"]], rng)
    # an invented letter may be a word ("The A"), and a row of a table may be called "other"
    return (made, kind) if made is not None and not names_nothing(made["subject"]) else None


def _numbered(records: Sequence[Record]) -> list[Record]:
    """The records (episodes or questions) with ids that differ."""
    counts: Counter[str] = Counter()
    found = []
    for record in records:
        counts[record["id"]] += 1
        number = counts[record["id"]]
        found.append(record | {"id": record["id"] if number == 1 else f"{record['id']}{number}"})
    return found


def nothing_left(data: TrainingData, library: Library) -> UserError:
    """What to say when no question is left: which filter took most, and what to change."""
    num_made, num_documents = sum(data.made.values()), len(library.documents)
    num_different = len(set(groups_of(library)))
    if not num_made and num_documents > 2 * num_different:
        problem = f"No questions: the {num_documents:,} documents are {num_different:,} different ones, repeated"
        return UserError(problem, hint="remove repeated documents: nanochat kb lint DOCUMENTS shows them")
    if not num_made:
        return UserError(f"No questions: no rule found anything to ask in {num_documents:,} documents",
                         hint="give documents of whole sentences in English, or of tables, fields or questions and "
                              "answers in any language, or a teacher, who reads prose in any: --teacher_url URL "
                              "--teacher_model NAME")
    reason, count = max(data.taken.items(), key=lambda pair: pair[1])
    return UserError(f"No questions left of {num_made:,}: {count:,} fell to the filter {reason!r} "
                     f"({filters.REASONS[reason]})", hint=filters.REMEDIES[reason])


class _timed:
    """Adds the seconds of a block to data.seconds."""

    def __init__(self, data: TrainingData, name: str) -> None:
        self._data, self._name = data, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = self._data.seconds
        seconds[self._name] = seconds.get(self._name, 0.0) + time.perf_counter() - self._start


def iter_episodes(data: TrainingData) -> Iterator[Record]:
    """All episodes, split by split."""
    for name in SPLITS:
        yield from data.episodes.get(name, [])

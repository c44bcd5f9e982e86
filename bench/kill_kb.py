"""Kill a process with -9 at random moments while it writes a knowledge base, and see whether anything is lost.

    python -m bench.kill_kb --runs 200

Each run starts a build, add, update, delete, sync, compact or purge in a process of its own and kills it at a random
moment of the time that this takes. Afterwards the knowledge base must open at the version before or after the change,
with exactly those documents, every file must be as written, and the same command must succeed. Prints a table and
writes bench/results/kill_kb.json.
"""

import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import KnowledgeBaseError, KnowledgeBaseNotFound
from nanochat.retrieval.document import Document
from nanochat.retrieval.knowledge_base import KnowledgeBase
from nanochat.retrieval.readers import find_files, read_files
from nanochat.retrieval.writing.sync import documents_from

TYPES = {"simple": {}, "bm25": {}, "dense": {"model": "lsa"}, "hybrid": {"model": "lsa"}}
ACTIONS = ("build", "add", "update", "delete", "sync", "compact", "purge")
NUM_DOCUMENTS = 400
WORDS = "kite lamp pump loom drum boat tree moss fern gate river stone cloud grass wheel".split()
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, kw_only=True)
class KillConfig:
    runs: int = 200                   # writes to kill
    seed: int = 0                     # of the documents and the moments
    output: str = "bench/results/kill_kb.json"  # where the numbers go


CONFIG = KillConfig
Held = dict[str, Document]


def made(name: str, rng: random.Random) -> Document:
    """A document of 60 words."""
    return Document(id=name, title=f"{rng.choice(WORDS)} {name}", content=" ".join(rng.choices(WORDS, k=60)))


def perform(place: Path, kind: str, action: str, given: Mapping[str, Any]) -> None:
    """One write. Giving the same command again after it was done, or after it was killed, must be possible."""
    documents = [Document.from_dict(record) for record in given["documents"]]
    if action == "build":
        files = documents_from(given["folder"], sources := {}, [])
        KnowledgeBase.build(_both(files, documents), place, kind, settings=TYPES[kind], sources=sources)
        return
    kb = KnowledgeBase.open(place)
    if action in ("add", "update"):
        (kb.add if action == "add" else kb.update)(documents)
    elif action == "sync":
        kb.sync(given["folder"])
    elif action == "compact":
        kb.compact()
    else:
        ids = [name for name in given["ids"] if action == "purge" or kb.document(name)]
        try:
            if ids:
                kb.delete(ids, purge=action == "purge")
        except KnowledgeBaseError as error:
            # a purge that was done: no version has the documents any more
            if action != "purge" or "No version of" not in error.problem:
                raise


def _both(first: Iterable[Document], second: Iterable[Document]) -> Iterator[Document]:
    yield from first
    yield from second


def _child(place: Path, kind: str, action: str, given: Mapping[str, Any], started: Any) -> None:
    started.set()
    perform(place, kind, action, given)


class Trial:
    """One knowledge base of one type, what it should hold, and the folder it is synced with."""

    def __init__(self, work: Path, kind: str, rng: random.Random) -> None:
        self.place, self.folder, self.kind, self.rng = work / kind, work / f"{kind}_files", kind, rng
        self.folder.mkdir()
        for number in range(30):
            self._write_file(number)
        self.own = {f"d{number}": made(f"d{number}", rng) for number in range(NUM_DOCUMENTS)}
        self.next_id = NUM_DOCUMENTS
        self.seconds: dict[str, float] = {}
        perform(self.place, kind, "build", self._given(self.own.values()))
        self.synced = self._files()

    def _write_file(self, number: int) -> None:
        (self.folder / f"file{number}.txt").write_text(" ".join(self.rng.choices(WORDS, k=60)))

    def _files(self) -> dict[str, Document]:
        results = read_files(find_files(self.folder))
        return {document.id: document for result in results for document in result.documents}

    def _given(self, documents: Iterable[Document] = (), ids: Iterable[str] = ()) -> dict[str, Any]:
        records = [document.to_dict() for document in documents]
        return {"documents": records, "ids": list(ids), "folder": str(self.folder)}

    def plan(self, action: str) -> tuple[dict[str, Any], Held, Held]:
        """What is given to the command, and own and synced documents after it."""
        own, synced, rng = dict(self.own), dict(self.synced), self.rng
        given = self._given()
        if action in ("build", "sync"):
            for number in rng.sample(range(30), 8):
                self._write_file(number)
            (self.folder / f"file{rng.randrange(30)}.txt").unlink(missing_ok=True)
            synced = self._files()
        if action == "build":
            own = {f"d{number}": made(f"d{number}", rng) for number in range(NUM_DOCUMENTS)}
            given = self._given(own.values())
        elif action == "add":
            new = [made(f"n{self.next_id + number}", rng) for number in range(rng.choice([1, 20, 100]))]
            self.next_id += len(new)
            given, own = self._given(new), own | {document.id: document for document in new}
        elif action == "update":
            new = [made(name, rng) for name in rng.sample(sorted(own), 20)]
            given, own = self._given(new), own | {document.id: document for document in new}
        elif action in ("delete", "purge"):
            gone = rng.sample(sorted(own), 3)
            given = self._given(ids=gone)
            own = {name: document for name, document in own.items() if name not in gone}
        return given, own, synced

    def run(self, action: str) -> str:
        """Kill one write. Returns what the knowledge base held afterwards: before, after or finished."""
        before = {**self.own, **self.synced}
        given, own, synced = self.plan(action)
        after = {**own, **synced}
        version = KnowledgeBase.open(self.place).version
        started = _CONTEXT.Event()
        child = _CONTEXT.Process(target=_child, args=(self.place, self.kind, action, given, started))
        child.start()
        assert started.wait(60), "the writer did not start"
        child.join(self.rng.uniform(0, 1.1 * self.seconds.get(action, 0.3)))
        was_alive = child.is_alive()
        child.kill()
        child.join()
        assert was_alive or child.exitcode == 0, f"{action} of {self.kind} failed by itself"
        held = self._check(before, after, version)
        begun = time.perf_counter()
        perform(self.place, self.kind, action, given)
        self.seconds[action] = max(self.seconds.get(action, 0), time.perf_counter() - begun)
        self.own, self.synced = own, synced
        assert self._check(after, after, version), "the next write"
        if self.rng.random() < 0.3:
            KnowledgeBase.open(self.place).prune(keep=2)
        return held if was_alive else "finished"

    def _check(self, before: Mapping[str, Document], after: Mapping[str, Document], version: int) -> str:
        kb = KnowledgeBase.open(self.place)
        kb.verify()
        content = {document.id: document for document in kb.documents}
        assert len(content) == kb.num_documents
        assert content in (before, after), f"{self.kind}: {len(content)} documents, neither before nor after"
        found = kb.search(["kite lamp"], 5)[0]
        assert found and all(content[hit.id].content == hit.content for hit in found)
        assert kb.version > version or content == before
        return "after" if content == after else "before"


def main(argv: list[str]) -> int:
    options = load_config(CONFIG, argv, prog="bench.kill_kb", description=__doc__ or "")
    _CONTEXT.set_forkserver_preload(["nanochat.retrieval.knowledge_base", "nanochat.retrieval.retrievers.bm25",
                                     "nanochat.retrieval.retrievers.simple", "nanochat.retrieval.retrievers.hybrid"])
    rng, work, begun = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="kill-kb-")), time.perf_counter()
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    try:
        trials = {kind: Trial(work, kind, rng) for kind in TYPES}
        for number in range(options.runs):
            kind, action = list(TYPES)[number % len(TYPES)], ACTIONS[number // len(TYPES) % len(ACTIONS)]
            try:
                counts[action, trials[kind].run(action)] += 1
            except (AssertionError, KnowledgeBaseError, KnowledgeBaseNotFound) as error:
                failures.append(f"run {number}, {action} of {kind}: {error}")
                counts[action, "failed"] += 1
                print0(failures[-1])
                trials[kind] = Trial(Path(tempfile.mkdtemp(dir=work)), kind, rng)
    finally:
        shutil.rmtree(work)
    columns = ("before", "after", "finished", "failed")
    print0(f"{'killed during':<14}{'runs':>6}" + "".join(f"{name:>10}" for name in columns))
    rows = {action: {name: counts[action, name] for name in columns} for action in ACTIONS}
    for action, row in rows.items():
        print0(f"{action:<14}{sum(row.values()):>6}" + "".join(f"{row[name]:>10}" for name in columns))
    print0(f"{options.runs} runs, {len(failures)} failures, {time.perf_counter() - begun:.0f} s")
    write_json(options.output, {"command": f"python -m bench.kill_kb --runs {options.runs} --seed {options.seed}",
                                "runs": options.runs, "failures": failures, "by_action": rows,
                                "retriever_types": list(TYPES), "documents": NUM_DOCUMENTS})
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(run_main(main))

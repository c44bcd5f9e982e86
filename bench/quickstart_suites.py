"""What the quickstart's model does outside its test: other numbers of documents, wordings it has never seen.

    bash runs/quickstart.sh
    python -m bench.quickstart_suites --folder data/quickstart --tag quickstart
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

TOP_KS = (1, 2, 3, 5, 6, 8)
# suite -> settings of its world; the first three are like the quickstart's test, but were not looked at while tuning
WORLDS: dict[str, dict[str, Any]] = {
    **{f"another fresh world, {seed}": {"seed": seed} for seed in (31, 32, 33)},
    "questions never seen": {"seed": 77, "question_wordings": "held_out"},
    "questions and statements never seen": {
        "seed": 77, "question_wordings": "held_out", "statement_wordings": "held_out",
    },
    # asked for these only: the words of the relation stand in question and document, and in no training text
    "relations never seen": {"seed": 77, "open_relations": 12, "open_words": "held_out"},
    "titles that name nothing": {"seed": 77, "untold_title_share": 1.0},
}
METRICS = (("retrieved", "exact_match"), ("retrieved", "recall"), ("oracle", "exact_match"), ("wrong", "abstention"),
           ("unanswerable", "abstention"))


@dataclass(frozen=True, kw_only=True)
class SuitesConfig:
    folder: str = "data/quickstart"   # working folder of a finished quickstart
    tag: str = "quickstart"           # its checkpoints
    max_questions: int = 800          # questions per suite
    extractive: bool | None = None    # answers only in words of a cited document; default: as the checkpoint was taught
    output: str = "bench/results/quickstart_suites.json"  # where the numbers go


CONFIG = SuitesConfig


def main(argv: list[str]) -> int:
    config = load_config(SuitesConfig, argv, prog="bench.quickstart_suites", description=__doc__ or "")
    folder = Path(config.folder)
    if not (folder / "fresh_world" / "queries_test.jsonl").exists():
        raise UserError(f"No finished quickstart in {folder}", hint="run it first: bash runs/quickstart.sh")
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine
    from nanochat.engine.deciding import CITATION_THRESHOLD
    from nanochat.evaluation import evaluate
    from nanochat.evaluation.questions import read_questions
    from nanochat.rag.quoting import is_extractive
    from nanochat.retrieval import RetrievalManager

    model, tokenizer, meta = load_model("rag", "auto", "eval", config.tag)
    engine = Engine(model, tokenizer, citation_threshold=CITATION_THRESHOLD, second_look=True,
                    extractive=is_extractive(config.extractive, meta))
    rows: dict[str, Any] = {}

    def measure(name: str, knowledge_base: Path, questions: Path, top_k: int) -> None:
        chosen, _ = read_questions(questions, config.max_questions)
        result = evaluate(engine, RetrievalManager("bm25", knowledge_base), chosen, top_k=top_k,
                          conditions=["retrieved", "oracle", "wrong"]).to_dict()["conditions"]
        rows[name] = {f"{condition} {metric}": result[condition][metric] for condition, metric in METRICS}
        cells = (f"{cell['value']:8.3f} [{cell['low']:.2f}, {cell['high']:.2f}]" for cell in rows[name].values())
        print0(f"{name:38}" + "".join(cells))

    print0(f"{'suite':38}" + "".join(f"{condition[:9]} {metric[:11]}".rjust(22) for condition, metric in METRICS))
    fresh = folder / "fresh_world"
    for top_k in TOP_KS:
        measure(f"top_k {top_k}", fresh / "knowledge_base", fresh / "queries_test.jsonl", top_k)
    with tempfile.TemporaryDirectory() as place:
        for number, (name, settings) in enumerate(WORLDS.items()):
            base, questions = make_world_files(Path(place) / str(number), folder, settings)
            measure(name, base, questions, 3)
    write_json(config.output, {"checkpoint": {key: meta[key] for key in ("source", "tag", "step")},
                               "extractive": engine.extractive, "suites": rows})
    print0(f"wrote {config.output}")
    return 0


def make_world_files(place: Path, folder: Path, settings: dict[str, Any]) -> tuple[Path, Path]:
    """Knowledge base and questions of a new world, without a name of the practice world."""
    from nanochat.common import write_jsonl
    from nanochat.retrieval import Document, KnowledgeBase
    from tasks.worlds import RELATIONS, WorldConfig, make_world

    known = set(json.loads((folder / "practice_world" / "names.json").read_text(encoding="utf-8")))
    world = make_world(WorldConfig(num_entities=400, **settings), exclude_names=known)
    asked = set(world.relations) - set(RELATIONS) or set(RELATIONS)
    write_jsonl(place / "questions.jsonl", [one.to_dict() for one in world.questions if one.relation in asked])
    KnowledgeBase.build([Document.from_dict(record) for record in world.documents], place / "knowledge_base", "bm25")
    return place / "knowledge_base", place / "questions.jsonl"


if __name__ == "__main__":
    raise SystemExit(run_main(main))

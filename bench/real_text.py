"""Real questions about real text: one small model before and after RAG tuning, and after a sham tuning.

    python -m bench.real_text --data ../shared/data --output data/real_text

Trains on the questions of SQuAD and FairytaleQA (train splits) and asks about articles and stories never seen, and
fill-in questions about MedQuAD. The sham run sees the same questions, each with another question's document as its
evidence. Stopped and started again it goes on.
"""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, print0, run_main, write_json, write_jsonl
from nanochat.config import load_config
from nanochat.errors import UserError

MODEL = ("--block_pattern T,M,T,M,T --n_embd 128 --n_head 4 --n_kv_head 4 --mlp_hidden 256 --attention_conv 4 "
         "--d_state 32 --headdim 32 --chunk_size 32").split()
ROW = "1024"
TESTS = ("squad", "fairytaleqa", "medquad")


@dataclass(frozen=True, kw_only=True)
class RealTextConfig:
    data: str = "../shared/data"      # folder with squad, fairytaleqa and medquad
    output: str = "data/real_text"    # working folder
    vocab_size: int = 6144            # ids of the tokenizer
    mid_steps: int = 1600             # most steps of recalling and first reading
    rag_steps: int = 1400             # steps of RAG fine-tuning, and of the sham
    max_questions: int = 500          # of each test set
    only: str = ""                    # "train" or "test"; empty: both
    with_sham: bool = True            # train and test the sham, too
    results: str = "bench/results/real_text.json"  # where the numbers go


CONFIG = RealTextConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.real_text", description=__doc__ or "")
    data, work = Path(config.data), Path(config.output)
    if not (data / "squad" / "train.jsonl.gz").is_file():
        raise UserError(f"No data sets in {config.data}",
                        hint="--data names the folder that holds squad/train.jsonl.gz")
    prepare(data, work)
    tags = {"before": "mid/real", "after": "rag/real"} | ({"sham": "rag/real-sham"} if config.with_sham else {})
    if config.only != "test":
        train(config, work)
    if config.only != "train":
        write_json(Path(config.results), {name: measure(config, work, name, tag) for name, tag in tags.items()})
        show(json.loads(Path(config.results).read_text(encoding="utf-8")))
    return 0


def prepare(data: Path, work: Path) -> None:
    """Documents, questions and knowledge bases: one to train on, the same with wrong evidence, and the tests."""
    if (work / "world" / "knowledge_base").is_dir():
        return
    squad, tales = data / "squad", data / "fairytaleqa"
    tests = {
        "squad": ([d for d in records(squad / "corpus") if d["split"] == "dev"], list(records(squad / "dev"))),
        "fairytaleqa": (list(records(tales / "corpus")), list(records(tales / "test"))),
        "medquad": (random.Random(0).sample(list(records(data / "medquad" / "qa_docs")), 3000), None),
    }
    training = [*records(squad / "train"), *records(tales / "train")]
    documents = [d for d in records(squad / "corpus") if d["split"] == "train"]
    known = {name for question in training for name in question["supporting_ids"]}
    documents += [d for d in records(tales / "corpus") if d["id"] in known]
    text_of = {document["id"]: document["content"] for document in documents}
    # only answers that can be copied from one document
    training = [q for q in training if len(q["supporting_ids"]) == 1 and q["answers"]
                and q["answers"][0] in text_of.get(q["supporting_ids"][0], "")]
    wrong = random.Random(0).sample([q["supporting_ids"] for q in training], len(training))
    sham = [{**q, "supporting_ids": ids} for q, ids in zip(training, wrong, strict=True)]
    for name, (texts, questions) in {"train": (documents, training), "sham": (documents, sham), **tests}.items():
        folder = work / name
        write_jsonl(folder / "documents.jsonl", [{k: d[k] for k in ("id", "title", "content")} for d in texts])
        if questions is not None:
            file = "queries_train.jsonl" if name in ("train", "sham") else "queries_test.jsonl"
            write_jsonl(folder / file, random.Random(1).sample(questions, len(questions)))
        words = ["--chunk_words", "150"] if name == "medquad" else []
        run("nanochat.retrieval", "--documents", str(folder / "documents.jsonl"), "--output",
            str(folder / "knowledge_base"), "--type", "bm25", *words)
    run("scripts.prepare_rag_dataset", "--mode", "questions", "--documents", str(work / "medquad" / "knowledge_base"),
        "--questions_per_document", "1", "--output", str(work / "medquad" / "queries_test.jsonl"))
    run("scripts.prepare_rag_dataset", "--mode", "world", "--output", str(work / "world"), "--seed", "1")


def records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(f"{path}.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def train(config: RealTextConfig, work: Path) -> None:
    """The chain of the quickstart, with a larger model and its own questions."""
    texts = ",".join(str(work / name / "documents.jsonl") for name in ("world", "train"))
    if not (work / "tokenizer").is_dir():
        run("scripts.tok_train", "--input", texts, "--output", str(work / "tokenizer"), "--vocab_size",
            str(config.vocab_size))
    run("scripts.base_train", "configs/tiny_base.py", "--tag", "real", "--tokenizer", str(work / "tokenizer"),
        "--input", texts, *MODEL, "--resume", "true")
    run("scripts.mid_train", "configs/tiny_mid.py", "--tag", "real", "--num_steps", str(config.mid_steps), "--resume",
        "true")
    for tag, name in (("real", "train"), ("real-sham", "sham")):
        if name == "train" or config.with_sham:
            run("scripts.rag_finetune", "configs/tiny_rag.py", "--source", "mid", "--source_tag", "real", "--tag", tag,
                "--knowledge_base", str(work / name / "knowledge_base"), "--cloze_per_document", "0", "--top_k", "4",
                "--max_seq_len", ROW, "--world_share", "0.15", "--validation_share", "0.02", "--num_steps",
                str(config.rag_steps), "--save_every", "100", "--resume", "true")


def measure(config: RealTextConfig, work: Path, name: str, tag: str) -> dict[str, Any]:
    """EM and F1 of one checkpoint in three conditions on every test set."""
    source, _, tag = tag.partition("/")
    found = {}
    for test in TESTS:
        folder = work / f"report_{name}_{test}"
        run("scripts.rag_eval", "--source", source, "--tag", tag, "--knowledge_base",
            str(work / test / "knowledge_base"), "--questions", str(work / test / "queries_test.jsonl"), "--top_k", "3",
            "--max_questions", str(config.max_questions), "--conditions", "closed_book,retrieved,oracle,wrong",
            "--output", str(folder))
        report = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        found[test] = {condition: {metric: values[metric] for metric in ("exact_match", "f1", "recall", "abstention")}
                       for condition, values in report["conditions"].items()}
    return found


def show(results: Mapping[str, Any]) -> None:
    print0(f"{'model':8} {'test set':12} {'condition':16} {'EM':>22} {'F1':>22}")
    for name, tests in results.items():
        for test, conditions in tests.items():
            for condition, metrics in conditions.items():
                em, f1 = (f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" if m else "-"
                          for m in (metrics["exact_match"], metrics["f1"]))
                print0(f"{name:8} {test:12} {condition:16} {em:>22} {f1:>22}")


def run(module: str, *argv: str) -> None:
    """One command of the chain, as a user would type it."""
    print0(f"$ python -m {module} {' '.join(argv)}")
    if subprocess.run([sys.executable, "-m", module, *argv], env=os.environ | {"NANOCHAT_BASE_DIR": str(base_dir())},
                      check=False).returncode:
        raise UserError(f"{module} stopped early", hint="type the same command again: it goes on")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

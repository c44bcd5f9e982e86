"""The whole chain on a CPU: documents, knowledge bases, tokenizer, model, RAG fine-tuning, evaluation, one answer.

    bash runs/quickstart.sh
    bash runs/quickstart.sh --documents data/my_documents.jsonl
Run again, it goes on where it stopped and skips what is done.
"""

import hashlib
import json
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import base_dir, print0, run_main, write_json
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    documents: str = ""               # your own documents, a file or a folder; empty: only the practice world
    limit: int = 2000                 # read only so many of them; 0 reads all
    chunk_words: int = 60             # your documents are cut into passages of so many words
    output: str = "data"              # working folders are made here
    speed: str = "full"               # "full", or "smoke": a few steps of everything, to see that it runs


CONFIG = QuickstartConfig
# your own words need ids of their own, but names of the practice worlds must not fall into more pieces for it: with
# 2,048 ids over all of your text they did, and the model never learned to tell documents apart
VOCAB_SIZE, VOCAB_SIZE_WITH_DOCUMENTS = 2048, 3072
TOKENIZER_CHARS = 1_000_000  # the practice world's come first, then yours
CONFIGS = Path(os.path.relpath(Path(__file__).resolve().parent.parent / "configs"))
TRAINING = {
    "full": {"base": [], "mid": [], "rag": ["--num_steps", "1000", "--top_k", "6"], "eval": ["--max_questions", "400"]},
    "smoke": {
        "base": ["--num_steps", "2", "--n_embd", "32", "--d_state", "8", "--headdim", "16", "--mlp_hidden", "32"],
        "mid": ["--num_steps", "2", "--eval_every", "2"], "rag": ["--num_steps", "2", "--eval_every", "2"],
        "eval": ["--max_questions", "12"],
    },
}


@dataclass(frozen=True)
class Step:
    """One command of the chain; done when the file exists that it writes (None: it decides itself)."""

    title: str
    module: str
    argv: list[str]
    writes: Path | None = None


def steps(config: QuickstartConfig, work: Path, tag: str) -> list[Step]:
    """The chain as commands, each of which a user can type."""
    speed = TRAINING[config.speed]
    practice, fresh, own = work / "practice_world", work / "fresh_world", work / "my_documents"
    prepare = "scripts.prepare_rag_dataset"
    chain: list[Step] = []
    texts = [practice / "documents.jsonl", practice / "queries_train.jsonl", work / "example" / "documents.jsonl"]
    knowledge_base = practice / "knowledge_base"
    if config.documents:
        # first, so that a bad line is found before anything else is written
        knowledge_base = own / "knowledge_base"
        chain += [
            Step("Your documents", "nanochat.retrieval",
                 ["--documents", config.documents, "--output", str(knowledge_base), "--type", "bm25", "--limit",
                  str(config.limit), "--chunk_words", str(config.chunk_words)], knowledge_base / "CURRENT"),
            Step("Their text, for the tokenizer and the first training", "scripts.kb_versions",
                 ["--action", "export", "--knowledge_base", str(knowledge_base), "--output",
                  str(own / "documents.jsonl")], own / "documents.jsonl"),
            Step("Questions about your documents, some kept for the test", prepare,
                 ["--mode", "questions", "--documents", str(knowledge_base),
                  "--output", str(own / "queries_train.jsonl"), "--test_output", str(own / "queries_test.jsonl")],
                 own / "queries_test.jsonl"),
        ]
        texts.append(own / "documents.jsonl")
    chain += [
        Step("Example documents", prepare, ["--mode", "example", "--output", str(work / "example")],
             work / "example" / "knowledge_base" / "CURRENT"),
        Step("A generated world to practise on", prepare,
             ["--mode", "world", "--output", str(practice), "--seed", "1", "--num_entities", "1000",
              "--retriever_type", "bm25"], practice / "knowledge_base" / "CURRENT"),
        Step("A fresh world for the test: no name in common with the first", prepare,
             ["--mode", "world", "--output", str(fresh), "--seed", "2", "--num_entities", "400", "--retriever_type",
              "bm25", "--exclude", str(practice), "--questions_name", "queries_test.jsonl"],
             fresh / "knowledge_base" / "CURRENT"),
    ]
    chain += [
        Step("Tokenizer", "scripts.tok_train",
             ["--input", ",".join(map(str, texts)), "--output", str(work / "tokenizer"), "--max_chars",
              str(TOKENIZER_CHARS), "--vocab_size",
              str(VOCAB_SIZE_WITH_DOCUMENTS if config.documents else VOCAB_SIZE)],
             work / "tokenizer" / "tokenizer.json"),
        Step("A new model", "scripts.base_train",
             [str(CONFIGS / "tiny_base.py"), "--tag", tag, "--tokenizer", str(work / "tokenizer"), "--input",
              ",".join(map(str, texts)), "--resume", *speed["base"]]),
        Step("Recalling and reading", "scripts.mid_train",
             [str(CONFIGS / "tiny_mid.py"), "--tag", tag, "--resume", *speed["mid"]]),
        Step("Fine-tuning on retrieved documents", "scripts.rag_finetune",
             [str(CONFIGS / "tiny_rag.py"), "--tag", tag, "--knowledge_base", str(knowledge_base), "--resume",
              *(["--world_share", "0.6"] if config.documents else ["--cloze_per_document", "0"]), *speed["rag"]]),
        Step("Test on the fresh world", "scripts.rag_eval",
             ["--knowledge_base", str(fresh / "knowledge_base"), "--questions", str(fresh / "queries_test.jsonl"),
              "--tag", tag, "--top_k", "3", "--output", str(work / "report"), *speed["eval"]],
             work / "report" / "results.json"),
    ]
    if config.documents:
        chain.append(Step("Test on your documents that were kept back", "scripts.rag_eval",
                          ["--knowledge_base", str(knowledge_base), "--questions", str(own / "queries_test.jsonl"),
                           "--tag", tag, "--top_k", "3", "--output", str(work / "report_my_documents"),
                           *speed["eval"]], work / "report_my_documents" / "results.json"))
    return chain


def main(argv: list[str]) -> int:
    config = load_config(QuickstartConfig, argv, prog="scripts.quickstart", description=__doc__ or "")
    if config.speed not in TRAINING:
        raise ConfigError(f"--speed is {config.speed!r}", hint=f"choose one of {', '.join(TRAINING)}")
    if config.documents and not Path(config.documents).exists():
        raise ConfigError(f"Documents not found: {config.documents}",
                          hint="name a file or folder: --documents my_documents.jsonl")
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(config.documents).name.split(".")[0]).strip("-")
    tag = "quickstart" + (f"-{name}" if config.documents else "") + ("-smoke" if config.speed == "smoke" else "")
    work = Path(config.output) / tag
    for unused in ("limit", "chunk_words"):
        if not config.documents and origins(config)[unused] in ("flag", "file"):
            print0(f"--{unused} has no effect without --documents")
    check_same_documents(config, work, tag)
    chain = steps(config, work, tag)
    times: dict[str, float] = json.loads((work / "times.json").read_text()) if (work / "times.json").exists() else {}
    for number, step in enumerate(chain, start=1):
        print0(f"\n[{number}/{len(chain)}] {step.title}")
        print0(f"$ python -m {step.module} {shlex.join(step.argv)}")
        if step.writes is not None and step.writes.exists() and not is_stale(step, tag):
            print0(f"already there: {step.writes}")
            continue
        start, trained = time.time(), last_trained(tag)
        if code := run_step(step):
            return code
        if step.writes is not None or last_trained(tag) != trained:
            times[step.title] = times.get(step.title, 0.0) + time.time() - start
            write_json(work / "times.json", times)
    show_end(config, work, tag, sum(times.values()))
    return 0


def check_same_documents(config: QuickstartConfig, work: Path, tag: str) -> None:
    """Refuse to go on in a folder that was begun with other documents: what is done would pass for theirs."""
    if not config.documents:
        return
    try:
        digest = digest_of(Path(config.documents))
    except OSError as error:
        raise ConfigError(f"{config.documents}: cannot be read: {error.strerror or error}",
                          hint="name a file or folder: --documents my_documents.jsonl") from error
    mine = {"content": digest, "limit": config.limit, "chunk_words": config.chunk_words}
    kept = work / "documents.json"
    begun = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else mine
    if begun != mine and (work / "my_documents").exists():
        differing = ", ".join(name for name in mine if begun.get(name) != mine[name])
        raise ConfigError(f"{work} was begun with other documents: not the same {differing}",
                          hint=f"give {config.documents} another name, which starts a run of its own, or go on with "
                               f"what {kept} says; --tag {tag} names the old checkpoints")
    if begun != mine or not kept.exists():
        write_json(kept, mine)


def digest_of(path: Path) -> str:
    """Changes when a file, or the name or content of any file in a folder, changes."""
    from nanochat.retrieval.readers import find_files

    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for found in find_files(path):
        with open(found.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        whole.update(found.relative.encode("utf-8", "replace") + b"\0" + digest)
    return whole.hexdigest()


def last_trained(tag: str) -> list[float]:
    """When the checkpoints of this tag were written, in seconds since the epoch; changes when a step has trained."""
    return sorted(path.stat().st_mtime for path in (base_dir() / "checkpoints").glob(f"*/{tag}/step_*/meta.json"))


def is_stale(step: Step, tag: str) -> bool:
    """Whether a report is older than the model that it is about."""
    return step.module == "scripts.rag_eval" and any(
        step.writes.stat().st_mtime < written for written in last_trained(tag))


def run_step(step: Step) -> int:
    """Run a step's main in this process; its exit code."""
    import importlib

    module = f"{step.module}.__main__" if step.module == "nanochat.retrieval" else step.module
    return importlib.import_module(module).main(step.argv)


def show_end(config: QuickstartConfig, work: Path, tag: str, seconds: float) -> None:
    """The table, one grounded answer, and the commands to go on with."""
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine
    from nanochat.engine.deciding import CITATION_THRESHOLD
    from nanochat.rag.answer import answer_question
    from nanochat.rag.citations import source_lines
    from nanochat.rag.quoting import is_extractive
    from nanochat.retrieval import RetrievalManager

    reports = [("fresh world", work / "report")] + (
        [("your documents", work / "report_my_documents")] if config.documents else [])
    for title, folder in reports:
        print0(f"\n== Results on {title} ==")
        print0((folder / "table.txt").read_text(encoding="utf-8"))
    place = work / ("my_documents" if config.documents else "fresh_world")
    manager = RetrievalManager(None, place / "knowledge_base")
    model, tokenizer, meta = load_model("rag", "auto", "eval", tag)
    question = next(q for line in (place / "queries_test.jsonl").read_text(encoding="utf-8").splitlines()
                    if (q := json.loads(line))["answers"])
    engine = Engine(model, tokenizer, citation_threshold=CITATION_THRESHOLD, second_look=True,
                    extractive=is_extractive(None, meta))
    answer = answer_question(engine, manager, question["question"], top_k=3, max_tokens=32)
    print0(f"\n== One answer ==\nYou: {question['question']}\nAssistant: {answer.text}\n"
           + "\n".join(source_lines(answer)) + f"\n(expected: {question['answers'][0]})")
    print0(f"\nTraining, test and answers took {seconds / 60:.1f} minutes. Report: {work / 'report' / 'report.html'}; "
           f"checkpoints: {base_dir() / 'checkpoints'}")
    print0("\n== Go on ==\nChat with these documents:\n"
           f"  python -m scripts.chat_cli --knowledge_base {place / 'knowledge_base'} --tag {tag} --top_k 3\n"
           "The same chain on your own documents:\n  bash runs/quickstart.sh --documents my_documents.jsonl")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

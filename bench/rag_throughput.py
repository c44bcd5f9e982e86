"""Share of a RAG fine-tuning's time in the model: batches prepared in between, or ahead in another process.

    python bench/rag_throughput.py --steps 60

A world, a tokenizer and a model with random weights are made in a temporary folder; each variant trains the same steps
with configs/tiny_rag.py. Writes bench/results/rag_throughput.json.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(main, *argv) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([str(word) for word in argv]) == 0, printed.getvalue()
    return printed.getvalue()


def prepare(folder: Path, entities: int) -> None:
    """world/, a tokenizer, and checkpoints base/bench and mid/bench of the tiny shape."""
    from scripts import base_train, mid_train, prepare_rag_dataset, tok_train

    run(prepare_rag_dataset.main, "--mode", "world", "--output", folder / "world", "--seed", 1, "--num_entities",
        entities, "--retriever_type", "bm25")
    texts = f"{folder / 'world' / 'documents.jsonl'},{folder / 'world' / 'queries_train.jsonl'}"
    run(tok_train.main, "--input", texts, "--output", folder / "tok", "--max_chars", 1_000_000, "--vocab_size", 2048)
    run(base_train.main, ROOT / "configs" / "tiny_base.py", "--tag", "bench", "--tokenizer", folder / "tok", "--input",
        texts, "--num_steps", 2)
    run(mid_train.main, ROOT / "configs" / "tiny_mid.py", "--tag", "bench", "--num_steps", 2, "--eval_every", 0)


def measure(folder: Path, steps: int, workers: int, world_share: float) -> dict:
    from scripts import rag_finetune

    printed = run(rag_finetune.main, ROOT / "configs" / "tiny_rag.py", "--tag", "bench", "--knowledge_base",
                  folder / "world" / "knowledge_base", "--num_steps", steps, "--eval_every", 0, "--log_every", steps,
                  "--data_workers", workers, "--world_share", world_share, "--cloze_per_document", 0)
    lines = (folder / "base" / "metrics" / "rag_bench.jsonl").read_text(encoding="utf-8").splitlines()
    record = next(json.loads(line) for line in lines if "model_share" in line)
    share = re.search(r"Time in the model: ([\d.]+)%", printed)
    retrieval = re.search(r"Retrieval for ([\d,]+) questions, the best (\d+) of ([\d,]+) documents: ([\d.]+) s, (.*)",
                          printed)
    return {"data_workers": workers, "world_share": world_share, "steps": steps, "loss": record["loss"],
            "tokens_per_s": round(record["tokens_per_s"]), "model_share": float(share[1]) / 100,
            "retrieval_s": float(retrieval[4]), "retrieval": retrieval[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--entities", type=int, default=1000)
    parser.add_argument("--output", default=str(ROOT / "bench" / "results" / "rag_throughput.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NANOCHAT_BASE_DIR"] = str(folder / "base")
        prepare(folder, arguments.entities)
        # the first run fills the cache of retrieval, so it is not compared
        rows = [measure(folder, 2, 0, 0.9)]
        for world_share in (0.9, 0.0):
            rows += [measure(folder, arguments.steps, workers, world_share) for workers in (0, 1)]
    for row in rows:
        print(row)
    import torch

    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(),
               "load_before": [round(value, 2) for value in os.getloadavg()], "torch": torch.__version__}
    Path(arguments.output).write_text(json.dumps({**machine, "runs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

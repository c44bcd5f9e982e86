"""Fine-tune a hybrid model on a knowledge base: answers with citations from retrieved documents."""

from dataclasses import dataclass
from typing import Literal

from nanochat.common import run_main
from nanochat.config import load_config
from nanochat.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RagFinetuneConfig:
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    source: Literal["base", "mid"] = "mid"  # checkpoint to start from
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # retriever to use
    top_k: int = 5                    # documents per question
    base_tasks: str = "SmolTalk"      # conversations to mix in, comma-separated; empty for none
    task_samples: int = 10000         # conversations per base task
    num_epochs: int = 1               # passes over the questions
    device_batch_size: int = 4        # conversations per GPU and step; lower it when memory runs out
    grad_accum_steps: int = 1         # batches per optimizer step
    max_seq_len: int = 4096           # tokens of one conversation; documents are dropped to fit
    max_doc_length: int = 0           # tokens of one document; 0 keeps them whole
    init_lr_frac: float = 0.02        # first learning rate, as a part of the full one
    run: str = "dummy"                # wandb run; dummy tracks in files only


CONFIG = RagFinetuneConfig


def main(argv: list[str]) -> int:
    load_config(CONFIG, argv, prog="scripts.rag_finetune", description=__doc__ or "")
    raise UserError("RAG fine-tuning is not built yet", hint="python -m scripts.rag_finetune --help lists its settings")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

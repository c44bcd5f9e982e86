"""Multi-hop training: several rounds of retrieval per question, then rewards (REFRAG)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common import run_main
from nanochat.config import load_config
from nanochat.errors import ConfigError, KnowledgeBaseNotFound, UserError


@dataclass(frozen=True, kw_only=True)
class RefragFinetuneConfig:
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    source: str = "mid"               # checkpoint to start from: base, mid, rag, or hf:FOLDER_OR_ID
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # retriever to use
    max_hops: int = 3                 # rounds of retrieval per question
    top_k_per_hop: int = 3            # documents per round
    use_rewards: bool = True          # reinforcement learning after the supervised part
    device_batch_size: int = 2        # conversations per GPU and step; lower it when memory runs out
    max_seq_len: int = 4096           # tokens of one conversation; documents are dropped to fit
    run: str = "dummy"                # wandb run; dummy tracks in files only


CONFIG = RefragFinetuneConfig


def check(config: RefragFinetuneConfig) -> None:
    """Refuse settings that cannot work, before anything slow happens."""
    for name in ("max_hops", "top_k_per_hop", "device_batch_size", "max_seq_len"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, found {getattr(config, name)}", hint=f"--{name} 1")
    if config.source not in ("base", "mid", "rag") and not config.source.startswith("hf:"):
        raise ConfigError(f"Checkpoint source {config.source!r} is not known to refrag_finetune",
                          hint="use one of base, mid, rag, hf:FOLDER_OR_ID")
    if not config.knowledge_base or not Path(config.knowledge_base).is_dir():
        output = config.knowledge_base or "data/my_kb"
        raise KnowledgeBaseNotFound(
            f"Knowledge base not found: {config.knowledge_base or '--knowledge_base was not given'}",
            hint=f"build it: python -m nanochat.retrieval --documents my_documents.jsonl --output {output}",
        )


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.refrag_finetune", description=__doc__ or "")
    check(config)
    raise UserError(
        "REFRAG fine-tuning is not built yet",
        hint="single-hop training works: python -m scripts.rag_finetune"
        f" --knowledge_base {config.knowledge_base} --source mid --retriever_type {config.retriever_type}",
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Fine-tune a hybrid model to answer from retrieved documents, with citations, and to say when they do not answer.

    python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.common import print0, run_main, world_size
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, KnowledgeBaseNotFound
from scripts.mid_train import load_chats
from scripts.training_run import TuningConfig, check_numbers, find_start, row_length, say_unused, train


@dataclass(frozen=True, kw_only=True)
class RagFinetuneConfig(TuningConfig):
    """Settings of scripts.rag_finetune."""

    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    questions: str = ""               # training questions (.jsonl); empty: queries_train.jsonl beside the folder
    cloze_per_document: int = 4       # fill-in questions made from each document; 0 for none
    validation_share: float = 0.1     # share of documents whose questions are kept for validation
    source: str = "mid"               # checkpoint to start from: base, mid, or hf:FOLDER_OR_ID
    source_tag: str = ""              # its tag; empty: the same as --tag
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # practice worlds: bm25 for dense ones
    rerank: str = ""                  # cross-encoder folder that orders the best results anew
    top_k: int = 5                    # most documents shown; training draws 1 ... top_k
    world_share: float = 0.5          # share of examples from generated worlds, new ones at every step
    base_tasks: str = "SmolTalk"      # conversations to mix in, comma-separated; empty for none
    task_samples: int = 10000         # conversations per base task
    chat_share: float = 0.15          # share of examples from base tasks
    num_epochs: int = 1               # passes over the questions
    num_steps: int = 0                # optimizer steps; 0: as many as num_epochs needs
    device_batch_size: int = 4        # conversations per GPU and step; lower it when memory runs out
    max_seq_len: int = 4096           # tokens of a row; documents are trimmed or dropped to fit
    max_doc_length: int = 0           # tokens of one document; 0 keeps them whole
    context_weight: float = 0.1       # loss weight of tokens that are not answers
    init_lr_frac: float = 0.02        # all rates are multiplied by this: fine-tuning is careful
    matrix_lr: float = 9e-3           # peak rate of linear layers (Muon) at init_lr_frac 1
    lora_lr: float = 1e-2             # peak rate of adapters (AdamW) at init_lr_frac 1


CONFIG = RagFinetuneConfig


def check_settings(config: RagFinetuneConfig) -> None:
    """Raises ConfigError or KnowledgeBaseNotFound for settings that cannot be; says which have no effect."""
    check_numbers(config, "top_k", "device_batch_size", "max_seq_len", "num_epochs")
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb",
        )
    if config.source not in ("base", "mid") and not config.source.startswith("hf:"):
        raise ConfigError(f"Checkpoint source {config.source!r} is not known to rag_finetune",
                          hint="use one of base, mid, hf:FOLDER_OR_ID")
    if not config.base_tasks:
        say_unused(config, "without --base_tasks", "chat_share", "task_samples")


def main(argv: list[str]) -> int:
    config = load_config(RagFinetuneConfig, argv, prog="scripts.rag_finetune", description=__doc__ or "")
    check_settings(config)
    # imported here so that --help does not wait for it
    from nanochat.retrieval import RetrievalManager

    manager = RetrievalManager(config.retriever_type, config.knowledge_base, rerank=config.rerank)
    from nanochat.checkpoint_manager import require_mamba
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.training.distributed import init_distributed, shutdown_distributed

    device = pick_device(config.device)
    set_cpu_threads()
    training, validation, where = _questions(config, manager)
    start = find_start(config, "rag", device)
    require_mamba(start.model.config, config.source, config.source_tag or config.tag)
    chats = load_chats(config, is_explicit=origins(config)["base_tasks"] != "default")
    print0(f"Questions: {where}; {len(validation)} kept for validation")
    share = pool_share(config, chats)
    num_steps = config.num_steps or steps_for(config, len(training), share)
    init_distributed(device)
    row_len = row_length(config, start.model)
    curriculum = _curriculum(config, start.tokenizer, row_len, chats, share, _pool(training, manager))
    held_out = _pool(validation, manager)

    def evaluate(step: int) -> dict[str, Any]:
        metrics = curriculum.evaluate(start.model, step)
        return metrics | (curriculum.validate(start.model, held_out) if held_out is not None else {})

    train(config, "rag", start.model, start.tokenizer, curriculum.batches, num_steps=num_steps, row_len=row_len,
          lr_frac=config.init_lr_frac, state=start.state, evaluate=evaluate,
          extra_meta=lambda: {"curriculum": curriculum.record(), "from": dict(start.origin),
                              "knowledge_base": manager.knowledge_base.fingerprint})
    if curriculum.num_lost:
        print0(f"{curriculum.num_lost} of {curriculum.num_rendered} examples were left out, because the documents they "
               f"cite did not fit: rows have {row_len} tokens (--max_seq_len, --max_doc_length, --top_k)")
    shutdown_distributed()
    print0(f"Next: python -m scripts.chat_cli --knowledge_base {config.knowledge_base} --tag {config.tag}")
    return 0


def _questions(config: RagFinetuneConfig, manager: Any) -> tuple[Any, Any, str]:
    """Questions for training and for validation, and where they come from."""
    from nanochat.rag.questions import questions_for
    from nanochat.rag.synthesis import split_by_document

    questions, where = questions_for(config.knowledge_base, manager.knowledge_base.documents, config.questions,
                                     cloze_per_document=config.cloze_per_document, seed=config.seed)
    return *split_by_document(questions, test_share=config.validation_share), where


def _curriculum(
    config: RagFinetuneConfig, tokenizer: Any, row_len: int, chats: Any, share: float, pool: Any
) -> Any:
    """Practice on documents: the knowledge base's questions, generated worlds, conversations."""
    from nanochat.rag.curriculum import Curriculum, Mixture

    return Curriculum(
        ["documents"], tokenizer, seed=config.seed + 2, row_len=row_len, examples_per_step=config.device_batch_size,
        context_weight=config.context_weight,
        # a new world every few steps: encoding each would take longer than training on it
        retriever_type=config.retriever_type if config.retriever_type == "simple" else "bm25",
        mixture=Mixture(chats=chats, chat_share=config.chat_share if chats else 0.0, pool_share=share, pool=pool),
        max_doc_tokens=config.max_doc_length or None, max_documents=config.top_k,
    )


def pool_share(config: RagFinetuneConfig, chats: Any) -> float:
    """Share of examples about the knowledge base: what --world_share and --chat_share leave."""
    share = 1 - config.world_share - (config.chat_share if chats else 0.0)
    if share < -1e-9:
        raise ConfigError(f"--world_share {config.world_share} and --chat_share {config.chat_share} are more than all",
                          hint="for example --world_share 0.5 --chat_share 0.15")
    return max(0.0, share)


def steps_for(config: RagFinetuneConfig, num_questions: int, share: float) -> int:
    """Optimizer steps in which about every question is asked first --num_epochs times."""
    per_step = config.device_batch_size * config.grad_accum_steps * world_size() * share
    if num_questions == 0 or per_step < 1e-9:
        raise ConfigError("There is nothing to train on from the knowledge base, so --num_epochs gives no steps",
                          hint="lower --world_share and --validation_share, or say how many steps: --num_steps 500")
    return math.ceil(config.num_epochs * num_questions / per_step)


def _pool(questions: Any, manager: Any) -> Any:
    """Questions with the documents behind a retriever; None without questions."""
    from nanochat.rag.pool import Pool

    if not questions:
        return None
    documents = manager.knowledge_base.documents
    position_of = {document.id: position for position, document in enumerate(documents)}
    return Pool([document.to_dict() for document in documents], questions, lambda queries, top_k: [
        [position_of[found.id] for found in row] for row in manager.retrieve_batch(queries, top_k)])


if __name__ == "__main__":
    raise SystemExit(run_main(main))

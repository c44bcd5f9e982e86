"""Fine-tune a hybrid model to answer from retrieved documents, with citations, and to say when they do not answer.

    python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid
"""

from dataclasses import dataclass
from typing import Any, Literal

from nanochat.common import print0, rank, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, KnowledgeBaseNotFound
from scripts.data_fingerprint import data_record, say_other_data
from scripts.early_stop import EarlyStop
from scripts.rag_data import check_early_stop, check_usable, kb_share, make_mixture, make_pool, steps_for
from scripts.training_run import TuningConfig, check_numbers, find_start, row_length, say_unused, train
from scripts.training_tasks import load_chats


@dataclass(frozen=True, kw_only=True)
class RagFinetuneConfig(TuningConfig):
    """Settings of scripts.rag_finetune."""

    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    questions: str = ""               # file of questions or episodes, or a folder of both; empty: beside the folder
    cloze_per_document: int = 4       # fill-in questions made from each document; 0 for none
    validation_share: float = 0.1     # share of documents whose questions are kept for validation
    validation_questions: str = ""    # questions or episodes for validation, file or folder; empty: a share of all
    validation_knowledge_base: str = ""  # folder with the documents of --validation_questions; empty: the same
    early_stop_patience: int = 0      # evaluations without a lower val_loss that end training; 0 never does
    source: str = "mid"               # checkpoint to start from: base, mid, rag, or hf:FOLDER_OR_ID
    source_tag: str = ""              # its tag; empty: the same as --tag
    retriever_type: Literal["simple", "bm25", "dense", "hybrid"] = "simple"  # practice worlds: bm25 for dense ones
    rerank: str = ""                  # cross-encoder folder that orders the best results anew
    top_k: int = 5                    # most documents shown; training draws 1 ... top_k
    world_share: float = 0.5          # share of examples from generated worlds, new ones at every step
    base_tasks: str = "SmolTalk"      # conversations to mix in: NAME[:PATH][:WEIGHT], comma-separated; empty for none
    task_samples: int = 10000         # conversations per base task
    chat_share: float = 0.15          # share of examples from base tasks
    num_epochs: int = 1               # passes over the questions
    num_steps: int = 0                # optimizer steps; 0: as many as num_epochs needs
    device_batch_size: int = 4        # conversations per GPU and step; lower it when memory runs out
    max_seq_len: int = 4096           # tokens of a row; documents are trimmed or dropped to fit
    max_doc_length: int = 0           # tokens of one document; 0 keeps them whole
    context_weight: float = 0.1       # loss weight of tokens that are not answers
    decision_weight: float = 2.0      # loss weight of the token that decides between answering and abstaining
    init_lr_frac: float = 0.02        # all rates are multiplied by this: fine-tuning is careful
    matrix_lr: float = 9e-3           # peak rate of linear layers (Muon) at init_lr_frac 1
    lora_lr: float = 1e-2             # peak rate of adapters (AdamW) at init_lr_frac 1
    eval_suite: Literal["none", "quick", "full"] = "none"  # a RAG card of the result, made at the end


CONFIG = RagFinetuneConfig


def check_settings(config: RagFinetuneConfig) -> None:
    """Raises ConfigError or KnowledgeBaseNotFound for settings that cannot be; says which have no effect."""
    from nanochat.tokenizer import NUM_DOC_SLOTS

    check_numbers(config, "top_k", "device_batch_size", "max_seq_len", "num_epochs")
    if config.top_k > NUM_DOC_SLOTS:
        raise ConfigError(f"--top_k is {config.top_k}, but a model can tell {NUM_DOC_SLOTS} documents apart",
                          hint=f"at most --top_k {NUM_DOC_SLOTS}")
    if config.decision_weight <= 0:
        raise ConfigError(f"--decision_weight is {config.decision_weight}, must be above 0",
                          hint="--decision_weight 1 weighs the decision like any other token of an answer")
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb",
        )
    if config.source not in ("base", "mid", "rag") and not config.source.startswith("hf:"):
        raise ConfigError(f"Checkpoint source {config.source!r} is not known to rag_finetune",
                          hint="use one of base, mid, rag, hf:FOLDER_OR_ID")
    if config.source == "rag" and config.source_tag in ("", config.tag):
        raise ConfigError(f"--source rag goes on from rag/{config.tag} and would write over it",
                          hint=f"give the new run a name of its own: --source_tag {config.tag} --tag {config.tag}-2")
    if config.validation_knowledge_base and not config.validation_questions:
        raise ConfigError("--validation_knowledge_base was given without questions about its documents",
                          hint="--validation_questions FILE.jsonl")
    if config.early_stop_patience and not config.eval_every:
        raise ConfigError("--early_stop_patience needs evaluations, but --eval_every is 0", hint="--eval_every 50")
    if not config.base_tasks:
        say_unused(config, "without --base_tasks", "chat_share", "task_samples")
    if config.num_steps:
        say_unused(config, "with --num_steps", "num_epochs")
    if config.validation_questions:
        say_unused(config, "with --validation_questions", "validation_share")


def main(argv: list[str]) -> int:
    config = load_config(RagFinetuneConfig, argv, prog="scripts.rag_finetune", description=__doc__ or "")
    check_settings(config)
    # imported here so that --help does not wait for it
    from nanochat.retrieval import RetrievalManager

    manager = RetrievalManager(config.retriever_type, config.knowledge_base, rerank=config.rerank)
    from nanochat.checkpoint_manager import require_mamba
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.rag.held_out import HeldOut
    from nanochat.rag.quoting import quoted_share
    from nanochat.training.distributed import init_distributed, shutdown_distributed

    device = pick_device(config.device)
    set_cpu_threads()
    data, held_out, manager_held_out, unseen = _data(config, manager)
    early_stop = EarlyStop("rag", config.tag, config.early_stop_patience)
    early_stop.recover()
    if config.resume and early_stop.is_finished():
        print0(f"rag/{config.tag} has ended and holds its best checkpoint, step {early_stop.finished_step()}: nothing "
               f"to do. To train it further: --source rag --source_tag {config.tag} --tag NAME, without --resume")
        return 0
    num_held_out = len(held_out.validation_questions) + len(held_out.validation_episodes)
    check_early_stop(config, num_held_out)
    start = find_start(config, "rag", device)
    require_mamba(start.model.config, config.source, config.source_tag or config.tag)
    chats = load_chats(config, is_explicit=origins(config)["base_tasks"] != "default")
    print0(f"Training data: {data.origin}; {num_held_out:,} kept for validation")
    record = data_record(data, held_out, manager.knowledge_base.fingerprint,
                         manager_held_out.knowledge_base.fingerprint, chats)
    record["quoted_share"] = quoted_share(data.questions, data.episodes, manager.knowledge_base.documents)
    if start.state is not None:
        say_other_data(_data_before(start.state["meta"]), record)
    share = kb_share(config, chats)
    num_steps = config.num_steps or steps_for(config, len(data), share)
    init_distributed(device)
    row_len = row_length(config, start.model)
    options = {"top_k": config.top_k, "rerank": config.rerank}
    pool = make_pool(data.questions, manager, **options, unseen=unseen)
    curriculum = _curriculum(config, start.tokenizer, row_len, make_mixture(config, share, chats, data, pool))
    check_usable(config, curriculum, data, pool, row_len)
    validation = HeldOut(curriculum, make_pool(held_out.validation_questions, manager_held_out, **options,
                                               what="validation questions"), held_out.validation_episodes)
    check_early_stop(config, len(validation.rendered), row_len=row_len)
    result = train(
        config, "rag", start.model, start.tokenizer, curriculum.batches, num_steps=num_steps, row_len=row_len,
        lr_frac=config.init_lr_frac, state=start.state, early_stop=early_stop,
        evaluate=lambda step: curriculum.evaluate(start.model, step) | validation.measure(start.model),
        extra_meta=lambda: {"curriculum": curriculum.record(), "from": dict(start.origin),
                            "knowledge_base": record["knowledge_base"], "data": record})
    _say_what_was_left_out(result, row_len)
    shutdown_distributed()
    if config.eval_suite != "none" and rank() == 0:
        _make_card(config, manager_held_out, held_out.validation_questions, device)
    print0(f"Next: python -m scripts.chat_cli --knowledge_base {config.knowledge_base} --tag {config.tag}")
    return 0


def _data_before(meta: dict[str, Any]) -> dict[str, Any]:
    """The data record of a checkpoint; an earlier one may have the fingerprint of the knowledge base alone."""
    return {**{name: meta[name] for name in ("knowledge_base",) if name in meta}, **meta.get("data", {})}


def _data(config: RagFinetuneConfig, manager: Any) -> tuple[Any, Any, Any, frozenset[str]]:
    """What to train on, what to validate on, the documents of the latter behind a retriever, and ids of the documents
    that training may not show.
    """
    from nanochat.rag.tuning_data import held_out_data, tuning_data, unseen_documents
    from nanochat.retrieval import RetrievalManager

    separate = bool(config.validation_questions)
    data = tuning_data(
        config.knowledge_base, manager.knowledge_base.documents, config.questions,
        cloze_per_document=config.cloze_per_document, seed=config.seed,
        validation_share=0.0 if separate else config.validation_share,
    )
    for name, why in data.unused.items() if not separate else ():
        say_unused(config, why, name)
    held_out, other = data, manager
    if config.validation_knowledge_base:
        other = RetrievalManager(config.retriever_type, config.validation_knowledge_base, rerank=config.rerank)
    if separate:
        held_out = held_out_data(other.knowledge_base.documents, config.validation_questions)
    is_same = other.knowledge_base.fingerprint == manager.knowledge_base.fingerprint
    unseen = unseen_documents(manager.knowledge_base.documents, data, held_out if is_same else None)
    return data, held_out, other, unseen


def _curriculum(config: RagFinetuneConfig, tokenizer: Any, row_len: int, mixture: Any) -> Any:
    """Practice on documents: the knowledge base's questions and episodes, generated worlds, conversations."""
    from nanochat.rag.curriculum import Curriculum

    return Curriculum(
        ["documents"], tokenizer, seed=config.seed + 2, row_len=row_len, examples_per_step=config.device_batch_size,
        context_weight=config.context_weight, decision_weight=config.decision_weight,
        # a new world every few steps: encoding each would take longer than training on it
        retriever_type=config.retriever_type if config.retriever_type == "simple" else "bm25",
        mixture=mixture, max_doc_tokens=config.max_doc_length or None, max_documents=config.top_k,
    )


def _say_what_was_left_out(result: dict[str, Any], row_len: int) -> None:
    """The share of time in the model, and what did not fit into rows."""
    if "model_share" in result:
        print0(f"Time in the model: {result['model_share']:.1%} of training; waiting for batches: "
               f"{1 - result['model_share']:.1%}")
    left_out = result.get("left_out", {})
    words = {"parts_dropped": "questions and documents were left out of examples", "documents_cut": "documents were "
             "trimmed or dropped", "tokens_cut": "tokens of documents were not read", "examples_lost": "examples were "
             "left out, because the documents that they cite did not fit"}
    told = [f"{left_out[name]:,} {text}" for name, text in words.items() if left_out.get(name)]
    if told:
        print0(f"To fit into rows of {row_len} tokens (--max_seq_len, --max_doc_length, --top_k): {'; '.join(told)}")


def _make_card(config: RagFinetuneConfig, manager: Any, questions: Any, device: Any) -> None:
    """Measure the checkpoint that the run leaves, and store the card in it."""
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine
    from nanochat.engine.deciding import CITATION_THRESHOLD
    from nanochat.evaluation import EvalQuestion
    from nanochat.evaluation.suite import make_card
    from nanochat.rag.quoting import is_extractive
    from scripts.rag_eval_suite import load_columns

    model, tokenizer, meta = load_model("rag", device, "eval", config.tag)
    asked = [EvalQuestion(id=str(record["id"]), question=record["question"].strip(), answers=tuple(record["answers"]),
                          supporting_ids=tuple(record["supporting_ids"]), hops=record.get("hops", 1),
                          kind=str(record.get("kind", ""))) for record in questions]
    print0(f"Making the card ({config.eval_suite}) of rag/{config.tag} step {meta['step']}")
    ways = {"citation_threshold": CITATION_THRESHOLD, "second_look": True, "extractive": is_extractive(None, meta)}
    columns, column_weights = load_columns("", meta, device, **ways)
    card = make_card(Engine(model, tokenizer, **ways), meta, suite=config.eval_suite, knowledge_base=manager,
                     questions=asked, columns=columns,
                     depends_on={"column_weights": column_weights, "device": str(device), **ways},
                     top_k=config.top_k, seed=config.seed, progress=lambda line: print0(f"  {line}"))
    for line in (*card.lines, *(f"wrote {path}" for path in card.paths)):
        print0(line)


if __name__ == "__main__":
    raise SystemExit(run_main(main))

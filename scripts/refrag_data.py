"""What refrag_finetune trains on: traces over the user's knowledge base and generated worlds, and general chat."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanochat.common import print0
from nanochat.config import origins
from nanochat.errors import ConfigError, SearchFailed, UserError
from scripts.rag_data import kb_share, make_mixture
from scripts.training_settings import say_unused


def changed(config: Any, **values: Any) -> Any:
    """The settings with other values; where the rest came from stays known."""
    other = replace(config, **values)
    object.__setattr__(other, "_origins", origins(config))
    return other


def check_stages(config: Any) -> list[str]:
    """The stages to practise: those whose questions --max_hops searches can answer. Raises ConfigError without any."""
    from nanochat.refrag.practice import CHAIN_STAGES

    names = [name.strip() for name in config.stages.split(",") if name.strip()]
    unknown = [name for name in names if name not in CHAIN_STAGES]
    if unknown or not names:
        raise ConfigError(f"Unknown stage {unknown[0] if unknown else ''!r}",
                          hint=f"there are {', '.join(CHAIN_STAGES)}")
    usable = [name for name in names if max(CHAIN_STAGES[name].traces.lengths) <= config.max_hops]
    if not usable:
        raise ConfigError(f"--max_hops {config.max_hops} is too few for the stages {config.stages}",
                          hint="begin with --stages chains1, or raise --max_hops")
    if usable != names and origins(config)["stages"] != "default":
        print0(f"With --max_hops {config.max_hops} the stages are {', '.join(usable)}")
    return usable


def refrag_data(config: Any, manager: Any) -> tuple[Any, frozenset[str]]:
    """The records about the knowledge base, some kept for validation, and ids of the documents that training may not
    show.
    """
    from nanochat.rag.tuning_data import tuning_data, unseen_documents

    documents = manager.knowledge_base.documents
    data = tuning_data(config.knowledge_base, documents, config.questions, cloze_per_document=config.cloze_per_document,
                       seed=config.seed, validation_share=config.validation_share,
                       needs_evidence=not config.use_rewards)
    for name, why in data.unused.items():
        say_unused(config, why, name)
    data = with_chains(config, data, {document.id for document in documents})
    kept = len(data.validation_questions) + len(data.validation_episodes)
    chains = sum(bool(question.get("steps")) for question in data.questions)
    unknown = len(without_steps(data.questions))
    told = f"{chains:,} questions of several hops; " + (f"{unknown:,} that only rewards can teach; " if unknown else "")
    print0(f"Training data: {data.origin}; {told}{kept:,} kept for validation")
    return data, unseen_documents(documents, data, data)


def with_chains(config: Any, data: Any, ids: set[str]) -> Any:
    """The data with the questions of several hops that a question file has, or that lie in its folder, or else beside
    the knowledge base. Raises QuestionError with file:line for steps that cannot be.
    """
    from nanochat.rag.synthesis import split_by_document
    from nanochat.refrag.chain_file import chains_of_folder, read_chains

    given = Path(config.questions or config.knowledge_base)
    if given.is_file():
        chains = {question["id"]: question for question in read_chains(given, ids)}
        parts = [[chains.get(question["id"], question) for question in part]
                 for part in (data.questions, data.validation_questions)]
        return replace(data, questions=parts[0], validation_questions=parts[1])
    for folder in (given, given.parent) if not config.questions else (given,):
        train, held = (chains_of_folder(folder, part, ids) for part in ("train", "validation"))
        if train and not held:
            train, held = map(list, split_by_document(train, test_share=config.validation_share))
        if train or held:
            return replace(data, questions=[*data.questions, *train],
                           validation_questions=[*data.validation_questions, *held])
    return data


def without_steps(questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The questions whose steps nobody knows: of them there are no traces, but what answers them can be rewarded."""
    from nanochat.refrag.planning import steps_of

    return [question for question in questions if not steps_of(question)]


def make_reward_source(
    questions: Sequence[Mapping[str, Any]], manager: Any, settings: Any, *, unseen: Collection[str] = ()
) -> Any:
    """The knowledge base's questions to be asked for rewards, those without steps among them; None without any."""
    from nanochat.refrag.sources import PoolSource

    pool = make_trace_pool(questions, manager, unseen=unseen, needs_steps=False)
    source = PoolSource(pool, settings, without_steps(questions))
    return None if source.is_empty else source


def make_trace_pool(
    questions: Sequence[Mapping[str, Any]], manager: Any, *, unseen: Collection[str] = (), needs_steps: bool = True
) -> Any:
    """The knowledge base's questions as a source of traces; None where none with an answer tells its steps, if it must.
    """
    from nanochat.refrag.planning import steps_of
    from nanochat.refrag.traces import TracePool

    usable = [question for question in questions if steps_of(question)]
    # of those without an answer alone, abstaining would be all that is learned
    if needs_steps and not any(question["answers"] for question in usable):
        return None
    documents = [document.to_dict() for document in manager.knowledge_base.documents if document.id not in unseen]
    place_of = {document["id"]: place for place, document in enumerate(documents)}
    spare = len(unseen)

    def search(queries: Sequence[str], top_k: int) -> list[list[int]]:
        try:
            rows = manager.retrieve_batch(list(queries), top_k + min(spare, 3 * top_k))
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - retrievers are foreign code and raise what they like
            folder = manager.knowledge_base.path
            raise SearchFailed(f"The knowledge base {folder} cannot be searched: {type(error).__name__}: {error}",
                               hint=f"check it: nanochat kb verify {folder}; then the same command with --resume true"
                               ) from error
        return [[place_of[found.id] for found in row if found.id in place_of][:top_k] for row in rows]

    return TracePool(documents, usable, search)


def chain_curriculum(
    config: Any, stages: Sequence[str], tokenizer: Any, row_len: int, data: Any, pool: Any,
    chats: Sequence[Mapping[str, Any]],
) -> Any:
    """Traces stage by stage: from worlds, from the knowledge base, and conversations."""
    from nanochat.refrag.curriculum import TraceCurriculum

    share = kb_share(config, chats)
    if pool is None and share:
        print0("The knowledge base has no question that says where its answer is found: its share goes to practice "
               "worlds")
    return TraceCurriculum(
        stages, tokenizer, seed=config.seed + 3, row_len=row_len, examples_per_step=config.device_batch_size,
        context_weight=config.context_weight, decision_weight=config.decision_weight,
        retriever_type=world_retriever(config), mixture=make_mixture(config, share, chats, data, pool),
        max_documents=config.top_k_per_hop, max_hops=config.max_hops, top_k_per_hop=config.top_k_per_hop,
        reading_share=config.reading_share)


def world_retriever(config: Any) -> str:
    """The retriever of practice worlds; to encode a new world every few steps would take longer than training on it."""
    return config.retriever_type if config.retriever_type == "simple" else "bm25"

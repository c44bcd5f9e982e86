"""Question files of several hops for scripts.prepare_rag_dataset: over an invented world, or over the user's documents.

Each line is a question with its steps: what to search for hop by hop, and the document that answers it.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.common import write_jsonl
from nanochat.errors import ConfigError

if TYPE_CHECKING:
    from nanochat.rag.library import Library
    from nanochat.rag.training_data import TrainingData
    from scripts.prepare_rag_dataset import PrepareRagDatasetConfig
    from tasks.world_chains import Chains
    from tasks.worlds import World

MULTIHOP = "queries_multihop.jsonl"  # of a world
MOST = {"world": 4, "synthesize": 2}  # hops that a mode can make questions of
ENTITIES_PER_QUESTION = 2  # of a world, for each number of hops


def check_hops(config: "PrepareRagDatasetConfig") -> None:
    """Raises ConfigError for a number of hops that the mode cannot make."""
    most = MOST.get(config.mode, 1)
    if not 1 <= config.hops <= max(1, most):
        raise ConfigError(f"--hops is {config.hops}, must lie in 1..{most} with --mode {config.mode}",
                          hint="leave it out for questions of one hop, or: --hops 2")


def world_chains(world: "World", config: "PrepareRagDatasetConfig", excluded: Collection[str]) -> "Chains":
    """Questions of 2 ... --hops hops whose own words do not find the later documents."""
    from nanochat.retrieval import Document, make_retriever
    from tasks.world_chains import ChainConfig, make_chains

    retriever = make_retriever("bm25")
    retriever.index([Document.from_dict(record) for record in world.documents])
    wanted = ChainConfig(seed=config.seed, hops=tuple(range(2, config.hops + 1)),
                         per_length=max(1, config.num_entities // ENTITIES_PER_QUESTION))
    return make_chains(world, wanted, lambda queries, top_k: [
        [hit.position for hit in hits] for hits in retriever.search(queries, top_k)], exclude_names=excluded)


def chain_lines(chains: "Chains", place: Path) -> list[str]:
    """What to say about a world's chains: how many of each length, and which share was kept."""
    num_broken = sum(not question["answers"] for question in chains.questions)
    lines = [f"Wrote {place}: {len(chains.questions):,} questions of several hops, {num_broken:,} without an answer"]
    for length, made in sorted(chains.made.items()):
        kept = chains.kept[length]
        lines.append(f"  {length} hops: {kept:,} of {made:,} kept ({kept / made:.0%}); the others find a later "
                     "document by the question alone")
    return lines


def compose(data: "TrainingData", library: "Library", config: "PrepareRagDatasetConfig", new: Path) -> list[str]:
    """Write queries_multihop_<split>.jsonl for each split in which two questions are linked by a name; returns what to
    say about them. Nothing without --hops 2.
    """
    from nanochat.refrag.composing import chains_of

    if config.hops < 2:
        return []
    taken: Counter[str] = Counter()
    lines, counts = [], Counter[str]()
    for name, questions in data.questions.items():
        chains = chains_of(questions, library, limit=len(questions), top_k=config.filter_top_k, taken=taken)
        counts[name] = len(chains)
        if chains:
            write_jsonl(new / f"queries_multihop_{name}.jsonl", chains)
            num_apart = sum(chain["is_apart"] for chain in chains)
            lines.append(f"Wrote {config.output}/queries_multihop_{name}.jsonl: {len(chains):,} questions of two hops; "
                         f"{num_apart:,} find their second document by a second search only")
    told = ", ".join(f"{name} {count:,}" for name, count in taken.most_common())
    if not lines:
        return [f"No questions of two hops: no answer to one question is the name that another one asks about "
                f"(filters took: {told or 'none'})"]
    return [*lines, f"Filters for two hops took: {told or 'none'}. Read the questions and edit them before training"]


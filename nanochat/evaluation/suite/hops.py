"""Questions of several hops: worlds with chains of facts, and what a model finds with searches in its own words."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nanochat.engine import Engine, HopConfig, run_episodes
from nanochat.evaluation.questions import EvalQuestion
from nanochat.evaluation.suite.judging import Asker, Judged, judge
from nanochat.evaluation.suite.material import Material, in_memory, sample
from nanochat.evaluation.suite.prompts import prompt
from nanochat.evaluation.suite.worlds import make_worlds
from tasks.world_chains import CHAIN_WORLD, ChainConfig, make_chains
from tasks.world_records import World

LENGTHS = (1, 2, 3)
OWN_SEARCHES = "own_searches"  # the cell
SPARE = 1.5                    # questions made for one that is asked: some give themselves away, and are left out


def chain_material(
    seeds: Sequence[int], retriever_type: str, *, num_answerable: int, num_unanswerable: int, seed: int = 0,
    exclude: Collection[str] = (),
) -> Material:
    """Worlds with chains of facts as one knowledge base, and questions of LENGTHS hops whose words find the first only.
    No name of theirs is in `exclude`.
    """
    worlds = make_worlds(seeds, exclude=exclude, **CHAIN_WORLD)
    num_asked = num_answerable + num_unanswerable
    each = -(-int(SPARE * num_asked) // (len(LENGTHS) * len(worlds)))
    share = num_unanswerable / max(1, num_asked)
    questions = [question for world in worlds for question in _questions(
        world, ChainConfig(seed=seed, hops=LENGTHS, per_length=each, unanswerable_share=share), retriever_type)]
    rng = random.Random(f"suite chains {seed}")
    answerable, unanswerable = sample(questions, num_answerable, num_unanswerable, rng)
    documents = [one for world in worlds for one in world.documents]
    return Material(name="chains", documents=documents, answerable=answerable, unanswerable=unanswerable,
                    retriever_type=retriever_type, search=in_memory(documents, retriever_type), is_world=True)


def _questions(world: World, config: ChainConfig, retriever_type: str) -> list[EvalQuestion]:
    found = in_memory(world.documents, retriever_type)
    place_of = {one["id"]: place for place, one in enumerate(world.documents)}

    def search(queries: Sequence[str], top_k: int) -> list[list[int]]:
        return [[place_of[one["id"]] for one in row] for row in found(queries, top_k)]

    return [EvalQuestion(id=one["id"], question=one["question"], answers=tuple(one["answers"]), hops=one["hops"],
                         supporting_ids=tuple(one["supporting_ids"]), kind=one["kind"])
            for one in make_chains(world, config, search).questions]


def hop_config(engine: Any, meta: Mapping[str, Any]) -> HopConfig | None:
    """How a checkpoint searches in its own words, as it was trained to; None for one that was not."""
    if meta.get("source") != "refrag" or not isinstance(engine, Engine):
        return None
    config = meta.get("config")
    told = config if isinstance(config, Mapping) else {}
    names = {"max_hops": "max_hops", "top_k": "top_k_per_hop", "max_query_tokens": "max_query_tokens"}
    return HopConfig(**{name: told[key] for name, key in names.items() if isinstance(told.get(key), int)})


def own_searches(
    asker: Asker, material: Material, config: HopConfig | None, progress: Callable[[str], None], prefix: str = ""
) -> dict[str, list[Judged]]:
    """The questions of a material, searched for in the model's own words; {} for a model that does not, and where all
    questions have one hop. These answers are not kept for a run that is taken up.
    """
    questions = [*material.answerable, *material.unanswerable]
    if config is None or all(question.hops == 1 for question in questions):
        return {}
    judged: list[Judged] = []
    for start in range(0, len(questions), asker.batch_size):
        batch = questions[start : start + asker.batch_size]
        episodes = run_episodes(asker.engine, [one.question for one in batch], material.search, config,
                                max_tokens=asker.max_tokens, answer_threshold=asker.threshold)
        judged += [_judged(question, episode) for question, episode in zip(batch, episodes, strict=True)]
    progress(f"{prefix}{OWN_SEARCHES}: {len(judged)} questions, right "
             f"{sum(one.is_right for one in judged) / len(judged):.2f}")
    return {OWN_SEARCHES: judged}


def _judged(question: EvalQuestion, episode: Any) -> Judged:
    marks = "".join(f"[{slot + 1}]" for slot in episode.citations)
    shown = episode.documents
    return judge(prompt(question, shown), f"{episode.answer} {marks}".strip(), {
        "documents": shown, "abstained": episode.abstained, "answer": episode.answer,
        "answer_probability": episode.answer_probability, "dropped": episode.dropped,
        "citations": [{"number": slot + 1, "id": shown[slot]["id"]} for slot in episode.citations],
        "num_prompt_tokens": episode.mask.count(0), "num_tokens": episode.mask.count(1)})

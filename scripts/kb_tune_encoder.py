"""Tune the encoder of a knowledge base on its own documents, and keep it if it finds more.

    python -m scripts.kb_tune_encoder --knowledge_base data/my_kb
    nanochat kb tune-encoder --knowledge_base data/my_kb --queries data/questions.jsonl

Learns from pseudo-queries (titles, sentences, rarer words), needs no labels and no network. What was learned becomes
the next version only if the difference on held-out queries, with its 95 % interval, is above zero; the number is
printed either way. Your own questions (--queries) are the better judge: with them, they decide.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, KnowledgeBaseError, KnowledgeBaseNotFound

if TYPE_CHECKING:
    from nanochat.evaluation.statistics import Estimate
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.encoders import Encoder


@dataclass(frozen=True, kw_only=True)
class KbTuneEncoderConfig:
    knowledge_base: str = ""          # folder built with --type dense or hybrid (required)
    method: Literal["adapter", "full"] = "adapter"  # a map for query vectors (seconds), or the whole model (slow)
    queries: str = ""                 # your own held-out questions, JSONL or TSV; empty: pseudo-queries
    qrels: str = ""                   # their judgements, TREC or JSONL; empty: the queries' supporting_ids
    num_queries: int = 4000           # pseudo-queries to make, over train, dev and held-out documents
    max_passages: int = 50_000        # passages that compete; a larger knowledge base is sampled
    epochs: int = 12                  # adapter: rounds over the pseudo-queries
    steps: int = 300                  # full: training steps
    batch: int = 0                    # queries per step; 0: 128 for adapter, 32 for full
    learning_rate: float = 2e-5       # full: the highest of the schedule
    output: str = ""                  # full: new folder of the fine-tuned model (required for it)
    install: bool = True              # false: measure only, change nothing
    report: str = ""                  # JSON file for the numbers
    seed: int = 0                     # of pseudo-queries, training and intervals


CONFIG = KbTuneEncoderConfig
ONLY_FOR = {"adapter": ("epochs",), "full": ("steps", "learning_rate", "output")}


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_tune_encoder", description=__doc__ or "")
    check(config)
    # imported here so that --help does not wait for them
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.tuning.arena import lexical_over, make_examples, read_arena
    from nanochat.retrieval.tuning.judging import Judge

    knowledge_base = KnowledgeBase.open(config.knowledge_base)
    current = encoder_of(knowledge_base)
    inside = getattr(current, "base", current)
    started = time.perf_counter()
    arena = read_arena(knowledge_base, config.max_passages, config.seed)
    examples, queries = make_examples(arena, inside, lexical_over(arena.documents), config.num_queries, config.seed)
    counts = ", ".join(f"{len(part.places)} {split}" for split, part in examples.items())
    print0(f"{len(arena.documents):,} passages, {len(queries):,} pseudo-queries ({counts}), "
           f"{time.perf_counter() - started:.1f} s")
    held_out = [query.text for query in queries if query.split == "held-out"]
    judge = Judge(knowledge_base, arena, held_out, examples["held-out"].places)
    if config.queries:
        judge.use(config.queries, config.qrels)
    with tempfile.TemporaryDirectory(prefix="nanochat-tuned-") as made:
        started = time.perf_counter()
        if config.method == "adapter":
            encoder, learned = tune_adapter(config, inside, examples, arena)
            settings: dict[str, Any] = {}
        else:
            texts = [query.text for query in queries if query.split == "train"]
            encoder, learned = tune_model(config, inside, texts, examples, arena)
            settings = {"model": config.output}
        print0(f"learned in {time.perf_counter() - started:.1f} s")
        rows: list[dict[str, Any]] = []
        if encoder is not None:
            after = judge.with_encoder(encoder, Path(made)) if config.method == "adapter" else \
                judge.with_model(config.output, Path(made))
            rows = compare(judge.before(), after, judge.decides, config.seed)
        decide(config, knowledge_base, learned, rows, Path(made), settings)
    return 0


def check(config: KbTuneEncoderConfig) -> None:
    """Refuse settings that cannot work, before anything slow happens."""
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb "
                 "--type hybrid",
        )
    for name in ("num_queries", "max_passages", "epochs", "steps"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, found {getattr(config, name)}", hint=f"leave --{name} out")
    if config.method == "full" and not config.output:
        raise ConfigError("--method full needs --output, a folder for the new model", hint="--output data/my_encoder")
    if config.method == "full" and Path(config.output).exists():
        raise ConfigError(f"--output {config.output} is there already", hint="choose a new folder")
    if config.qrels and not config.queries:
        raise ConfigError("--qrels was given without --queries", hint="--queries data/questions.jsonl")
    other = "full" if config.method == "adapter" else "adapter"
    for name, origin in origins(config).items():
        if origin in ("flag", "file") and name in ONLY_FOR[other]:
            print0(f"--{name} has no effect with --method {config.method}")


def encoder_of(knowledge_base: "KnowledgeBase") -> "Encoder":
    """The encoder of the dense index. Raises KnowledgeBaseError where there is no such index."""
    from nanochat.retrieval.encoders import load_encoder

    record = knowledge_base.manifest["indexes"].get("dense")
    if record is None:
        raise KnowledgeBaseError(
            f"Knowledge base {knowledge_base.path} has no dense index, so there is no encoder to tune",
            hint="build it with --type dense or --type hybrid",
        )
    return load_encoder(knowledge_base.path / "indexes" / record["folder"])


def tune_adapter(
    config: KbTuneEncoderConfig, inside: "Encoder", examples: dict, arena: Any
) -> "tuple[Encoder | None, dict[str, Any]]":
    """The encoder with the best map, or None where none is better than nothing, and how it was learned."""
    from nanochat.retrieval.encoders.tuned import TunedEncoder
    from nanochat.retrieval.tuning.adapter import learn_map

    found = learn_map(examples["train"], examples["dev"], arena, epochs=config.epochs, batch=config.batch or 128,
                      seed=config.seed, progress=print0)
    learned = {"method": "adapter", "form": found.form, "epoch": found.epoch, "seed": config.seed,
               "num_queries": len(examples["train"].places), "dev_before": round(found.dev_before, 4),
               "dev_after": round(found.dev_after, 4)}
    if not found.epoch:
        print0("no map was better than none on the dev queries")
        return None, learned
    return TunedEncoder(inside, found.query_map, learned), learned


def tune_model(
    config: KbTuneEncoderConfig, inside: "Encoder", texts: Sequence[str], examples: dict, arena: Any
) -> "tuple[Encoder, dict[str, Any]]":
    """The fine-tuned model, and how it was learned."""
    from nanochat.retrieval.encoders import find_encoder
    from nanochat.retrieval.encoders.models import find_model
    from nanochat.retrieval.tuning.full import FullSettings, fine_tune

    described = inside.describe()
    if described["encoder"] != "transformer":
        raise ConfigError(f"--method full trains a transformer; the encoder here is {described['encoder']}",
                          hint="--method adapter, or build with --model all-MiniLM-L6-v2")
    settings = FullSettings(steps=config.steps, batch=config.batch or 32, learning_rate=config.learning_rate,
                            seed=config.seed)
    started = time.perf_counter()
    losses = fine_tune(find_model(described["model"]), Path(config.output), texts, examples["train"], arena, settings,
                       print0)
    seconds = time.perf_counter() - started
    print0(f"wrote {config.output}: {len(losses)} steps in {seconds:.0f} s ({seconds / len(losses):.2f} s a step)")
    return find_encoder(config.output), {
        "method": "full", "seed": config.seed, **asdict(settings), "seconds": round(seconds, 1),
        "first_loss": losses[0], "last_loss": losses[-1]}


def compare(
    before: "dict[str, list[float]]", after: "dict[str, list[float]]", decides: str, seed: int
) -> list[dict[str, Any]]:
    """Per kind of search: nDCG@10 before and after, the difference with its interval, and whether this one decides."""
    from nanochat.evaluation.statistics import bootstrap_mean, paired_difference

    rows = []
    for name, values in after.items():
        estimates = {"before": bootstrap_mean(before[name], seed=seed), "after": bootstrap_mean(values, seed=seed),
                     "difference": paired_difference(values, before[name], seed=seed)}
        rows.append({"search": name, "decides": name == decides, **estimates})
        print0(f"{name:<28} nDCG@10 before {_format(estimates['before'])}, after {_format(estimates['after'])}, "
               f"difference {_format(estimates['difference'], '+.4f')} over {len(values)} queries")
    return rows


def _format(estimate: "Estimate", form: str = ".4f") -> str:
    value, low, high = (format(number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def decide(
    config: KbTuneEncoderConfig, knowledge_base: "KnowledgeBase", learned: dict[str, Any], rows: list[dict[str, Any]],
    made: Path, settings: dict[str, Any],
) -> None:
    """Install what was learned if it wins, say so either way, and write the report."""
    wins = any(row["decides"] and row["difference"].low > 0 for row in rows)
    version = None
    if rows and not config.queries and knowledge_base.retriever_type != "dense":
        print0(f"note: this knowledge base searches with {knowledge_base.retriever_type}; pseudo-queries judge its "
               "dense side only. Your own questions judge all of it: --queries data/questions.jsonl")
    if wins and config.install:
        from nanochat.retrieval.tuning.installing import install_index

        change = install_index(knowledge_base.path, made, knowledge_base.manifest, settings=settings)
        version = change.version
        print0(f"installed: {config.knowledge_base} is at version {version} ({change.seconds:.1f} s); go back with "
               f"nanochat kb rollback {knowledge_base.version} --knowledge_base {config.knowledge_base}")
    elif wins:
        print0("it wins; not installed, as --install false says")
    else:
        print0("not installed: the interval of the difference is not above zero; the knowledge base is as it was")
    if config.report:
        results = [{key: value.to_dict() if hasattr(value, "to_dict") else value for key, value in row.items()}
                   for row in rows]
        write_json(config.report, {"knowledge_base": config.knowledge_base, "version": version, "wins": wins,
                                   "learned": learned, "results": results, "config": asdict(config)})
        print0(f"wrote {config.report}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

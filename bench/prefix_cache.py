"""What the prefix cache saves: time to the first token of a second question, memory per prompt, hits in a stream.

    python -m bench.prefix_cache --data ../shared/data
    python -m bench.prefix_cache --scenarios 10000

Prompts are 5 to 8 real passages and a question, through the Engine, with random weights: speed does not depend on them.
Times are of one thread: wall, and processor time, which neighbours on the machine disturb less; "off" is the same
engine without a prefix cache in the same run. The second form lives random lives (bench.prefix_scenarios) and compares
logits.
"""

import platform
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.passages import real_passages
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import UserError

if TYPE_CHECKING:
    from nanochat.engine import Engine
    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer

VOCAB = 4096
# name -> width, heads, key-value heads, hidden width of the MLP, pattern; and the MLP of a transformer as large
MODELS: dict[str, tuple[int, int, int, int, str, int]] = {
    "1M": (128, 4, 2, 256, "M,T,M", 374),
    "5M": (256, 4, 2, 640, "M,M,T,M,M,M", 895),
    "50M": (512, 8, 2, 1280, "M,M,M,T,M,M,M,M,M,M,T,M,M", 1833),
}
MEMORY_TOKENS = (500, 1000, 4000, 16000)
STREAM_MODEL, TOPICS, QUESTIONS, BUDGETS = "1M", 60, 300, (4, 8, 16, 64)


@dataclass(frozen=True, kw_only=True)
class PrefixCacheConfig:
    data: str = ""                    # folder with the developers' data (required without --scenarios)
    models: str = ",".join(MODELS)    # sizes to time, by commas
    document_sets: int = 6            # sets of documents that are asked about twice, per size
    scenarios: int = 0                # only this many random scenarios
    seed: int = 0                     # of everything random
    output: str = ""                  # where the numbers go; empty: bench/results/prefix_cache.json


CONFIG = PrefixCacheConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.prefix_cache", description=__doc__ or "")
    import torch

    torch.set_num_threads(1)
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, one thread"
    if config.scenarios:
        from bench.prefix_scenarios import run_scenarios

        start = time.process_time()
        done = run_scenarios(config.scenarios, seed=config.seed)
        done |= {"seed": config.seed, "processor_s": round(time.process_time() - start, 1), "machine": machine,
                 "command": f"python -m bench.prefix_cache --scenarios {config.scenarios}"}
        print0(f"{done['scenarios']:,} scenarios, logits differ by at most {done['largest_difference']:.1e}; {done}")
        write_json(config.output or "bench/results/prefix_scenarios.json", done)
        return 0
    if not config.data:
        raise UserError("No data folder", hint="--data ../shared/data")
    passages = [{"id": p.id, "title": p.title, "content": p.content} for p in real_passages(config.data, 3000)]
    from nanochat.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([passage["content"] for passage in passages], vocab_size=VOCAB)
    chance = random.Random(config.seed)
    result: dict[str, Any] = {"command": "python -m bench.prefix_cache --data ../shared/data", "machine": machine}
    result["first_token"] = [time_model(name, passages, tokenizer, config, chance) for name in config.models.split(",")]
    result["memory"] = [memory(name) for name in config.models.split(",")]
    result["stream"] = [stream(kind, budget, passages, tokenizer, config.seed)
                        for kind in ("hybrid", "transformer") for budget in BUDGETS]
    write_json(config.output or "bench/results/prefix_cache.json", result)
    return 0


def make_model(name: str, kind: str) -> "LanguageModel":
    """The hybrid of this size, or a transformer of as many layers and parameters."""
    from nanochat.model import LanguageModel, ModelConfig

    width, heads, kv_heads, hidden, pattern, transformer_hidden = MODELS[name]
    if kind == "transformer":
        pattern, hidden = ",".join("T" * len(pattern.split(","))), transformer_hidden
    return LanguageModel(ModelConfig(
        block_pattern=pattern, vocab_size=VOCAB, sequence_len=2048, n_embd=width, n_head=heads, n_kv_head=kv_heads,
        mlp_hidden=hidden, attention_conv=4)).eval()


def conversation(documents: Sequence[dict], chance: random.Random) -> dict[str, Any]:
    """A question of ten words out of one of the documents."""
    words = chance.choice(documents)["content"].split()
    start = chance.randrange(max(1, len(words) - 10))
    return {"messages": [{"role": "retrieval", "documents": list(documents)},
                         {"role": "user", "content": "What about " + " ".join(words[start : start + 10]) + "?"}]}


def ask(engine: "Engine", asked: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    """Wall and processor seconds to the first token, all that a caller waits for included."""
    wall, cpu = time.perf_counter(), time.process_time()
    _, info = engine.generate_from_conversation(asked, 1)
    return time.perf_counter() - wall, time.process_time() - cpu, info


def time_model(
    name: str, passages: Sequence[dict], tokenizer: "Tokenizer", config: PrefixCacheConfig, chance: random.Random
) -> dict[str, Any]:
    """First and second question over the same documents, with the prefix cache and without."""
    from nanochat.engine import Engine

    model = make_model(name, "hybrid")
    engines = {"on": Engine(model, tokenizer), "off": Engine(model, tokenizer, prefix_cache_bytes=0)}
    times: dict[str, list[tuple[float, float]]] = {}
    lengths, cached = [], []
    for number in range(-1, config.document_sets):
        documents = chance.sample(list(passages), chance.randint(5, 8))
        for place in ("first", "second"):
            asked = conversation(documents, chance)
            for kind, engine in engines.items():
                wall, cpu, info = ask(engine, asked)
                # the first set of documents only warms up
                if number >= 0:
                    times.setdefault(f"{place}_{kind}", []).append((wall, cpu))
                    lengths.append(info["num_prompt_tokens"])
                    if (place, kind) == ("second", "on"):
                        cached.append(info["cached_tokens"])
    row: dict[str, Any] = {"model": name, "parameters": model.num_parameters,
                           "prompt_tokens": [min(lengths), max(lengths)], "reused_tokens": statistics.median(cached)}
    for what, pairs in times.items():
        row[f"{what}_ms"] = round(1e3 * statistics.median(wall for wall, _ in pairs), 2)
        row[f"{what}_cpu_ms"] = round(1e3 * statistics.median(cpu for _, cpu in pairs), 2)
    for column, unit in (("", 0), ("_cpu", 1)):
        row[f"first_over_second{column}"] = round(statistics.median(
            first[unit] / second[unit]
            for first, second in zip(times["first_on"], times["second_on"], strict=True)), 1)
        row[f"first_on_over_off{column}"] = round(statistics.median(
            on[unit] / off[unit] for on, off in zip(times["first_on"], times["first_off"], strict=True)), 3)
    print0(f"{name:>4} ({model.num_parameters / 1e6:.1f} M), {min(lengths)} to {max(lengths)} tokens: first question "
           f"{row['first_on_ms']:.1f} ms, second {row['second_on_ms']:.1f} ms: {row['first_over_second']} times less "
           f"(processor time {row['first_over_second_cpu']}); without cache {row['second_off_ms']:.1f} ms; first "
           f"question with over without {row['first_on_over_off_cpu']}")
    return row


def memory(name: str) -> dict[str, Any]:
    """Bytes kept for one prompt, hybrid and transformer."""
    kept: dict[str, dict[int, int]] = {}
    parameters = {}
    for kind in ("hybrid", "transformer"):
        model = make_model(name, kind)
        parameters[kind] = model.num_parameters
        for tokens in MEMORY_TOKENS:
            cache = model.new_cache(1)
            cache.reserve(tokens)
            cache.advance(tokens)
            kept.setdefault(kind, {})[tokens] = cache.used_bytes
    shares = {tokens: round(kept["hybrid"][tokens] / kept["transformer"][tokens], 3) for tokens in MEMORY_TOKENS}
    print0(f"{name:>4} memory per prompt, hybrid over transformer: "
           + ", ".join(f"{kept['hybrid'][n] / 1e6:.2f} MB = {share} at {n}" for n, share in shares.items()))
    return {"model": name, "parameters": parameters, "bytes": kept, "hybrid_over_transformer": shares}


def questions(passages: Sequence[dict], seed: int) -> Iterator[dict[str, Any]]:
    """Questions about sets of documents, the n-th set asked for in proportion to 1 / n."""
    chance = random.Random(f"{seed}:stream")
    sets = [chance.sample(list(passages), chance.randint(5, 8)) for _ in range(TOPICS)]
    weights = [1 / (1 + number) for number in range(TOPICS)]
    for _ in range(QUESTIONS):
        yield conversation(chance.choices(sets, weights)[0], chance)


def stream(
    kind: str, budget: int, passages: Sequence[dict], tokenizer: "Tokenizer", seed: int
) -> dict[str, Any]:
    """Hit rate under a budget of so many prompts of the hybrid."""
    from nanochat.engine import Engine

    cache = make_model(STREAM_MODEL, "hybrid").new_cache(1)
    cache.reserve(800)
    cache.advance(800)
    engine = Engine(make_model(STREAM_MODEL, kind), tokenizer, prefix_cache_bytes=budget * cache.used_bytes)
    start = time.process_time()
    for asked in questions(passages, seed):
        ask(engine, asked)
    spent, stats = time.process_time() - start, engine.prefix_cache.stats
    row = {"model": f"{STREAM_MODEL} {kind}", "budget_mb": round(stats.max_bytes / 1e6, 2), "budget_prompts": budget,
           "hit_rate": round(stats.hits / (stats.hits + stats.misses), 3),
           "token_hit_rate": round(stats.token_hit_rate, 3), "evictions": stats.evictions,
           "snapshots": stats.num_snapshots, "cpu_ms_per_question": round(1e3 * spent / QUESTIONS, 2)}
    print0(f"{QUESTIONS} questions, {TOPICS} sets of documents (Zipf), {row['model']}, {row['budget_mb']} MB: "
           f"{row['token_hit_rate']:.1%} of tokens reused, {row['cpu_ms_per_question']} ms per question")
    return row


if __name__ == "__main__":
    raise SystemExit(run_main(main))

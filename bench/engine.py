"""What the engine gains and costs: many requests at once, a stream in company, guessed tokens, time outside the model.

    python -m bench.engine [--only batching,latency,overhead,speculation] [--threads 1] [--repeats 3]

A random model of 46 M parameters (six M and two T blocks, 32,768 ids) stands for a trained one: speed does not depend
on the weights. Times are processor times of this process, so that a busy machine changes little; with one thread they
are the waiting times of an idle one. Figures are medians of ratios within one run.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.engine import live_row
from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.request import Handle, Request
from nanochat.engine.rules import OnlyIds
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.session import Session
from nanochat.model import LanguageModel, ModelConfig

RESULTS = Path(__file__).parent / "results" / "engine.json"
NUM_REQUESTS = 32
ANSWER = 64  # tokens of an answer that copies


class CopyModel(LanguageModel):
    """Writes a given text, whatever its weights say, at their cost: acceptance of guesses is that of this text."""

    truth: Sequence[int] = ()
    num_read = 0

    def features(self, ids, cache=None, **options):
        features = super().features(ids, cache, **options)
        self.num_read = cache.host_lengths[0]
        return features

    def head(self, features):
        logits = super().head(features)
        if self.truth:
            first = self.num_read - len(logits) + 1
            following = torch.tensor([self.truth[min(first + n, len(self.truth) - 1)] for n in range(len(logits))])
            logits[torch.arange(len(logits)), following] += 1e6
        return logits


def make_model() -> CopyModel:
    config = ModelConfig(
        block_pattern="M,M,M,T,M,M,M,T", vocab_size=32768, sequence_len=4096, n_embd=512, n_head=8, n_kv_head=4,
        mlp_hidden=1408, d_state=64, headdim=64,
    )
    return CopyModel(config).eval()


def prompts(count: int, low: int, high: int, *, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(32768) for _ in range(rng.randrange(low, high))] for _ in range(count)]


def cpu_s(act: Callable[[], Any]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def serve(model: CopyModel, requests: Sequence[Request], **options: Any) -> list[Handle]:
    scheduler = Scheduler(model, **options)
    # a prompt known in full is not read
    model.num_read = len(requests[0].ids)
    handles = [scheduler.submit(request) for request in requests]
    scheduler.run()
    return handles


def batching(model: CopyModel, repeats: int) -> dict[str, Any]:
    """Tokens/s, prompts included: one by one, in a plain batch that runs to its longest answer, continuously."""
    rng = random.Random(1)
    mixed = [Request(ids=ids, params=SamplingParams(temperature=0, max_tokens=rng.choice([8, 16, 24, 64])))
             for ids in prompts(3 * NUM_REQUESTS, 16, 96)]
    equal = [Request(ids=request.ids, params=SamplingParams(temperature=0, max_tokens=48)) for request in mixed]

    def static() -> None:
        # rows of a plain batch all run to the longest answer
        session = Session(model, NUM_REQUESTS)
        session.extend(range(NUM_REQUESTS), [request.ids for request in few])
        session.sample(SamplingParams(temperature=0, max_tokens=64), stop_ids=())

    def rate(requests: Sequence[Request], act: Callable[[], Any]) -> float:
        return sum(request.params.max_tokens for request in requests) / cpu_s(act)

    few, many, runs = mixed[:NUM_REQUESTS], equal[:NUM_REQUESTS], []
    for _ in range(repeats):
        alone = rate(mixed[:6], lambda: serve(model, mixed[:6], max_rows=1))
        alone_equal = rate(equal[:3], lambda: serve(model, equal[:3], max_rows=1))
        runs.append({
            "one by one, tokens/s": alone,
            "32 answers of 8 to 64 tokens in a plain batch, x": rate(few, static) / alone,
            "32 answers of 8 to 64 tokens, x": rate(few, lambda: serve(model, few, max_rows=32)) / alone,
            "96 answers of 8 to 64 tokens, 32 at a time, x": rate(
                mixed, lambda: serve(model, mixed, max_rows=32)) / alone,
            "32 answers of 48 tokens, x": rate(many, lambda: serve(model, many, max_rows=32)) / alone_equal,
        })
    return medians(runs)


def latency(model: CopyModel, repeats: int) -> dict[str, Any]:
    """Time between two pieces of one stream: alone, in company, and while a prompt of 2,048 tokens is read."""
    found: dict[str, Any] = {}
    for company in (0, 7, 31):
        scheduler = Scheduler(model, prefill_tokens=128)
        for ids in prompts(company + 1, 16, 64):
            scheduler.submit(Request(ids=ids, params=SamplingParams(temperature=0, max_tokens=200)))
        while scheduler.num_waiting:
            scheduler.step()
        steps = sorted(cpu_s(scheduler.step) for _ in range(10))
        found[f"step_ms_with_{company}_others"] = 1e3 * statistics.median(steps)
    scheduler.submit(Request(ids=prompts(1, 2048, 2049)[0], params=SamplingParams(max_tokens=1)))
    steps = sorted(cpu_s(scheduler.step) for _ in range(6))
    found["longest_step_ms_while_2048_tokens_are_read"] = 1e3 * steps[-1]
    found["reading_2048_tokens_at_once_ms"] = 1e3 * cpu_s(
        lambda: serve(model, [Request(ids=prompts(1, 2048, 2049)[0], params=SamplingParams(max_tokens=1))],
                      prefill_tokens=4096))
    return found


def overhead(model: CopyModel, repeats: int) -> dict[str, Any]:
    """Share of a step of 32 rows that is not the model's forward: choosing, rules, bookkeeping."""
    mask = torch.ones(32768, dtype=torch.bool)
    own = [torch.ones(32768, dtype=torch.bool) for _ in range(NUM_REQUESTS)]
    rules = {"no_rule": lambda row: None, "one_mask": lambda row: lambda: OnlyIds(mask),
             "a_mask_per_row": lambda row: lambda: OnlyIds(own[row])}
    # the logits of a random model are flat: a low temperature makes them what a trained one gives
    ways = {"greedy": SamplingParams(temperature=0, max_tokens=100),
            "top_p": SamplingParams(temperature=0.05, top_p=0.9, max_tokens=100),
            "top_p, flat": SamplingParams(top_p=0.9, max_tokens=100)}
    found = {}
    for way, params in ways.items():
        for name, rule in rules.items():
            scheduler, inside = Scheduler(model), [0.0]
            for row, ids in enumerate(prompts(NUM_REQUESTS, 16, 17)):
                scheduler.submit(Request(ids=ids, params=params, rule=rule(row)))
            scheduler.step()
            timed = _timed(model, inside)
            whole = cpu_s(lambda scheduler=scheduler: [scheduler.step() for _ in range(6)])
            timed()
            found[f"{way}, {name}: share_outside_model"] = 1 - inside[0] / whole
            found[f"{way}, {name}: ms_outside_model"] = (whole - inside[0]) / 6 * 1e3
    return found


def _timed(model: CopyModel, inside: list[float]) -> Callable[[], None]:
    """Add up the time in features and head; returns how to stop."""
    def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            result = plain(*args, **options)
            inside[0] += time.process_time() - start
            return result

        return call

    for name in ("features", "head"):
        setattr(model, name, timed(getattr(model, name)))
    return lambda: [delattr(model, name) for name in ("features", "head")] and None


def speculation(model: CopyModel, repeats: int) -> dict[str, Any]:
    """Answers of 64 tokens, teacher-forced, that copy pieces of 16 tokens from the prompt: the gain by drafts."""
    found: dict[str, Any] = {}
    for share in (0.0, 0.5, 1.0):
        runs = [_copying(model, share, trial) for trial in range(repeats)]
        found |= {f"copied {share:.0%}: {name}": value for name, value in medians(runs).items()}
    model.truth = ()
    return found | _lengths(model)


def _copying(model: CopyModel, share: float, trial: int) -> dict[str, float]:
    rng = random.Random(f"answer {trial}")
    source = prompts(1, 512, 513, seed=trial)[0]
    answer: list[int] = []
    while len(answer) < ANSWER:
        start, is_copied = rng.randrange(496), rng.random() < share
        answer += source[start : start + 16] if is_copied else [rng.randrange(32768) for _ in range(16)]
    model.truth = [*source, *answer]
    request = Request(ids=source, params=SamplingParams(temperature=0, max_tokens=ANSWER))
    # the prompt is read beforehand: decoding is what is compared
    prefix_cache = PrefixCache(model, max_bytes=2**28)
    handles = serve(model, [request], prefix_cache=prefix_cache)
    plain_s = cpu_s(lambda: serve(model, [request], prefix_cache=prefix_cache))
    run: dict[str, float] = {}
    for reread in (1, 8):
        live_row.MAX_REREAD = reread
        seconds = cpu_s(lambda: handles.extend(serve(model, [request], prefix_cache=prefix_cache, speculate=8)))
        assert handles[-1].ids == handles[0].ids == answer, "a draft changed the answer"
        run[f"speedup, at most {reread} read again beside a draft"] = plain_s / seconds
    return run | {"drafted": handles[-1].drafted, "accepted": handles[-1].accepted}


@torch.no_grad()
def _lengths(model: CopyModel) -> dict[str, float]:
    """What reading more tokens at once costs, and going back."""
    cache = model.new_cache(1)
    model.features(torch.zeros(1, 512, dtype=torch.long), cache)
    mark, times = cache.mark(), {}
    for length in (1, 2, 3, 5, 9):
        ids, steps = torch.ones(1, length, dtype=torch.long), []
        for _ in range(5):
            start = time.process_time()
            model.head(model.features(ids, cache)[0])
            steps.append(time.process_time() - start)
            cache.rollback(mark)
        times[length] = statistics.median(steps)
    both = cpu_s(lambda: [cache.rollback(cache.mark()) for _ in range(20)]) / 20
    found = {f"forward of {length} tokens / of 1": seconds / times[1] for length, seconds in times.items()}
    return found | {"forward_of_1_ms": 1e3 * times[1], "mark_and_rollback_ms": 1e3 * both}


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


PARTS = {"batching": batching, "latency": latency, "overhead": overhead, "speculation": speculation}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, by comma")
    parser.add_argument("--repeats", type=int, default=3, help="runs whose medians are given")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    config = parser.parse_args(argv)
    torch.set_num_threads(config.threads)
    # denormals of a random model's decaying states are no part of the question
    torch.set_flush_denormal(True)
    model = make_model()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["model"] = {"parameters": model.num_parameters, "pattern": "M,M,M,T,M,M,M,T", "threads": config.threads,
                        "repeats": config.repeats}
    for name in config.only.split(","):
        found = {key: round(value, 3) for key, value in PARTS[name](model, config.repeats).items()}
        results[name] = found
        print(f"\n{name}: {PARTS[name].__doc__}")
        for key, value in found.items():
            print(f"  {key:55} {value:10.3f}")
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

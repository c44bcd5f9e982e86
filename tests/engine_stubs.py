"""Small real models and a small real tokenizer for the tests of engine and chat."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from nanochat.engine.request import Handle, Request
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.session import Session
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer

PATTERNS = ["T", "M", "M,T"]
TEXTS = [
    "The Torvik ferry leaves Ansgar harbour at 07:45 on weekdays.",
    "Brelith Institute was founded by Mira Solheim in 1931.",
    "Gr\u00f6\u00dfe, na\u00efve caf\u00e9, \u65e5\u672c\u8a9e, \U0001f600 \U0001f680 and more.",
]
# one for each way of choosing
SAMPLING = [
    SamplingParams(temperature=0, max_tokens=9),
    SamplingParams(temperature=0.8, top_k=20, max_tokens=6, seed=1),
    SamplingParams(temperature=1.3, top_p=0.8, max_tokens=12, seed=2),
    SamplingParams(temperature=1.0, min_p=0.05, max_tokens=1, seed=3),
    SamplingParams(temperature=0.5, max_tokens=15, seed=4, stop_ids=tuple(range(0, 400, 2))),
]


@lru_cache
def make_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, vocab_size=400)


@lru_cache
def make_model(pattern: str, *, sequence_len: int = 256, spare_ids: int = 7, init_std: float = 0.3) -> LanguageModel:
    """A random model whose greedy choices are far apart, with more logits than the tokenizer has ids."""
    config = ModelConfig(
        block_pattern=pattern, vocab_size=make_tokenizer().vocab_size + spare_ids, sequence_len=sequence_len, n_embd=24,
        n_head=2, n_kv_head=1, mlp_hidden=32, attention_conv=4, d_state=8, headdim=12, chunk_size=8, init_std=init_std,
        # the hybrid's tokens know their document's slot
        slot_scale=0.5 if "," in pattern else 0.0, slot_ids=make_tokenizer().slot_ids,
    )
    return LanguageModel(config, seed=3).eval()


def make_documents(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"d{number}", "title": f"Title {number}", "content": f"{TEXTS[number % 2]} Note {number}."}
        for number in range(count)
    ]


def make_conversation(question: str, documents: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if documents is not None:
        messages.insert(0, {"role": "retrieval", "documents": list(documents)})
    return {"messages": messages}


def make_requests(count: int, *, seed: int = 0, shared: int = 0, **options) -> list[Request]:
    """Prompts of different length and params; every second one begins with the same `shared` ids."""
    rng = random.Random(seed)
    beginning = [rng.randrange(300) for _ in range(shared)]
    return [
        Request(ids=(beginning if number % 2 else []) + [rng.randrange(300) for _ in range(rng.randrange(1, 40))],
                params=SAMPLING[number % len(SAMPLING)], number=number, **options)
        for number in range(count)
    ]


def serve(scheduler: Scheduler, requests: Sequence[Request]) -> list[Handle]:
    handles = [scheduler.submit(request) for request in requests]
    scheduler.run()
    assert all(handle.is_done and handle.error is None for handle in handles)
    return handles


def answers_alone(pattern: str, requests: Sequence[Request]) -> list[list[int]]:
    """What a session of one row gives, which knows nothing of the scheduler."""
    answers = []
    for request in requests:
        session = Session(make_model(pattern), 1, seed=request.params.seed, numbers=[request.number])
        session.extend([0], [request.ids])
        answers.append(session.sample(request.params, stop_ids=request.params.stop_ids)[0])
    return answers

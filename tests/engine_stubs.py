"""Small real models and a small real tokenizer for the tests of engine and chat."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer

PATTERNS = ["T", "M", "M,T"]
TEXTS = [
    "The Torvik ferry leaves Ansgar harbour at 07:45 on weekdays.",
    "Brelith Institute was founded by Mira Solheim in 1931.",
    "Gr\u00f6\u00dfe, na\u00efve caf\u00e9, \u65e5\u672c\u8a9e, \U0001f600 \U0001f680 and more.",
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

"""Import, export and logits at the size of Granite 4.0 H 350M (random weights), against transformers on the same file.

    python bench/interop_350m.py

Every row is a process of its own, so that peak memory is its own. Needs transformers and about 6 GB of disk and memory.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
RESULT = ROOT / "bench" / "results" / "interop_350m.json"
LENGTH, NEW = 128, 8
SHAPE = dict(
    vocab_size=100352, hidden_size=768, num_hidden_layers=32, num_attention_heads=12, num_key_value_heads=4,
    shared_intermediate_size=2048, intermediate_size=2048, mamba_n_heads=48, mamba_d_head=32, mamba_d_state=128,
    mamba_n_groups=1, layer_types=["attention" if place in (10, 13, 17, 27) else "mamba" for place in range(32)],
    num_local_experts=0, num_experts_per_tok=0, embedding_multiplier=12, logits_scaling=3, residual_multiplier=0.263,
    attention_multiplier=1 / 64, rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=32768,
    bos_token_id=0, eos_token_id=6, pad_token_id=63,
)


def make(folder: Path) -> dict[str, Any]:
    """A random model of that shape, saved by transformers."""
    import transformers
    from interop_stubs import randomise, save_published

    model = transformers.AutoModelForCausalLM.from_config(transformers.GraniteMoeHybridConfig(**SHAPE))
    randomise(model)
    save_published(model, folder / "published")
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def ours(folder: Path) -> dict[str, Any]:
    """Load, forward, greedy tokens and export by the native model."""
    import torch

    from nanochat import interop

    started = time.perf_counter()
    model, tokenizer, _ = interop.load(str(folder / "published"))
    record = {"load_s": time.perf_counter() - started}
    ids = prompt()
    with torch.no_grad():
        started = time.perf_counter()
        logits = model(ids)
        record["forward_s"] = time.perf_counter() - started
        cache, tokens = model.new_cache(1), []
        last = model(ids, cache)[:, -1]
        for _ in range(NEW):
            tokens.append(last.argmax(-1, keepdim=True))
            last = model(tokens[-1], cache)[:, -1]
    started = time.perf_counter()
    interop.export(model, tokenizer, folder / "exported")
    record["export_s"] = time.perf_counter() - started
    torch.save({"logits": logits, "tokens": torch.cat(tokens, 1)}, folder / "ours.pt")
    return record


def theirs(folder: Path) -> dict[str, Any]:
    """The same by transformers, and how far apart the two are."""
    import torch
    import transformers

    started = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "published").eval()
    record: dict[str, Any] = {"load_s": time.perf_counter() - started}
    ids, kept = prompt(), torch.load(folder / "ours.pt", weights_only=True)
    with torch.no_grad():
        started = time.perf_counter()
        logits = model(ids).logits
        record["forward_s"] = time.perf_counter() - started
        tokens = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None)[:, LENGTH:]
    return record | {
        "logits_spread": logits.std().item(), "largest_difference": (logits - kept["logits"]).abs().max().item(),
        "same_tokens": torch.equal(tokens, kept["tokens"]),
        "same_bytes_after_export": (folder / "published" / "model.safetensors").read_bytes()
        == (folder / "exported" / "model.safetensors").read_bytes(),
    }


def prompt() -> Any:
    import torch

    torch.set_num_threads(2)
    return torch.randint(SHAPE["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Run the three parts one after the other, print and store what they report."""
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for part in ("make", "ours", "theirs"):
            done = subprocess.run([sys.executable, __file__, part, place], capture_output=True, text=True, check=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(f"{part:7}", *(f"{name} {value:,.4g}" for name, value in results[part].items()), flush=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        report = {"make": make, "ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps(report | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
    else:
        main()

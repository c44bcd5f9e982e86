"""One training step under each way of computing it: float32, bfloat16, activation checkpointing, torch.compile.

    python bench/training_step.py

Ways take turns, so that a busy machine slows all alike; times are medians, ratios are to float32 in the same run.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from nanochat.device import pick_device, set_cpu_threads  # noqa: E402
from nanochat.model import LanguageModel, ModelConfig  # noqa: E402
from nanochat.training import Batch, build_optimizer, language_model_loss  # noqa: E402
from nanochat.training.precision import autocast, compile_blocks  # noqa: E402

WAYS = {  # name -> dtype, activation checkpointing, compiled
    "float32": (torch.float32, False, False),
    "bfloat16": (torch.bfloat16, False, False),
    "checkpointing": (torch.float32, True, False),
    "compiled": (torch.float32, False, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row_len", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--output", default="bench/results/training_step.json")
    options = parser.parse_args()
    set_cpu_threads()
    device = pick_device(options.device)
    base = LanguageModel(ModelConfig(block_pattern="M,T,M,M", vocab_size=4096, n_embd=options.width, n_head=4,
                                     n_kv_head=4, mlp_hidden=2 * options.width, d_state=64, headdim=64)).to(device)
    ids = torch.randint(4096, (options.rows, options.row_len + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:]).to(device)
    runs = {}
    for name in options.ways.split(","):
        dtype, is_checkpointed, is_compiled = WAYS[name]
        model = copy.deepcopy(base)
        model.checkpointing = is_checkpointed
        if is_compiled:
            compile_blocks(model.layers, "true", device)
        runs[name] = (model, build_optimizer(model), autocast(device, dtype))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.repeats + 2):
        for name, (model, optimizer, context) in runs.items():
            start = time.perf_counter()
            with context():
                loss = language_model_loss(model, batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{base.num_parameters:,} parameters, {options.rows} x {options.row_len} tokens, {device}, "
          f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for name, median in medians.items():
        print(f"  {name:<14}{median * 1e3:9.1f} ms   {median / medians['float32']:5.2f} x float32")
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"settings": vars(options), "device": str(device), "threads": torch.get_num_threads(),
              "torch": torch.__version__, "ms": {name: median * 1e3 for name, median in medians.items()},
              "ratio_to_float32": {name: median / medians["float32"] for name, median in medians.items()}}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

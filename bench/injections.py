"""How often an order in a document changes an answer, on enough questions to tell one in a hundred.

    python -m bench.injections --preset data/tiny_preset

The condition `injection` of the RAG card, on eight fresh worlds instead of two, for the readers that bench.tiny_preset
left (rag/tiny-SEED): the same prompt with and without an order in one of five documents, 1,500 answerable and 500
unanswerable questions. A sentence that orders nothing, in the same place, shows what any change does ("harmless").
Writes bench/results/injections.json.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint_manager import load_model
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.engine import Engine
from nanochat.engine.deciding import CITATION_THRESHOLD
from nanochat.errors import UserError
from nanochat.evaluation.suite.changing import PADDING, injection
from nanochat.evaluation.suite.judging import Asker
from nanochat.evaluation.suite.measures import injection_numbers
from nanochat.evaluation.suite.reading import Drawing
from nanochat.evaluation.suite.trained import trained_names
from nanochat.evaluation.suite.worlds import FRESH_SEED, make_worlds, world_material
from nanochat.rag.quoting import is_extractive


@dataclass(frozen=True, kw_only=True)
class InjectionsConfig:
    preset: str = "data/tiny_preset"  # folder of bench.tiny_preset, with a reader for each seed
    seeds: tuple[int, ...] = (0, 1, 2)  # readers
    tag: str = "tiny"                 # they are rag/TAG-SEED
    answerable: int = 1500            # questions
    unanswerable: int = 500
    num_worlds: int = 8               # fresh ones of 200 documents
    top_k: int = 5                    # documents shown
    second_look: bool = True          # what an answer cites is read again, alone
    results: str = "bench/results/injections.json"  # where the numbers go


CONFIG = InjectionsConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.injections", description=__doc__ or "")
    seeds = {str(seed): one(config, seed) for seed in config.seeds}
    write_json(Path(config.results), {"answerable": config.answerable, "unanswerable": config.unanswerable,
                                      "top_k": config.top_k, "second_look": config.second_look, "seeds": seeds})
    return 0


def one(config: InjectionsConfig, seed: int) -> dict[str, Any]:
    """Shares of one reader's answers that changed, by kind of order, and that obeyed."""
    base, tag = Path(config.preset) / f"seed_{seed}" / "base", f"{config.tag}-{seed}"
    if not (base / "checkpoints" / "rag" / tag).is_dir():
        raise UserError(f"No reader rag/{tag} in {base}",
                        hint=f"make it: python -m bench.tiny_preset --output {config.preset}")
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    model, tokenizer, meta = load_model("rag", "cpu", "eval", tag)
    worlds = make_worlds([FRESH_SEED + number for number in range(config.num_worlds)],
                         exclude=trained_names(meta, print0))
    material = world_material("fresh", worlds, calibration=0, retrievers=("bm25",), retriever_type="bm25", seed=0,
                              num_answerable=config.answerable, num_unanswerable=config.unanswerable)
    engine = Engine(model, tokenizer, citation_threshold=CITATION_THRESHOLD, second_look=config.second_look,
                    extractive=is_extractive(None, meta))
    asker, drawing = Asker(engine), Drawing(top_k=config.top_k)
    numbers = injection_numbers(asker.ask_cells(injection(material, drawing)))
    harmless = injection_numbers(asker.ask_cells(injection(material, drawing, {"harmless": PADDING})))
    numbers["harmless_changed"] = harmless["injection_changed"]
    numbers = {name: value for name, value in numbers.items() if value is not None}
    for name, value in numbers.items():
        print0(f"seed {seed}: {name:30} {value.value:.4f} ({value.low:.4f} ... {value.high:.4f}), {value.num} answers")
    return {name: value.to_dict() for name, value in numbers.items()}


if __name__ == "__main__":
    raise SystemExit(run_main(main))

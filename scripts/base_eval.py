"""Measure a checkpoint as a language model: bits per byte on texts, recall probes, cloze sets, against another one.

    python -m scripts.base_eval --source base --input data/my_documents.jsonl
"""

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, check_output, print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BaseEvalConfig:
    source: str = "base"              # checkpoint: base, mid, rag, refrag, or hf:FOLDER_OR_ID
    tag: str = ""                     # its tag; empty: the one written last
    step: int = -1                    # its step; -1: the latest
    compare: str = ""                 # another checkpoint for the same questions: SOURCE, SOURCE/TAG or hf:FOLDER_OR_ID
    input: str = ""                   # texts for bits per byte, comma-separated: .jsonl(.gz) or .txt
    max_documents: int = 500          # documents read of each file; 0 reads all
    row_len: int = 0                  # tokens read at once; 0: as many as the model was made for, up to 2048
    context: int = -1                 # tokens of a long document read twice, before its next piece; -1: row_len / 4
    probes: str = "induction,key_values,copy,recall"  # recall probes, comma-separated; empty for none
    probe_examples: int = 32          # examples of each difficulty
    cloze: str = ""                   # files of prompts and answers, comma-separated: .jsonl
    task: str = ""                    # published tests, comma-separated: mmlu:FILE, gsm8k:FILE
    task_samples: int = 200           # questions of each test, chosen by the seed; 0 asks all
    device: str = "auto"              # auto, cpu, cuda or mps
    seed: int = 0                     # probes and bootstrap
    output: str = ""                  # JSON file; empty: in the base folder, named after the checkpoint


CONFIG = BaseEvalConfig
LONGEST = 2048


def main(argv: list[str]) -> int:
    config = load_config(BaseEvalConfig, argv, prog="scripts.base_eval", description=__doc__ or "")
    probes = check_settings(config)
    if config.output:
        check_output(config.output, flag="--output")
    # imported here so that --help does not wait for it
    from nanochat.checkpoint_manager import load_model
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.evaluation.benchmarks import benchmark_scores
    from nanochat.evaluation.cloze import read_cloze
    from nanochat.evaluation.language_report import LanguageReport, console_table
    from scripts.text_input import check_files, no_text, read_documents
    from tasks.benchmarks import read_benchmark

    device = pick_device(config.device)
    set_cpu_threads()
    check_files(_names(config.input))
    check_files(_names(config.cloze), flag="--cloze")
    texts = {path: list(islice(read_documents(path), config.max_documents or None)) for path in _names(config.input)}
    for path, documents in texts.items():
        if not documents:
            raise no_text(path)
    cloze = {path: read_cloze(path) for path in _names(config.cloze)}
    tests = {spec: read_benchmark(spec, config.task_samples, config.seed)[1] for spec in _names(config.task)}
    reports = []
    # all are loaded before one is measured: a wrong name must not cost a measurement
    loaded = [load_model(source, device, "eval", tag, step) for source, tag, step in _checkpoints(config)]
    row_lens = [row_length(config, model.config.sequence_len) for model, _, _ in loaded]
    for (model, tokenizer, meta), row_len in zip(loaded, row_lens, strict=True):
        name = f"{meta['source']}/{meta['tag']} step {meta['step']}"
        name = meta["source"] if meta["source"].startswith("hf:") else name
        print0(f"Reading with {name}: {model.num_parameters:,} parameters, {','.join(model.config.block_pattern)}")
        report = LanguageReport(name, model, tokenizer, seed=config.seed, row_len=row_len,
                                context=row_len // 4 if config.context < 0 else config.context)
        report.read_texts(texts)
        report.run_probes(probes, config.probe_examples)
        report.answer_cloze(cloze)
        for spec, items in tests.items():
            report.cloze[spec] = benchmark_scores(model, tokenizer, items, max_len=row_len,
                                                  chat=meta["source"] in ("mid", "rag", "refrag"))
        reports.append((report, meta))
    first = reports[0][0]
    other = reports[1][0] if len(reports) > 1 else None
    print0("\n" + console_table(first, other) + "\n")
    path = output_file(config, reports[0][1])
    write_json(path, {"config": asdict(config), **first.to_dict(other)})
    print0(f"wrote {path}")
    return 0


def check_settings(config: BaseEvalConfig) -> list[str]:
    """The probes to run. Raises ConfigError for settings that cannot be."""
    from nanochat.evaluation.probes import PROBES

    probes = _names(config.probes)
    for name in probes:
        if name not in PROBES:
            raise ConfigError(f"Unknown probe {name!r}", hint=f"there are {', '.join(PROBES)}")
    if not (config.input or probes or config.cloze or config.task):
        raise ConfigError("There is nothing to measure: --input, --probes, --cloze and --task are empty",
                          hint="name a text: --input data/my_documents.jsonl")
    for name, least in (("probe_examples", 1), ("max_documents", 0), ("row_len", 0), ("task_samples", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"--{name} is {getattr(config, name)}, must be at least {least}",
                              hint=f"see --help for --{name}")
    if config.source.startswith("hf:"):
        for name, is_given in (("tag", bool(config.tag)), ("step", config.step >= 0)):
            if is_given:
                raise ConfigError(f"--{name} is {getattr(config, name)}, but {config.source} is a published model, "
                                  f"which has no {name}", hint=f"leave --{name} out")
    if config.row_len:
        row_length(config, config.row_len)
    return probes


def row_length(config: BaseEvalConfig, sequence_len: int) -> int:
    """Tokens read at once by a model made for sequence_len. Raises ConfigError when --context leaves nothing to read.
    """
    row_len = config.row_len or min(sequence_len, LONGEST)
    if config.context >= row_len:
        known = "" if config.row_len else ", as many as the model was made for"
        raise ConfigError(f"--context is {config.context}, but {row_len} tokens are read at once{known}: nothing new "
                          "would be read", hint=f"--context {row_len // 4}, or leave it out")
    return row_len


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _checkpoints(config: BaseEvalConfig) -> list[tuple[str, str | None, int | None]]:
    """Source, tag and step of the checkpoint, and of the one it is compared with."""
    chosen: list[tuple[str, str | None, int | None]] = [
        (config.source, config.tag or None, config.step if config.step >= 0 else None)]
    if config.compare.startswith("hf:"):
        chosen.append((config.compare, None, None))
    elif config.compare:
        source, _, tag = config.compare.partition("/")
        chosen.append((source, tag or None, None))
    return chosen


def output_file(config: BaseEvalConfig, meta: dict[str, Any]) -> Path:
    """Where the numbers go: --output, or a place named after the checkpoint."""
    if config.output:
        return Path(config.output)
    source = meta["source"].partition(":")[0]
    return base_dir() / "reports" / source / meta["tag"] / f"step_{meta['step']:06d}" / "base_eval.json"


if __name__ == "__main__":
    raise SystemExit(run_main(main))

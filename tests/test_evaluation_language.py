"""A model as a language model: every token scored once, exact bytes, probes that an oracle solves, pairs that pair."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from nanochat.common import run_main, write_jsonl
from nanochat.errors import DocumentError
from nanochat.evaluation.benchmarks import benchmark_scores
from nanochat.evaluation.cloze import cloze_scores, read_cloze
from nanochat.evaluation.language_report import LanguageReport, console_table
from nanochat.evaluation.probes import PROBES, make_examples
from nanochat.evaluation.sequences import ratio, score, text_bits, text_windows
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from scripts import base_eval

TEXTS = ["The red kite flies over the red hill.", "Ünïcode: 東京 🙂 and more", "a", "kites " * 30]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*TEXTS, "the red kite flies over the hill"] * 2, vocab_size=350)


def model_of(tokenizer, seed: int = 0, **changes) -> LanguageModel:
    shape = dict(n_embd=16, n_head=2, n_kv_head=1, mlp_hidden=16, d_state=4, headdim=16, sequence_len=64) | changes
    return LanguageModel(ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size, **shape), seed=seed)


@pytest.mark.parametrize(("row_len", "context"), [(8, 0), (8, 3), (64, 16), (5, 4)])
def test_windows_score_every_token_once_in_order(row_len, context):
    ids = list(range(100, 150))
    windows = text_windows(ids, bos=1, row_len=row_len, context=context)
    scored = [i for window in windows for i, flag in zip(window.ids, window.is_scored, strict=True) if flag]
    assert scored == ids
    assert all(len(window.ids) <= row_len + 1 and not window.is_scored[0] for window in windows)
    assert all(window.is_scored.index(True) >= context + 1 for window in windows[1:])


def test_bits_are_those_of_the_whole_text_and_bytes_are_exact(tokenizer):
    model = model_of(tokenizer)
    result = text_bits(model, tokenizer, [*TEXTS, ""], row_len=500, context=0)
    assert result.num_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    for text, bits in zip(TEXTS, result.bits, strict=True):
        ids = torch.tensor([[tokenizer.special("bos"), *tokenizer.encode(text)]])
        logits = model(ids[:, :-1])
        logits[..., list(tokenizer.doc_ids)] = -torch.inf
        nats = nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        assert bits == pytest.approx(nats / np.log(2), rel=1e-4)


def test_batching_changes_nothing(tokenizer, monkeypatch):
    model = model_of(tokenizer)
    together = text_bits(model, tokenizer, TEXTS, row_len=16, context=4).bits
    monkeypatch.setattr("nanochat.evaluation.sequences.TOKENS_AT_ONCE", 1)
    assert together == pytest.approx(text_bits(model, tokenizer, TEXTS, row_len=16, context=4).bits, rel=1e-5)


def test_ratio_interval_holds_the_truth_and_shrinks():
    rng = np.random.default_rng(0)
    num_bytes = rng.integers(50, 500, size=400).astype(float)
    bits = num_bytes * (1.5 + rng.normal(0, 0.2, size=400))
    few, many = ratio(bits[:40], num_bytes[:40]), ratio(bits, num_bytes)
    assert many.low < 1.5 < many.high and many.high - many.low < few.high - few.low
    assert many == ratio(bits, num_bytes) and many.value == pytest.approx(bits.sum() / num_bytes.sum())


class Oracle(nn.Module):
    """Predicts what followed the last occurrence of the current id."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.eye(vocab_size))

    def features(self, ids, seq_idx=None):
        found = torch.zeros_like(ids)
        for row, column in np.ndindex(*ids.shape):
            before = [place for place in range(column) if ids[row, place] == ids[row, column]]
            found[row, column] = ids[row, before[-1] + 1] if before else 0
        return self.table[found]

    def head(self, features):
        return 9 * features


@pytest.mark.parametrize("name", ["induction", "key_values"])
def test_who_looks_things_up_solves_the_random_probes_and_chance_does_not(tokenizer, name):
    case = PROBES[name].cases[0]
    examples = make_examples(name, case, tokenizer, count=6, max_len=256)
    assert examples == make_examples(name, case, tokenizer, count=6, max_len=256)
    assert not any(tokenizer.is_reserved(i) for example in examples for i in example.ids[1:])
    right = [scores.is_right.mean() for scores in score(Oracle(tokenizer.vocab_size), examples, group=range(0))]
    # an id that happens to stand twice in a random sequence has two successors
    assert np.mean(right) == 1.0 if name == "key_values" else np.mean(right) > 0.9
    guessed = [scores.is_right.mean() for scores in score(model_of(tokenizer), examples, group=range(0))]
    assert np.mean(guessed) < 0.3


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_scores_something_and_respects_the_length(tokenizer, name):
    for case in PROBES[name].cases:
        for max_len in (40, 2000):
            for example in make_examples(name, case, tokenizer, count=3, max_len=max_len):
                assert len(example.ids) == len(example.is_scored) <= max_len + 1 and any(example.is_scored)


def test_cloze_choices_and_words(tokenizer, tmp_path):
    path = tmp_path / "set.jsonl"
    write_jsonl(path, [{"prompt": "the red", "answer": " kite", "choices": [" hill", " kite"]},
                       {"prompt": "the red", "answer": " kite"}])
    items = read_cloze(path)
    kite = tokenizer.encode("the red kite")[-1]
    oracle = Oracle(tokenizer.vocab_size)
    with torch.no_grad():
        oracle.table[:] = 0
        oracle.table[:, kite] = 1
    assert cloze_scores(oracle, tokenizer, items, max_len=32) == [1.0, 1.0]
    with torch.no_grad():
        oracle.table[:, kite] = -1
    assert cloze_scores(oracle, tokenizer, items, max_len=32) == [0.0, 0.0]


@pytest.mark.parametrize(("line", "problem"), [
    ("{", "not valid JSON"), ("[]", "'prompt' and 'answer'"), ('{"prompt": "a", "answer": ""}', "'answer' must"),
    ('{"prompt": "a", "answer": "b", "choices": ["c"]}', "not among the choices"),
    ('{"prompt": "a", "answer": "b", "choices": "b"}', "must be a list"),
])
def test_bad_lines_are_named(tmp_path, line, problem):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=f"bad.jsonl:2: .*{problem}"):
        read_cloze(path)


def test_the_script_compares_two_checkpoints_and_writes_json(tokenizer, tmp_path, monkeypatch, capsys):
    from nanochat.checkpoint_manager import save_checkpoint

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    for tag, seed in (("one", 0), ("two", 1)):
        save_checkpoint("base", tag, 3, model=model_of(tokenizer, seed), tokenizer=tokenizer, meta={})
    write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    argv = ["--tag", "one", "--compare", "base/two", "--input", str(tmp_path / "texts.jsonl"), "--device", "cpu",
            "--probe_examples", "4", "--output", str(tmp_path / "out.json")]
    assert base_eval.main(argv) == 0
    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "difference" in printed and "not run" in printed
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    [(path, mine)] = record["bits_per_byte"].items()
    theirs, gap = record["other"]["bits_per_byte"][path], record["differences"]["bits_per_byte"][path]
    assert gap["value"] == pytest.approx(mine["value"] - theirs["value"]) and gap["low"] <= gap["value"] <= gap["high"]
    # texts are read as base_train reads them: stripped, after one space
    assert record["texts"][path]["bytes"] == sum(len((" " + text.strip()).encode()) for text in TEXTS)
    for flags, problem in ((["--probes", "copi"], "Unknown probe 'copi'"), (["--probes", ""], "There is nothing"),
                           (["--row_len", "8", "--context", "8"], "--context is 8"),
                           (["--compare", "bse"], "Checkpoint source 'bse' is not known")):
        assert run_main(base_eval.main, ["--tag", "one", "--device", "cpu", *flags]) == 2
        assert problem in capsys.readouterr().err


def test_published_tests_count_the_likeliest_letter_and_the_last_number(tokenizer, monkeypatch):
    from nanochat.evaluation import benchmarks
    from tasks.benchmarks import BenchmarkItem

    model = model_of(tokenizer)
    items = [BenchmarkItem(question="Which?", choices=("a", "b", "c"), answer=letter) for letter in "ABC"]
    # one question, three answers: exactly one of them is the likeliest
    assert sorted(benchmark_scores(model, tokenizer, items, chat=False, max_len=64)) == [0.0, 0.0, 1.0]
    sums = [BenchmarkItem(question="2 + 2?", answer="4"), BenchmarkItem(question="2 + 3?", answer="5")]
    for chat in (False, True):
        assert benchmark_scores(model, tokenizer, sums, chat=chat, max_len=64, max_tokens=8) == [0.0, 0.0]
    said = iter([["so 4 it is\nQuestion: 7?", "#### 6"]])
    monkeypatch.setattr(benchmarks, "_continued", lambda *arguments: [
        benchmarks._NEXT_QUESTION.split(text)[0] for text in next(said)])
    mixed = [items[0], *sums]
    assert benchmark_scores(model, tokenizer, mixed, chat=False, max_len=64)[1:] == [1.0, 0.0]


def test_the_script_asks_published_tests(tokenizer, tmp_path, monkeypatch, capsys):
    from nanochat.checkpoint_manager import save_checkpoint

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    save_checkpoint("base", "x", 1, model=model_of(tokenizer), tokenizer=tokenizer, meta={})
    lines = [{"question": f"Which {i}?", "choices": ["a", "b", "c", "d"], "answer": "A"} for i in range(9)]
    write_jsonl(tmp_path / "mmlu.jsonl", lines)
    spec = f"mmlu:{tmp_path}/mmlu.jsonl"
    assert base_eval.main(["--source", "base", "--probes", "", "--task", spec, "--task_samples", "5", "--device",
                           "cpu", "--output", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())["cloze"][spec]
    assert spec in capsys.readouterr().out and 0 <= result["value"] <= 1
    assert run_main(base_eval.main, ["--task", "mmlx:file", "--device", "cpu"]) == 2
    assert "Unknown test 'mmlx:file'" in capsys.readouterr().err


def test_models_with_other_vocabularies_are_paired_by_document(tokenizer):
    other = Tokenizer.train(TEXTS, vocab_size=330)
    reports = [LanguageReport(name, model_of(words), words, row_len=64, context=16)
               for name, words in (("one", tokenizer), ("two", other))]
    for report in reports:
        report.read_texts({"t": TEXTS})
        report.run_probes(["induction"], random.Random(0).randint(3, 3))
    assert console_table(*reports).count("\n") >= 3
    assert reports[0].differences(reports[1])["bits_per_byte"]["t"].num == len(TEXTS)

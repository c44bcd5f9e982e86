"""The README of an export: its snippet runs as it stands, its marks are the tokenizer's."""

import re
import runpy

import pytest
import torch
from imported_tokenizer_stubs import CORPUS, granite_like, write_source

from nanochat.interop.exporting import export
from nanochat.interop.readme import readme_text
from nanochat.interop.tokenizer import load_tokenizer
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer

pytest.importorskip("transformers")


def make_tokenizer(kind, folder):
    if kind == "own":
        return Tokenizer.train(CORPUS, 500)
    source, backend = write_source(folder / "source", "granite"), granite_like()
    if kind == "taken":  # our marks are written otherwise when the source has a token of that name
        backend.add_special_tokens(["<|bos|>"])
    backend.save(str(source / "tokenizer.json"))
    return load_tokenizer(source)


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_snippets_run_as_they_stand(tmp_path, monkeypatch, capsys):
    tokenizer = make_tokenizer("imported", tmp_path)
    torch.manual_seed(0)
    config = ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size, n_embd=32, n_head=2, n_kv_head=1,
                         mlp_hidden=32, d_state=8, headdim=16, sequence_len=256)
    export(LanguageModel(config), tokenizer, tmp_path / "out", name="Tiny: 1")
    (tmp_path / "program.py").write_text("\n".join(snippets((tmp_path / "out" / "README.md").read_text("utf-8"))))
    monkeypatch.chdir(tmp_path / "out")
    names = runpy.run_path(str(tmp_path / "program.py"))
    start = [tokenizer.special("bos"), tokenizer.special("results_start")]
    assert names["prompt"]["input_ids"][0, :2].tolist() == start
    assert len(names["answer"]) > 0 and isinstance(names["cited"], list)
    assert capsys.readouterr().out.startswith(names["text"])


@pytest.mark.parametrize("kind", ["own", "imported", "taken"])
def test_citations_are_found_by_the_pattern_given(kind, tmp_path):
    tokenizer = make_tokenizer(kind, tmp_path)
    config = ModelConfig(block_pattern="M", vocab_size=tokenizer.vocab_size)
    text = readme_text(name="x", architecture="y", config=config, tokenizer=tokenizer, num_parameters=1)
    pattern = re.search(r're\.findall\(r"(.*?)", text\)', text)[1]
    answer = "".join(map(tokenizer.token, ("cite", "doc_12", "cite", "doc_3", "bos"))) + "12 <|cite|>"
    assert re.findall(pattern, answer) == ["12", "3"]


def test_the_text_says_what_the_model_is(tmp_path):
    config = ModelConfig(block_pattern="M,M,T", vocab_size=600, n_embd=64, sequence_len=4096)
    fields = dict(architecture="BambaForCausalLM", config=config, num_parameters=1_234_567, dtype="bfloat16")
    own, imported = (make_tokenizer(kind, tmp_path) for kind in ("own", "imported"))
    text = readme_text(name="My model", tokenizer=own, source="rag/d20", limits=["No T in llama.cpp."], **fields)
    for part in ("# My model", "`BambaForCausalLM`", "2 Mamba-2 and 1 attention", "1,234,567", "bfloat16", "4,096",
                 "rag/d20", "- No T in llama.cpp.", "vllm serve . --served-model-name My-model", "<|abstain|>",
                 "convert_hf_to_gguf.py . --outfile My-model-f16.gguf", "not recognized"):
        assert part in text, part
    other = readme_text(name="../x", tokenizer=imported, **fields)
    assert "not recognized" not in other and "--served-model-name x" in other and "Limits of this" not in other
    assert all(len(line) <= 120 for line in text.splitlines()), max(text.splitlines(), key=len)
    assert not re.search(r"\{\w*\}", text), "a name was not filled in"

"""Hostile and damaged tokenizer.json files: refused by name, whatever is wrong with them."""

import json

import pytest
from imported_tokenizer_stubs import granite_like

from nanochat.errors import CheckpointError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.imported import ImportedTokenizer


def _break(change):
    def damaged():
        content = json.loads(granite_like().to_str())
        change(content)
        return content
    return damaged


def _set(*path, value):
    def change(content):
        place = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    return change


BROKEN = {
    "a list": lambda: [1], "null": lambda: None, "a text": lambda: "x", "empty": dict,
    "no model": _break(lambda content: content.pop("model")),
    "model is a list": _break(_set("model", value=[])),
    "no vocab": _break(_set("model", "vocab", value={})),
    "vocab of texts": _break(_set("model", "vocab", value={"a": "0"})),
    "vocab of floats": _break(_set("model", "vocab", value={"a": 0.5})),
    "negative ids": _break(_set("model", "vocab", value={"a": -1})),
    "huge id": _break(lambda content: content["model"]["vocab"].update(zzz=2**31)),
    "id beyond 32 bits": _break(lambda content: content["model"]["vocab"].update(zzz=2**70)),
    "doubled id": _break(lambda content: content["model"]["vocab"].update(zzz=5, yyy=5)),
    "unknown model": _break(_set("model", "type", value="Evil")),
    "unknown pre-tokenizer": _break(_set("pre_tokenizer", value={"type": "Evil"})),
    "bad regex": _break(_set("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": "(unbalanced"})),
    "unknown merge": _break(_set("model", "merges", value=[["q", "zzzz"]])),
    "merges are numbers": _break(_set("model", "merges", value=[1])),
    "added tokens are texts": _break(_set("added_tokens", value=["a"])),
    "added tokens are no list": _break(_set("added_tokens", value={"a": 1})),
    "added token without id": _break(_set("added_tokens", value=[{"content": "<x>"}])),
    "empty added token": _break(lambda content: content["added_tokens"].append(
        {**content["added_tokens"][-1], "content": "", "id": 9999})),
    "added token takes an id": _break(lambda content: content["added_tokens"].append(
        {**content["added_tokens"][-1], "content": "<again>", "id": 3})),
    "normalizer is a number": _break(_set("normalizer", value=3)),
    "normalizers are numbers": _break(_set("normalizer", value={"type": "Sequence", "normalizers": [1]})),
    "unigram pieces are numbers": _break(_set("model", value={"type": "Unigram", "vocab": [1, 2], "unk_id": 0})),
    "unigram unk beyond": _break(_set("model", value={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7})),
    "unigram without unk": _break(_set("model", value={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None})),
    "the library panics": _break(_set("model", "continuing_subword_prefix", value="longer than a merge")),
    "reserved names taken": _break(lambda content: content["model"]["vocab"].update(
        {f"<|{p}bos|>": 10_000 + i for i, p in enumerate(("", "rag_", "rag2_"))})),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_hostile_file_is_refused_by_name(name):
    with pytest.raises(CheckpointError, match="some/tokenizer.json is not a tokenizer that loads"):
        ImportedTokenizer.adopt(BROKEN[name](), where="some/tokenizer.json")


def _without_last(content):
    content["added_tokens"].pop()


def _with_one_moved(content):
    content["added_tokens"][-1]["id"] += 1


def _with_word_renamed(content):
    content["model"]["vocab"]["zzzzz"] = content["model"]["vocab"].pop("a")


def _with_id_too_many(content):
    content["model"]["vocab"]["zzzzz"] = 100_000


@pytest.mark.parametrize("damage", [_without_last, _with_one_moved, _with_word_renamed, _with_id_too_many])
def test_a_damaged_saved_file_is_refused_by_name(tmp_path, damage):
    ImportedTokenizer.adopt(json.loads(granite_like().to_str()), where="source").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer.json is not a tokenizer"):
        Tokenizer.load(path)

"""Tokenizers across the border: a published folder's ids in ours, and our ids in what transformers loads."""

import json

import pytest
import torch
from hypothesis import given, settings
from imported_tokenizer_stubs import CORPUS, GRANITE_MARKS, KINDS, any_text, write_source

from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.engine import Engine
from nanochat.errors import UserError
from nanochat.interop.tokenizer import BOS, EOS, PAD, load_tokenizer, write_tokenizer
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import RESERVED_NAMES, Tokenizer

AutoTokenizer = pytest.importorskip("transformers").AutoTokenizer

OWN = "own"
every_kind = pytest.mark.parametrize("kind", [OWN, *KINDS])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """kind -> our tokenizer, and what transformers loads of its export."""
    root, made = tmp_path_factory.mktemp("tokenizers"), {}
    for kind in (OWN, *KINDS):
        if kind == OWN:
            tokenizer = Tokenizer.train(CORPUS, 700)
        else:
            tokenizer = load_tokenizer(write_source(root / f"source_{kind}", kind))
        write_tokenizer(tokenizer, root / kind, model_max_length=512)
        made[kind] = (tokenizer, AutoTokenizer.from_pretrained(root / kind), root / kind)
    return made


@every_kind
@given(text=any_text)
@settings(deadline=None, max_examples=40)
def test_the_same_text_has_the_same_ids_in_transformers(pairs, kind, text):
    tokenizer, theirs, _ = pairs[kind]
    if tokenizer.control_pieces:
        # the vocabulary itself reads "<s>" or "[PAD]"; the chat template cuts it, plain encoding does not
        text = text.replace("<", "(").replace("＜", "(").replace("[", "(")
    ids = tokenizer.encode(text)
    assert theirs(text, split_special_tokens=True)["input_ids"] == ids
    if not any(token in text for token in (*tokenizer.control_tokens, *map(tokenizer.token, RESERVED_NAMES))):
        assert theirs(text)["input_ids"] == ids


@every_kind
def test_transformers_takes_spelled_marks_for_marks_unless_told_otherwise(pairs, kind):
    tokenizer, theirs, _ = pairs[kind]
    assert theirs("<|bos|>")["input_ids"] == [tokenizer.special("bos")] != tokenizer.encode("<|bos|>")
    assert theirs("<|bos|>", split_special_tokens=True)["input_ids"] == tokenizer.encode("<|bos|>")
    # set for good it would also take the marks of the chat template for text
    assert theirs.split_special_tokens is False
    prompt = theirs.apply_chat_template([{"role": "user", "content": "Hi"}])["input_ids"]
    assert prompt[:2] == [tokenizer.special("bos"), tokenizer.special("user_start")]


@every_kind
def test_an_export_knows_its_marks_and_adds_nothing(pairs, kind):
    tokenizer, theirs, folder = pairs[kind]
    record = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert record["add_bos_token"] is False, "llama.cpp's converter would put a second bos before that of the template"
    roles = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    assert {role: getattr(theirs, role) for role in roles} == {r: tokenizer.special(name) for r, name in roles.items()}
    assert len({theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id}) == 3
    assert len(theirs) == tokenizer.vocab_size and theirs.model_max_length == 512
    assert theirs.clean_up_tokenization_spaces is False
    ids = tokenizer.encode(" Torvik")
    marked = [tokenizer.special("bos"), *ids, tokenizer.doc(3), tokenizer.special("assistant_end")]
    assert theirs.decode(marked, skip_special_tokens=True).strip() == "Torvik" == tokenizer.decode(marked).strip()
    assert all(theirs.decode([tokenizer.special(name)], skip_special_tokens=True) == "" for name in RESERVED_NAMES)
    assert theirs.num_special_tokens_to_add() == 0


@every_kind
def test_loading_an_export_adds_nothing_also_after_transformers_saved_it(pairs, kind, tmp_path):
    tokenizer, theirs, folder = pairs[kind]
    theirs.save_pretrained(tmp_path)
    for place in (folder, tmp_path):
        loaded = load_tokenizer(place)
        assert type(loaded) is type(tokenizer) and loaded.vocab_size == tokenizer.vocab_size
        assert [loaded.special(name) for name in RESERVED_NAMES] == [tokenizer.special(name) for name in RESERVED_NAMES]
        assert loaded.encode_batch(CORPUS) == tokenizer.encode_batch(CORPUS)
        assert loaded.control_tokens == tokenizer.control_tokens
    assert json.loads(load_tokenizer(folder).to_json()) == json.loads(tokenizer.to_json())


@pytest.mark.parametrize("model_type", ["granitemoehybrid", "bamba", "mamba2"])
def test_the_model_type_beside_it_does_not_choose_another_tokenizer(pairs, model_type):
    tokenizer, _, folder = pairs["granite"]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(folder)
    (folder / "config.json").unlink()
    text = "Torvik's 1987 <b> café"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_has_the_ids_that_transformers_gives(kind, tmp_path):
    declared = {"999": {"content": "<|late|>", "special": True}, "998": {"content": "<early>", "special": False}}
    pad = {"__type": "AddedToken", "content": "<my_pad>"}
    roles = {"bos_token": "<|begin|>", "pad_token": pad, "extra_special_tokens": ["<more>"]}
    if kind == "wordlevel":  # its ids have holes, where the library gives new tokens the ids of others
        declared, roles = {}, {}
    folder = write_source(tmp_path, kind, added_tokens_decoder=declared, **roles)
    theirs, tokenizer = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    names = tokenizer._backend.get_vocab()
    for token, i in theirs.get_vocab().items():
        if token not in ("<|begin|>", "<my_pad>", "<more>"):
            assert names[token] == i, token
    if roles:
        # roles without an id in any file: ids behind the others, in whatever order
        assert {"<|begin|>", "<my_pad>", "<more>", "<|late|>"} <= set(tokenizer.control_tokens)
        assert tokenizer.special("bos") == len(theirs)
        assert names["<early>"] < names["<|late|>"] and not tokenizer.is_reserved(names["<early>"])


def test_roles_make_control_tokens_of_what_the_file_calls_words(tmp_path):
    folder = write_source(tmp_path, "gpt2", eos_token="<|endoftext|>", pad_token="Tor")
    (folder / "special_tokens_map.json").write_text(json.dumps({"cls_token": "<cls>"}), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    assert set(tokenizer.control_tokens) >= {"<|endoftext|>", "<cls>"}
    assert tokenizer.decode(tokenizer.encode("Torvik <cls><|endoftext|>")) == "Torvik <cls><|endoftext|>"


def test_a_folder_without_a_tokenizer_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer.json") as caught:
        load_tokenizer(tmp_path)
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"null", b"3", b"[" * 100_000])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, content):
    write_source(tmp_path, "granite")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("record", [
    {"added_tokens_decoder": [1]}, {"added_tokens_decoder": {"x": 1, "3": {"content": 5}, "4": None, "-1": "a"}},
    {"bos_token": 3, "eos_token": {"content": []}, "pad_token": ""}, {"extra_special_tokens": {"a": 1, "b": "<b>"}},
    {"added_tokens_decoder": {"3": {"content": "<x>"}, "03": {"content": "<y>"}, "9" * 5000: {"content": "<z>"}}},
    {"additional_special_tokens": [None, {"content": "<c>"}, 3]},
])
def test_strange_entries_of_a_config_are_passed_over(tmp_path, record):
    tokenizer = load_tokenizer(write_source(tmp_path, "granite", **record))
    assert tokenizer.encode("<fim_prefix>") and set(GRANITE_MARKS) <= set(tokenizer.control_tokens)


@pytest.mark.parametrize("kind", ["granite", "unigram"])
def test_a_checkpoint_keeps_an_imported_tokenizer_and_the_engine_answers_with_it(pairs, kind, tmp_path, monkeypatch):
    tokenizer = pairs[kind][0]
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    torch.manual_seed(0)
    config = ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size + 5, n_embd=32, n_head=2, n_kv_head=1,
                         mlp_hidden=32, d_state=8, headdim=16, sequence_len=256)
    save_checkpoint("rag", "tiny", 1, model=LanguageModel(config), tokenizer=tokenizer, meta={})
    model, loaded, _ = load_model("rag", "cpu", "eval")
    assert loaded.to_json() == tokenizer.to_json() and loaded.control_tokens == tokenizer.control_tokens
    documents = [{"id": "a", "title": "Torvik", "content": "It opened in 1987. <s> <|doc_7|>"}]
    messages = [{"role": "retrieval", "documents": documents}, {"role": "user", "content": "When?"}]
    engine = Engine(model, loaded)
    for seed in range(5):
        _, info = engine.generate_from_conversation({"messages": messages}, 20, temperature=1.0, seed=seed)
        assert info["abstained"] or not info["answer"] or [cited["id"] for cited in info["citations"]] == ["a"]
        assert not any(mark in info["answer"] for mark in (*loaded.control_tokens, "<|"))

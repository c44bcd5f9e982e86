"""The tokenizer: text comes back as it went in, reserved ids never come out of text, files are checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import CheckpointError, ConfigError
from nanochat.tokenizer import MIN_VOCAB_SIZE, NUM_DOC_SLOTS, NUM_RESERVED, RESERVED_NAMES, Tokenizer

TEXTS = [
    " The Torvik Bridge in Vessary opened in 1987; it's 412 metres long, and Ilse Marrow's firm built it.",
    " <|bos|> <|assistant_end|> <|doc_3|> <|doc_12|> are only text here, <|bos|> <|bos|><|bos|> again.",
    " Die Bruecke heisst Torvik-Bruecke. caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \u041c\u043e\u0441\u043a\u0432\u0430",
] * 20
TOKENIZER = Tokenizer.train(TEXTS, 700)

valid_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mark = st.sampled_from([f"<|{name}|>" for name in RESERVED_NAMES] + ["<|", "|>", "bos", "<", "|", "doc_", "[DOC_1]"])
ascii_word = st.sampled_from(["it's", " we'll", "  ", "\n", "\r\n", "\t", " ", "\x1c", "\x0b", "\x00", "7", "-", "a"])
any_text = st.lists(st.one_of(valid_text, mark, ascii_word), max_size=8).map("".join)


@given(any_text)
@settings(deadline=None, max_examples=300)
def test_text_comes_back_and_never_gives_a_reserved_id(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(NUM_RESERVED <= i < TOKENIZER.vocab_size for i in ids)
    assert not any(TOKENIZER.is_reserved(i) or TOKENIZER.doc_index(i) is not None for i in ids)


@given(st.lists(any_text, max_size=4))
@settings(deadline=None, max_examples=200)
def test_every_way_to_encode_gives_the_same_ids(texts):
    # the last one goes around the word cache
    expected = [TOKENIZER._encode_plain(text) for text in texts]
    assert TOKENIZER.encode_batch(texts) == expected
    assert [TOKENIZER.encode(text) for text in texts] == expected
    assert [list(TOKENIZER.encode_cached(text)) for text in texts] == expected


@pytest.mark.parametrize("length", [32, 33, 4096, 4097, 50_000])
@pytest.mark.parametrize("letter", ["a", " ", "<|bos|>", "\u00e9"])
def test_long_words_and_texts_pass_the_cache_unharmed(letter, length):
    text = (letter * length)[:length]
    assert TOKENIZER.decode(TOKENIZER.encode_cached(text)) == text
    assert TOKENIZER.encode(text) == TOKENIZER._encode_plain(text)


@pytest.mark.parametrize("length", [100, 5_000, 100_000, 800_000])
def test_a_text_seen_lately_is_not_encoded_again(length):
    text = "A document of so many characters. " * (length // 34)
    assert TOKENIZER.encode_cached(text) is TOKENIZER.encode_cached("".join(list(text)))


def test_reserved_ids_come_first_and_are_dropped_from_text():
    assert [TOKENIZER.special(name) for name in RESERVED_NAMES] == list(range(NUM_RESERVED))
    assert [TOKENIZER.doc_index(TOKENIZER.doc(i)) for i in range(NUM_DOC_SLOTS)] == list(range(NUM_DOC_SLOTS))
    assert TOKENIZER.doc_index(TOKENIZER.special("cite")) is None
    ids = [TOKENIZER.special("bos"), *TOKENIZER.encode(" Torvik"), TOKENIZER.doc(3), TOKENIZER.special("assistant_end")]
    assert TOKENIZER.decode(ids) == " Torvik"


def test_every_digit_is_its_own_token_and_words_keep_one_space():
    assert len(TOKENIZER.encode("1987")) == 4
    assert TOKENIZER.encode(" 1987")[1:] == TOKENIZER.encode("1987")
    assert TOKENIZER.encode(" The Torvik") == TOKENIZER.encode(" The") + TOKENIZER.encode(" Torvik")


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"
    assert TOKENIZER.decode(TOKENIZER.encode("\ud83d\ude00")) == "\U0001f600"


def test_training_is_deterministic_across_processes(tmp_path):
    TOKENIZER.save(tmp_path)
    program = "import sys; from tests.test_tokenizer import TOKENIZER; TOKENIZER.save(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "other")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "other" / "tokenizer.json").read_bytes()


def test_training_on_nothing_gives_the_bytes():
    assert Tokenizer.train([], 1000).vocab_size == MIN_VOCAB_SIZE


def test_vocab_size_below_bytes_and_reserved_is_refused():
    with pytest.raises(ConfigError, match=f"vocab_size {MIN_VOCAB_SIZE - 1} is too small"):
        Tokenizer.train(TEXTS, MIN_VOCAB_SIZE - 1)


@pytest.mark.parametrize("as_folder", [True, False])
def test_save_and_load_give_the_same_ids(tmp_path, as_folder):
    TOKENIZER.save(tmp_path / "tok")
    loaded = Tokenizer.load(tmp_path / "tok" if as_folder else tmp_path / "tok" / "tokenizer.json")
    assert loaded.vocab_size == TOKENIZER.vocab_size
    assert loaded.encode_batch(TEXTS) == TOKENIZER.encode_batch(TEXTS)
    assert min(loaded.encode("<|bos|>")) >= NUM_RESERVED


def test_the_file_is_a_standard_tokenizer_with_special_tokens(tmp_path):
    from tokenizers import Tokenizer as Standard

    TOKENIZER.save(tmp_path)
    standard = Standard.from_file(str(tmp_path / "tokenizer.json"))
    assert standard.token_to_id("<|assistant_end|>") == TOKENIZER.special("assistant_end")
    assert standard.get_added_tokens_decoder()[0].special
    assert standard.encode(TEXTS[0]).ids == TOKENIZER.encode(TEXTS[0])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="Tokenizer not found: .*tokenizer.json") as caught:
        Tokenizer.load(tmp_path / "none" / "tokenizer.json")
    assert "scripts.tok_train" in caught.value.hint
    with pytest.raises(CheckpointError, match="Tokenizer not found: .*tokenizer.json"):
        Tokenizer.load(tmp_path)


def _without_model(content):
    del content["model"]


def _with_reserved_merge(content):
    # a merge that would let the text "<|bos|>" become the reserved id
    content["model"]["merges"].append(["<|", "bos|>"])


def _with_reserved_renamed(content):
    content["model"]["vocab"]["<|other|>"] = content["model"]["vocab"].pop("<|bos|>")


def _with_other_pattern(content):
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "(unbalanced"}


def _with_doubled_id(content):
    content["model"]["vocab"]["a"] = 80


def _with_strange_token(content):
    vocab = content["model"]["vocab"]
    vocab["\ud800"] = len(vocab)


def _with_unknown_merge(content):
    content["model"]["merges"] = [["a", "zzzz"]]


def _with_text_merge(content):
    content["model"]["merges"] = ["a b"]


DAMAGES = [
    *(_without_model, _with_reserved_merge, _with_reserved_renamed, _with_other_pattern),
    *(_with_doubled_id, _with_strange_token, _with_unknown_merge, _with_text_merge),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer.json is not a tokenizer of this project"):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.json is"):
        Tokenizer.load(path)

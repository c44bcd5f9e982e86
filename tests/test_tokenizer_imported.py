"""Imported tokenizers: their ids stay, ours follow, no text reaches a control token, and files say what they are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_tokenizer_stubs import CORPUS, KINDS, LOSSLESS, any_text, granite_like

from nanochat.chat_format import text_ids
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.stream import TextDecoder
from nanochat.tokenizer import NUM_DOC_SLOTS, NUM_RESERVED, RESERVED_NAMES, Tokenizer
from nanochat.tokenizer.imported import ImportedTokenizer

SOURCES = {kind: make() for kind, make in KINDS.items()}
ROLES = {"granite": {"<|end_of_text|>"}, "gpt2": {"<|endoftext|>"}, "wordlevel": {"[PAD]"}}
TOKENIZERS = {
    kind: ImportedTokenizer.adopt(json.loads(source.to_str()), control=ROLES.get(kind, set()), where=kind)
    for kind, source in SOURCES.items()
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def unknown_of(tokenizer):
    """The one mark that text may give, in place of what the vocabulary lacks."""
    return {i for i in range(tokenizer.vocab_size) if tokenizer._backend.id_to_token(i) in ("<unk>", "[UNK]")}


@every_kind
@given(text=any_text)
@settings(deadline=None, max_examples=100)
def test_no_text_gives_a_reserved_id_or_a_control_token(kind, text):
    tokenizer = TOKENIZERS[kind]
    bad = [i for i in tokenizer.encode(text) if tokenizer.is_reserved(i) and i not in unknown_of(tokenizer)]
    assert not bad, [tokenizer._backend.id_to_token(i) for i in bad]


@pytest.mark.parametrize("text", ["＜s＞", "a＜/s＞b ＜s＞", "＜＜s＞s＞"])
def test_what_a_normalizer_turns_into_a_control_token_stays_text(text):
    tokenizer = TOKENIZERS["unigram"]
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("＜", "<").replace("＞", ">")
    assert not any(map(tokenizer.is_reserved, tokenizer.encode(text)))


@pytest.mark.parametrize(("kind", "mark"), [("granite", "<|end_of_text|>"), ("granite", "<|bos|>"),
                                            ("gpt2", "<|endoftext|>"), ("llama", "<|doc_0|>")])
def test_a_spelled_mark_has_the_ids_of_its_letters(kind, mark):
    source = KINDS[kind]()
    source.encode_special_tokens = True
    source.no_truncation()
    source.no_padding()
    text = mark if kind == "granite" else f" {mark}"
    expected = source.encode(mark, add_special_tokens=False).ids
    assert TOKENIZERS[kind].encode(text) == expected and len(expected) > 4


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=any_text)
@settings(deadline=None, max_examples=100)
def test_text_comes_back(kind, text):
    tokenizer = TOKENIZERS[kind]
    # what this kind of vocabulary writes for a space cannot be told from one
    expected = text.replace("▁", " ") if kind == "llama" else text
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@every_kind
@given(texts=st.lists(any_text, max_size=4))
@settings(deadline=None, max_examples=40)
def test_every_way_to_encode_gives_the_same_ids(kind, texts):
    tokenizer = TOKENIZERS[kind]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == expected
    assert [list(tokenizer.encode_cached(text)) for text in texts] == expected


@every_kind
def test_ids_of_the_source_stay_and_ours_follow(kind):
    source, tokenizer = SOURCES[kind], TOKENIZERS[kind]
    for token, i in source.get_vocab(with_added_tokens=True).items():
        assert tokenizer._backend.token_to_id(token) == i, token
    first = max(source.get_vocab(with_added_tokens=True).values()) + 1
    assert [tokenizer.special(name) for name in RESERVED_NAMES] == list(range(first, first + NUM_RESERVED))
    assert tokenizer.vocab_size == first + NUM_RESERVED
    assert list(tokenizer.doc_ids) == [tokenizer.doc(slot) for slot in range(NUM_DOC_SLOTS)]
    assert [tokenizer.doc_index(i) for i in tokenizer.doc_ids] == list(range(NUM_DOC_SLOTS))
    assert tokenizer.doc_index(tokenizer.special("cite")) is None and tokenizer.doc_index(0) is None


@pytest.mark.parametrize("kind", ["granite", "unigram", "llama", "gpt2"])
@pytest.mark.parametrize("text", ["Torvik", "The bridge, of 1987 [é] opened  in Vessary and so on"])
def test_a_text_of_the_chat_format_has_the_ids_of_the_source(kind, text):
    source = KINDS[kind]()
    source.no_truncation()
    source.no_padding()
    # byte-level sources put no space, so it is given to them; the others put one and must not get a second
    written = " " + text if kind == "granite" else text
    expected = source.encode(written, add_special_tokens=False).ids
    assert list(text_ids(text, TOKENIZERS[kind])) == expected
    assert TOKENIZERS[kind].decode(expected) == " " + text


@every_kind
def test_nothing_is_added_around_or_cut_from_a_long_text(kind):
    tokenizer = TOKENIZERS[kind]
    text = " ".join(CORPUS)
    ids = tokenizer.encode(text)
    assert len(ids) >= len(text.split()) and not tokenizer.is_reserved(ids[0]) and not tokenizer.is_reserved(ids[-1])
    assert tokenizer.encode("") == []


@every_kind
@given(text=any_text, cut=st.integers(0, 40))
@settings(deadline=None, max_examples=100)
def test_streamed_pieces_are_the_whole_text(kind, text, cut):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    ids = ids[:cut]
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(i) for i in ids] + [decoder.finish()]
    assert "".join(pieces) == tokenizer.decode(ids).strip()


@every_kind
def test_marks_and_control_tokens_are_left_out_of_text_and_never_sampled_as_text(kind):
    tokenizer = TOKENIZERS[kind]
    marks = [i for i in range(tokenizer.vocab_size) if tokenizer.is_reserved(i)]
    abstain = tokenizer.special("abstain")
    assert tokenizer.decode(marks) == ""
    assert {tokenizer._backend.token_to_id(token) for token in tokenizer.control_tokens} <= set(marks)
    allowed = AnswerGrammar(tokenizer, num_ids=tokenizer.vocab_size + 3).begin([0]).allowed([0])[0]
    assert allowed.nonzero().flatten().tolist() == sorted({*range(tokenizer.vocab_size)} - {*marks} | {abstain})
    ours = set(range(tokenizer.special("bos"), tokenizer.special("bos") + NUM_RESERVED))
    assert len(set(marks) - ours) >= {"granite": 7, "gpt2": 1, "unigram": 3, "llama": 3, "wordlevel": 5}[kind]


def test_an_added_word_stays_text_and_what_looks_like_a_mark_becomes_one():
    tokenizer = TOKENIZERS["granite"]
    assert tokenizer.encode("<tool_call>") == [SOURCES["granite"].token_to_id("<tool_call>")]
    assert tokenizer.is_reserved(SOURCES["granite"].token_to_id("<|fim_pad|>"))
    assert not {"<tool_call>", "<|bos|>"} & set(tokenizer.control_tokens)


@every_kind
def test_bytes_per_id_add_up_to_the_text(kind):
    tokenizer = TOKENIZERS[kind]
    sizes = tokenizer.bytes_per_id()
    assert len(sizes) == tokenizer.vocab_size
    assert not any(size for i, size in enumerate(sizes) if tokenizer.is_reserved(i))
    text = " Torvik Bridge in Vessary opened in 1987;"
    assert sum(sizes[i] for i in tokenizer.encode(text)) == len(text.encode())
    own = Tokenizer.train([text], 400)
    assert sum(own.bytes_per_id()[i] for i in own.encode(text + " é日")) == len((text + " é日").encode())


@every_kind
@pytest.mark.parametrize("as_folder", [True, False])
def test_save_and_load_give_the_same_tokenizer(tmp_path, kind, as_folder):
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path if as_folder else tmp_path / "tokenizer.json")
    texts = [*CORPUS, "<s></s> <|bos|> <|end_of_text|><|endoftext|>", "日本"]
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.control_tokens == tokenizer.control_tokens and loaded.vocab_size == tokenizer.vocab_size
    everything = range(tokenizer.vocab_size)
    assert [loaded.is_reserved(i) for i in everything] == [tokenizer.is_reserved(i) for i in everything]
    assert [loaded.special(name) for name in RESERVED_NAMES] == [tokenizer.special(name) for name in RESERVED_NAMES]
    assert loaded.to_json() == tokenizer.to_json()


def test_names_that_the_source_uses_itself_get_another_prefix(tmp_path):
    source = granite_like()
    source.add_special_tokens(["<|bos|>", "<|doc_3|>"])
    tokenizer = ImportedTokenizer.adopt(json.loads(source.to_str()), where="source")
    assert tokenizer.token("bos") == "<|rag_bos|>" and tokenizer.special("bos") == source.get_vocab_size()
    assert tokenizer.is_reserved(source.token_to_id("<|bos|>")) and "<|bos|>" in tokenizer.control_tokens
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).special("doc_3") == tokenizer.special("doc_3")


def test_tokens_of_other_files_get_the_next_ids():
    content = json.loads(granite_like().to_str())
    size = granite_like().get_vocab_size()
    extra = [{"content": "<extra>", "special": False}, {"content": "<|late|>", "special": True}]
    control = {"<my_pad>", "<tool_call>"}
    tokenizer = ImportedTokenizer.adopt(content, extra_tokens=extra, control=control, where="source")
    new_ids = [tokenizer._backend.token_to_id(token) for token in ("<extra>", "<|late|>", "<my_pad>")]
    assert new_ids == [size, size + 1, size + 2]
    assert tokenizer.encode("<extra>") == [size]
    assert {"<|late|>", "<my_pad>", "<tool_call>"} <= set(tokenizer.control_tokens)
    assert tokenizer.special("bos") == size + 3


def test_dropout_of_merges_is_for_training_tokenizers_and_goes():
    content = json.loads(granite_like().to_str())
    content["model"]["dropout"] = 0.9
    tokenizer = ImportedTokenizer.adopt(content, where="source")
    assert tokenizer.encode_batch(CORPUS) == TOKENIZERS["granite"].encode_batch(CORPUS)


def test_a_token_of_one_character_stays_text():
    content = json.loads(granite_like().to_str())
    tokenizer = ImportedTokenizer.adopt(content, control={"!"}, where="source")
    assert tokenizer.decode(tokenizer.encode("a!b")) == "a!b"


def test_what_a_vocabulary_lacks_is_unknown_and_never_the_end_of_a_text():
    for kind in ("unigram", "wordlevel"):
        assert set(TOKENIZERS[kind].encode("\u65e0\u754c")) == unknown_of(TOKENIZERS[kind]), kind
    content = json.loads(KINDS["wordlevel"]().to_str())
    content["model"]["vocab"]["<end>"] = content["model"]["vocab"].pop("[UNK]")
    content["model"]["unk_token"] = content["added_tokens"][0]["content"] = "<end>"
    tokenizer = ImportedTokenizer.adopt(content, where="source")
    assert tokenizer.decode(tokenizer.encode("The zzz Bridge")) == " The Bridge"
    assert not any(map(tokenizer.is_reserved, tokenizer.encode("The zzz <end> Bridge zz")))

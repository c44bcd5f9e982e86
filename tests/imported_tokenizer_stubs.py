"""Small published-looking tokenizers of every kind, made offline: what the tests of imported tokenizers share."""

import json

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from nanochat.tokenizer import RESERVED_NAMES

CORPUS = [
    "The Torvik Bridge in Vessary opened in 1987; it's 412 metres long, and Ilse Marrow's firm built it.",
    "Die Brücke heißt Torvik. café naïve 日本語 Москва <b>bold</b> [INST] x/y_z|w",
] * 8
MARKED_CORPUS = [*CORPUS, *[" <|a|> <|b|>"] * 8]  # where marks are spelled often, their brackets merge
GRANITE_MARKS = ["<|end_of_text|>", "<|pad|>", "<|start_of_role|>", "<|end_of_role|>", "<fim_prefix>", "<reponame>"]


def special(*tokens):
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def granite_like():
    """Byte-level BPE with several special tokens behind its vocabulary, some text-like, and a post-processor."""
    backend = Backend(models.BPE())
    pattern = r"'s|'t| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(MARKED_CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet,
                                                            show_progress=False))
    backend.add_special_tokens(special(*GRANITE_MARKS))
    backend.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<|fim_pad|>", normalized=False)])
    end = backend.token_to_id("<|end_of_text|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|end_of_text|> $A", pair="<|end_of_text|> $A $B", special_tokens=[("<|end_of_text|>", end)]
    )
    backend.enable_truncation(12)
    backend.enable_padding(length=20)
    return backend


def gpt2_like():
    """Byte-level BPE whose end of text is part of the vocabulary; a space is put before every text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"],
                                  show_progress=False)
    backend.train_from_iterator(MARKED_CORPUS, trainer)
    return backend


def _pieces():
    words = sorted({"▁" + word for text in CORPUS for word in text.split()})
    letters = sorted(set("".join(CORPUS).replace(" ", "")) | set("<>/s|_.,[]bodabcefghijklmnpqrtuvwxyz0123456789"))
    return [("▁", -3.0), *((word, -8.0) for word in words), *((letter, -5.0) for letter in letters)]


def unigram():
    """SentencePiece-like: its control tokens are pieces, so the model itself reads "</s>" as one; no byte fallback."""
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *_pieces()]
    backend = Backend(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(special("<unk>", "<s>", "</s>"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def llama_like():
    """BPE with byte fallback; the normalizer puts a space before every text, the decoder takes it away."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [piece for piece, _ in _pieces() if len(piece) == 1]
    merges = [("▁", "T"), ("o", "r"), ("▁T", "or"), ("<", "s"), ("<s", ">"), ("▁", "▁")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(
        [*pieces, *letters, *("".join(merge) for merge in merges)]))}
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(special("<unk>", "<s>", "</s>"))
    return backend


def wordlevel():
    """Whole words; tokens are joined with spaces, ids have holes."""
    words = sorted({word for text in CORPUS for word in text.split()})
    vocab = {"[UNK]": 0, "[PAD]": 1, **{word: i + 5 for i, word in enumerate(words)}}
    backend = Backend(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(special("[UNK]", "[PAD]"))
    return backend


KINDS = {"granite": granite_like, "gpt2": gpt2_like, "unigram": unigram, "llama": llama_like, "wordlevel": wordlevel}
# kinds that give every text back as it was
LOSSLESS = ("granite", "gpt2", "llama")


def write_source(folder, kind, **config):
    """A folder as a model is published: tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    KINDS[kind]().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


valid_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"), max_size=30)
mark = st.sampled_from(
    [f"<|{name}|>" for name in RESERVED_NAMES] + GRANITE_MARKS
    + ["<s>", "</s>", "<unk>", "<<s>s>", "</</s>s>", "<|fim_pad|>", "<|endoftext|>", "[PAD]", "<tool_call>"]
    + ["<|rag_bos|>", "<|", "|>", "<", "＜s＞", "<0x41>", "▁", "▁<s>"]
)
word = st.sampled_from(["Torvik", " Bridge", "  ", "\n", "1987", "it's", "\t", "é", "日本", "\x1c", "\u2028"])
any_text = st.lists(st.one_of(valid_text, mark, word), max_size=6).map("".join)

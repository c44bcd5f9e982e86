"""Rows of the embedding for reserved ids: appended or taken from unused ones, and the logits of other ids stay."""

import pytest
import torch
from interop_stubs import difference, make_published, random_ids
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from nanochat import interop
from nanochat.tokenizer import NUM_RESERVED

pytest.importorskip("transformers")
NUM_FOREIGN = 257  # the bytes and one control token


def save_foreign(published, folder):
    """The model with a byte-level tokenizer that has never heard of us."""
    vocab = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end_of_text|>"])
    published.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("shape", ["granite", "bamba", "mamba2"])
@pytest.mark.parametrize(("rows", "appended"), [(NUM_FOREIGN, 64), (NUM_FOREIGN + 10, 54), (NUM_FOREIGN + 100, 0)])
def test_reserved_ids_get_rows_and_other_logits_stay(shape, rows, appended, tmp_path):
    published = make_published(shape, vocab_size=rows, pad_token_id=0)
    folder = save_foreign(published, tmp_path / "foreign")
    model, tokenizer, meta = interop.load(str(folder))
    assert tokenizer.vocab_size == NUM_FOREIGN + NUM_RESERVED
    assert (model.config.vocab_size, meta["new_rows"]) == (rows + appended, NUM_RESERVED)
    ids = random_ids(2, 17) % NUM_FOREIGN
    assert difference(model(ids)[..., :NUM_FOREIGN], published(ids).logits[..., :NUM_FOREIGN]) < 1e-4
    for weight in [model.embed.weight] + ([] if model.lm_head is None else [model.lm_head.weight]):
        new, old = weight[NUM_FOREIGN : NUM_FOREIGN + NUM_RESERVED], weight[:NUM_FOREIGN]
        assert difference(new.mean(0), old.mean(0)) < 0.1 * old.std()
        closest = torch.cdist(new, new).fill_diagonal_(torch.inf).min()
        assert closest > 0.01, f"two reserved ids are {closest:.4f} apart"
    assert torch.equal(interop.load(str(folder))[0].embed.weight, model.embed.weight), "another load, other rows"


@torch.no_grad()
def test_an_export_of_an_import_is_recognised_and_gets_no_more_rows(tmp_path):
    folder = save_foreign(make_published("granite", vocab_size=NUM_FOREIGN), tmp_path / "foreign")
    model, tokenizer, _ = interop.load(str(folder))
    model.embed.weight[tokenizer.doc(3)] = 1.25  # trained since
    interop.export(model, tokenizer, tmp_path / "out")
    again, again_tokenizer, meta = interop.load(str(tmp_path / "out"))
    assert meta["new_rows"] == 0
    assert torch.equal(again.embed.weight, model.embed.weight)
    text = "Kites, naïve: 1.5 <|end_of_text|>"
    assert again_tokenizer.encode(text) == tokenizer.encode(text)
    assert again_tokenizer.doc(3) == tokenizer.doc(3)

"""Tokens of a document get a share of their slot's embedding: the law against a plain loop, and that no way of reading
changes it.
"""

import json

import pytest
import torch

from nanochat.checkpoint_files import read_config
from nanochat.errors import ConfigError, UserError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.model.cpu import build, native
from nanochat.model.slots import document_slots
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer
from nanochat.training.lora import LoraSettings, add_adapters, merge_adapters
from tests.test_model_laws import PATTERNS, TOLERANCE, difference, make_model

START, END, FIRST, COUNT = SLOT_IDS = (1, 2, 5, 4)
SCALE = 0.5
# results of two documents whose titles stand between marks, an answer that cites, other results cut by their end
CONVERSATION = [0, 20, START, 5, 21, 22, 5, 23, 24, 6, 25, 6, 26, END, 40, 6, 41, START, 42, 8, 43, 44]


def with_slots(pattern: str, **overrides: object) -> LanguageModel:
    return make_model(pattern, **({"slot_scale": SCALE, "slot_ids": SLOT_IDS, "attention_conv": 3} | overrides))


def marked_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random ids, half of them marks."""
    generator = torch.Generator().manual_seed(seed)
    marks = torch.tensor([START, START, END, *range(FIRST, FIRST + COUNT)])
    chosen = marks[torch.randint(len(marks), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.5, chosen,
                       torch.randint(50, shape, generator=generator))


def slots_by_hand(row: list[int], segments: list[int] | None = None) -> list[int]:
    """1 + the slot of each token's document, 0 without one, word by word as the law says."""
    found, is_inside, document = [], False, None
    for place, token in enumerate(row):
        if segments is not None and place and segments[place] != segments[place - 1]:
            is_inside, document = False, None
        is_slot = FIRST <= token < FIRST + COUNT
        if token in (START, END):
            is_inside, document = token == START, None
        elif is_slot and is_inside:
            document = token - FIRST
        is_mark = is_slot or token in (START, END)
        found.append(0 if is_mark or document is None else 1 + document)
    return found


def test_the_law_on_a_conversation():
    ids = torch.tensor([CONVERSATION])
    expected = [0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 4]
    assert document_slots(ids, SLOT_IDS)[0].tolist() == [expected] == [slots_by_hand(CONVERSATION)]


@pytest.mark.parametrize("seed", range(20))
def test_the_law_on_random_ids_in_any_cutting_and_packing(seed):
    ids = marked_ids(8, 60, seed=seed)
    expected = [slots_by_hand(row) for row in ids.tolist()]
    whole, standing = document_slots(ids, SLOT_IDS)
    assert whole.tolist() == expected
    assert whole.unique().tolist() == [0, 1, 2, 3, 4], "the ids try too little"
    before, pieces, cuts = None, [], sorted({(seed * 7 + turn * 11) % 60 for turn in range(9)} - {0})
    for piece in torch.tensor_split(ids, cuts, dim=1):
        found, before = document_slots(piece, SLOT_IDS, before)
        pieces.append(found)
    assert torch.cat(pieces, dim=1).equal(whole) and before.equal(standing)
    segments = (torch.rand(8, 60, generator=torch.Generator().manual_seed(seed)) < 0.15).cumsum(1)
    is_fresh = torch.cat([torch.ones(8, 1, dtype=torch.bool), segments.diff(dim=1) != 0], dim=1)
    packed, _ = document_slots(ids, SLOT_IDS, is_fresh=is_fresh)
    assert packed.tolist() == [slots_by_hand(*pair) for pair in zip(ids.tolist(), segments.tolist(), strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("overrides", [{}, {"tie_embeddings": False, "embedding_multiplier": 3.0}])
def test_the_first_layer_gets_the_sum(overrides):
    model = with_slots("M,T", **overrides)
    entered = []
    model.layers[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    model.features(torch.tensor([CONVERSATION]))
    weight = model.embed.weight
    for place, (token, slot) in enumerate(zip(CONVERSATION, slots_by_hand(CONVERSATION), strict=True)):
        expected = weight[token] + (SCALE * weight[FIRST + slot - 1] if slot else 0)
        expected = expected * model.config.embedding_multiplier
        assert difference(entered[0][0, place], expected) < 1e-6, f"token {token} at {place}"


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_border_between_pieces_may_fall_anywhere(pattern):
    model, ids = with_slots(pattern), torch.tensor([CONVERSATION, marked_ids(len(CONVERSATION)).tolist()])
    whole = model(ids)
    for cut in range(1, len(CONVERSATION)):
        cache = model.new_cache(2)
        pieces = torch.cat([model(ids[:, :cut], cache), model(ids[:, cut:], cache)], dim=1)
        assert difference(whole, pieces) < TOLERANCE, f"cut at {cut}: {difference(whole, pieces)}"
    cache = model.new_cache(2)
    single = torch.cat([model(piece, cache) for piece in ids.split(1, dim=1)], dim=1)
    assert difference(whole, single) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_crosses_into_the_next_packed_row(pattern):
    model = with_slots(pattern)
    # every row but the last one ends inside results, the next one begins with what would have a slot there
    rows = [torch.tensor([CONVERSATION[:end]]) for end in (8, 3, 4, 20)] + [torch.tensor([[30, 31, 6, 32, END, 33]])]
    packed_ids, lengths = torch.cat(rows, dim=1), [row.shape[1] for row in rows]
    seq_idx = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths))[None]
    packed = model(packed_ids, seq_idx=seq_idx).split(lengths, dim=1)
    for number, (row, found) in enumerate(zip(rows, packed, strict=True)):
        assert difference(model(row), found) < TOLERANCE, f"row {number}"
    assert difference(model(packed_ids), torch.cat(packed, dim=1)) > 1e-3


def test_gradients_reach_the_embeddings_of_slots_and_equal_those_of_a_plain_sum():
    model, ids = with_slots("T,M"), torch.tensor([CONVERSATION])
    model(ids).logsumexp(-1).sum().backward()
    found = model.embed.weight.grad.clone()
    plain = make_model("T,M", attention_conv=3)
    plain.load_state_dict(model.state_dict())
    weight, slots = plain.embed.weight, torch.tensor(slots_by_hand(CONVERSATION))
    added = SCALE * weight[(slots - 1).clamp(min=0) + FIRST] * (slots > 0)[:, None]
    handle = plain.layers[0].register_forward_pre_hook(lambda module, args: (args[0] + added, *args[1:]))
    plain(ids).logsumexp(-1).sum().backward()
    handle.remove()
    assert difference(found, weight.grad) < 1e-4 * max(1.0, weight.grad.abs().max().item())
    assert found[FIRST].abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_scale_of_zero_is_the_model_without(pattern):
    ids = torch.tensor([CONVERSATION])
    assert make_model(pattern, slot_ids=SLOT_IDS)(ids).equal(make_model(pattern)(ids))
    assert len(make_model(pattern, slot_ids=SLOT_IDS).new_cache(1).layers) == len(pattern.split(","))
    assert difference(with_slots(pattern)(ids), make_model(pattern, attention_conv=3)(ids)) > 1e-3


@torch.no_grad()
def test_adapted_rows_of_slots_are_added_too_and_merge():
    model, ids = with_slots("M,T"), torch.tensor([CONVERSATION])
    before = model(ids)
    add_adapters(model, LoraSettings(rank=2, alpha=4.0, row_ids=tuple(range(FIRST, FIRST + COUNT))))
    model.embed_changes.delta.normal_(generator=torch.Generator().manual_seed(0))
    adapted = model(ids)
    merge_adapters(model)
    assert difference(adapted, model(ids)) < TOLERANCE and difference(adapted, before) > 1e-3


@torch.no_grad()
@pytest.mark.skipif(build.library().functions is None, reason=build.library().reason)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_native_code_reads_documents_and_decodes_answers(pattern, monkeypatch):
    model = with_slots(pattern)
    cache, other, with_slot, found = model.new_cache(2), model.new_cache(2), [], []
    embeddings = model.embeddings

    def noted(*args, **options):
        with_slot.append(1)
        return embeddings(*args, **options)

    monkeypatch.setattr(model, "embeddings", noted)
    ids = torch.tensor([CONVERSATION, [30, *CONVERSATION[:-1]]])
    for piece in ids.split([2, 1, 3, 4, 4, 1, 2, 1, 1, 1, 1, 1], dim=1):
        with_slot.append(0)
        found.append(native.features(model, piece, cache))
        assert found[-1] is not None, f"refused: {native.describe(model)}"
        cache.advance(piece.shape[1])
    # the second row is one token behind: it leaves results one token later; outside of them nothing is looked up
    assert "".join(map(str, with_slot)) == "0" + "01" * 5 + "0" + "01" * 5
    for cut in (5, 9, 8):
        start = other.host_lengths[0]
        monkeypatch.setenv("NANOCHAT_NATIVE", "0")
        model.features(ids[:, start : start + cut], other)
        monkeypatch.undo()
    assert difference(torch.cat(found, dim=1), model.features(ids)) < TOLERANCE
    assert cache.layers[-1].slot.tolist() == other.layers[-1].slot.tolist() == [5, 5]
    assert native.features(model, ids[:, :1], make_model(pattern, attention_conv=3).new_cache(2)) is None


@torch.no_grad()
def test_where_a_row_stands_is_counted_in_bytes():
    cache = with_slots("T,M").new_cache(3)
    plain = make_model("T,M", attention_conv=3).new_cache(3)
    assert cache.num_bytes == plain.num_bytes + 3 * 8 and cache.used_bytes == plain.used_bytes + 3 * 8


@pytest.mark.parametrize(("settings", "words"), [
    ({"slot_scale": 0.5}, "slot_scale is 0.5 without slot_ids"),
    ({"slot_scale": -1.0, "slot_ids": SLOT_IDS}, "slot_scale is -1.0, must be at least 0"),
    ({"slot_scale": float("nan"), "slot_ids": SLOT_IDS}, "must be at least 0"),
    ({"slot_scale": float("inf"), "slot_ids": SLOT_IDS}, "must be at least 0"),
    ({"slot_ids": (1, 2, 3)}, "are not four numbers"),
    ({"slot_ids": (1, 2, 3, True)}, "are not four numbers"),
    ({"slot_ids": (1, 1, 5, 4)}, "an id twice"),
    ({"slot_ids": (6, 2, 5, 4)}, "an id twice"),
    ({"slot_ids": (1, 8, 5, 4)}, "an id twice"),
    ({"slot_ids": (1, 2, 5, 0)}, "no slot"),
    ({"slot_ids": (1, 2, 48, 4)}, "outside of 50 ids"),
    ({"slot_ids": (-1, 2, 5, 4)}, "outside of 50 ids"),
])
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match="Model shape does not fit together") as caught:
        ModelConfig(block_pattern="T", vocab_size=50, **settings)
    assert words in str(caught.value)


def test_the_config_file_keeps_the_settings_and_an_old_one_has_them_off(tmp_path):
    config = with_slots("T,M").config
    record = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(record) == config and hash(config) == hash(ModelConfig.from_dict(record))
    del record["slot_scale"], record["slot_ids"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    old = read_config(tmp_path)
    assert (old.slot_scale, old.slot_ids) == (0.0, ())
    (tmp_path / "config.json").write_text(json.dumps(record | {"slot_scale": 0.5, "slot_ids": [1, 2, "5", 4]}))
    with pytest.raises(UserError, match="are not four numbers"):
        read_config(tmp_path)


def test_a_tokenizer_names_its_slots():
    tokenizer = Tokenizer.train(["one two three"] * 3, vocab_size=400)
    start, end, first, count = tokenizer.slot_ids
    assert (start, end) == (tokenizer.special("results_start"), tokenizer.special("results_end"))
    assert list(range(first, first + count)) == [tokenizer.doc(slot) for slot in range(NUM_DOC_SLOTS)]

"""The answer grammar: every legal step is allowed, every other step is not, for many rows at once."""

import random

import pytest
import torch
from engine_stubs import make_tokenizer

from nanochat.chat_format import parse_answer
from nanochat.engine.grammar import AnswerGrammar

TOKENIZER = make_tokenizer()
CITE, END, ABSTAIN = (TOKENIZER.special(name) for name in ("cite", "assistant_end", "abstain"))
TEXT = set(range(TOKENIZER.vocab_size)) - {id for id in range(TOKENIZER.vocab_size) if TOKENIZER.is_reserved(id)}
SPACES = {id for id in TEXT if not TOKENIZER.decode([id]).strip()}
WORD, SPACE = max(TEXT - SPACES), TOKENIZER.encode(" 7")[0]


def make_grammar(*, must_cite: bool = True) -> AnswerGrammar:
    return AnswerGrammar(TOKENIZER, num_ids=TOKENIZER.vocab_size + 5, must_cite=must_cite)


def allowed_after(ids: list[int], num_documents: int, *, must_cite: bool = True) -> set[int]:
    rows = make_grammar(must_cite=must_cite).begin([num_documents])
    for id in ids:
        rows.advance([0], torch.tensor([id]))
    return set(rows.allowed([0])[0].nonzero()[:, 0].tolist())


def docs(*slots: int) -> set[int]:
    return {TOKENIZER.doc(slot) for slot in slots}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], {CITE, ABSTAIN}),
        ([ABSTAIN], {END}),
        ([ABSTAIN, END], set()),
        ([CITE], docs(0, 1)),
        ([CITE, TOKENIZER.doc(1)], TEXT | {CITE, ABSTAIN}),
        ([CITE, TOKENIZER.doc(1), ABSTAIN], {END}),
        ([CITE, TOKENIZER.doc(1), ABSTAIN, END], set()),
        ([CITE, TOKENIZER.doc(1), CITE], docs(0)),
        ([CITE, TOKENIZER.doc(1), CITE, TOKENIZER.doc(0)], TEXT),
        ([CITE, TOKENIZER.doc(1), SPACE], TEXT),
        ([CITE, TOKENIZER.doc(1), SPACE, SPACE], TEXT),
        ([CITE, TOKENIZER.doc(1), SPACE, WORD], TEXT | {END}),
        ([CITE, TOKENIZER.doc(1), WORD, SPACE], TEXT | {END}),
        ([CITE, TOKENIZER.doc(1), WORD], TEXT | {END}),
        ([CITE, TOKENIZER.doc(1), CITE, TOKENIZER.doc(0), WORD, WORD], TEXT | {END}),
        ([CITE, TOKENIZER.doc(1), WORD, END], set()),
    ],
)
def test_two_documents(ids, expected):
    assert allowed_after(ids, 2) == expected


def test_without_documents_there_is_nothing_to_cite():
    assert allowed_after([], 0) == TEXT | {ABSTAIN}
    assert allowed_after([WORD], 0) == TEXT | {END}
    assert allowed_after([SPACE], 0) == TEXT


def test_citing_can_be_left_to_the_model():
    assert allowed_after([], 2, must_cite=False) == TEXT | {CITE, ABSTAIN}
    assert allowed_after([WORD], 2, must_cite=False) == TEXT | {END}


def test_ids_beyond_the_tokenizer_are_forbidden():
    assert max(allowed_after([CITE, TOKENIZER.doc(0)], 2)) < TOKENIZER.vocab_size
    assert max(allowed_after([], 0)) < TOKENIZER.vocab_size


def test_a_forbidden_id_is_refused():
    with pytest.raises(AssertionError, match="not allowed"):
        make_grammar().begin([1]).advance([0], torch.tensor([END]))


@pytest.mark.parametrize("num_documents", [0, 1, 3, 32])
@pytest.mark.parametrize("must_cite", [True, False])
def test_every_answer_parses_back_and_can_always_go_on(num_documents, must_cite):
    generator = random.Random(num_documents)
    grammar, documents = make_grammar(must_cite=must_cite), [{}] * num_documents
    for _ in range(20):
        rows, ids = grammar.begin([num_documents]), []
        while not ids or ids[-1] != END:
            ids.append(generator.choice(_likely(rows.allowed([0])[0])))
            rows.advance([0], torch.tensor(ids[-1:]))
        slots = [TOKENIZER.doc_index(id) for id in ids if TOKENIZER.doc_index(id) is not None]
        parsed = parse_answer(ids, TOKENIZER, documents)
        assert parsed.is_finished and parsed.citations == ([] if parsed.abstained else slots)
        assert parsed.closest == (slots if parsed.abstained else [])
        assert parsed.abstained == (ids[-2:] == [ABSTAIN, END]) != bool(parsed.text)
        assert not parsed.abstained or len(ids) == 2 + 2 * len(slots) <= 4
        assert slots or parsed.abstained or not (must_cite and num_documents)


def test_rows_do_not_influence_each_other():
    generator = random.Random(0)
    counts = [generator.choice([0, 1, 3, 32]) for _ in range(64)]
    grammar = make_grammar()
    together, alone = grammar.begin(counts), [grammar.begin([count]) for count in counts]
    live = list(range(64))
    for _ in range(12):
        allowed = together.allowed(live)
        for place, number in enumerate(live):
            assert allowed[place].equal(alone[number].allowed([0])[0])
        ids = [generator.choice(_likely(row)) for row in allowed]
        together.advance(live, torch.tensor(ids))
        for number, id in zip(live, ids, strict=True):
            alone[number].advance([0], torch.tensor([id]))
        live = [number for number, id in zip(live, ids, strict=True) if id != END]
    assert len(live) < 64


def _likely(allowed: torch.Tensor) -> list[int]:
    """Marks as often as words and spaces."""
    ids = set(allowed.nonzero()[:, 0].tolist())
    return sorted(ids - TEXT) + sorted(ids & (TEXT - SPACES))[:2] + sorted(ids & SPACES)[:1]


def test_rows_start_fresh():
    grammar = make_grammar()
    first = grammar.begin([1])
    for id in (CITE, TOKENIZER.doc(0), WORD, END):
        first.advance([0], torch.tensor([id]))
    second = grammar.begin([1])
    assert second.allowed([0])[0, ABSTAIN]


def test_a_search_without_result_can_only_be_answered_by_abstaining():
    grammar = AnswerGrammar(TOKENIZER, num_ids=TOKENIZER.vocab_size)
    allowed = grammar.begin([0, 0], searched=[True, False]).allowed([0, 1])
    assert allowed[0].nonzero().flatten().tolist() == [TOKENIZER.special("abstain")]
    assert allowed[1].sum() > 256, "without any search the model may say what it likes"

"""The answer grammar: every legal step is allowed, every other step is not, for many rows at once."""

import random

import pytest
import torch
from engine_stubs import make_tokenizer

from nanochat.engine.grammar import AnswerGrammar, AnswerRows

TOKENIZER = make_tokenizer()
CITE, END, ABSTAIN = (TOKENIZER.special(name) for name in ("cite", "assistant_end", "abstain"))
TEXT = set(range(TOKENIZER.vocab_size)) - {id for id in range(TOKENIZER.vocab_size) if TOKENIZER.is_reserved(id)}
WORD = max(TEXT)


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
        ([], TEXT | {ABSTAIN}),
        ([ABSTAIN], {END}),
        ([WORD], TEXT | {CITE}),
        ([WORD, WORD], TEXT | {CITE}),
        ([WORD, CITE], docs(0, 1)),
        ([WORD, CITE, TOKENIZER.doc(1)], {CITE, END}),
        ([WORD, CITE, TOKENIZER.doc(1), CITE], docs(0)),
        ([WORD, CITE, TOKENIZER.doc(1), CITE, TOKENIZER.doc(0)], {END}),
        ([WORD, CITE, TOKENIZER.doc(1), END], set()),
    ],
)
def test_two_documents(ids, expected):
    assert allowed_after(ids, 2) == expected


def test_without_documents_there_is_nothing_to_cite():
    assert allowed_after([], 0) == TEXT | {ABSTAIN}
    assert allowed_after([WORD], 0) == TEXT | {END}


def test_citing_can_be_left_to_the_model():
    assert allowed_after([WORD], 2, must_cite=False) == TEXT | {CITE, END}


def test_ids_beyond_the_tokenizer_are_forbidden():
    assert max(allowed_after([WORD], 2)) < TOKENIZER.vocab_size


def test_a_forbidden_id_is_refused():
    with pytest.raises(AssertionError, match="not allowed"):
        make_grammar().begin([1]).advance([0], torch.tensor([END]))


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
    """Marks as often as words."""
    ids = allowed.nonzero()[:, 0].tolist()
    return [id for id in ids if id not in TEXT] + [id for id in ids if id in TEXT][:2]


def test_rows_start_fresh():
    grammar = make_grammar()
    first = grammar.begin([1])
    for id in (WORD, CITE, TOKENIZER.doc(0), END):
        first.advance([0], torch.tensor([id]))
    second: AnswerRows = grammar.begin([1])
    assert second.allowed([0])[0, ABSTAIN]

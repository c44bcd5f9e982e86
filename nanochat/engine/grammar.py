"""What an answer may look like, token by token: an honest abstention, or text followed by citations of shown documents.

    answer = abstain end
           | text text* (cite doc)* end        with at least one citation when documents were shown and must_cite

A cited slot is one of a document that was shown, and each is cited once, so citations always resolve.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

# states of a row
START, TEXT, CITE, CITED, ABSTAINED, FINISHED = range(6)
# kinds of tokens
IS_OTHER, IS_TEXT, IS_ABSTAIN, IS_CITE, IS_DOC, IS_END = range(6)

# state -> kind -> next state; what is missing is forbidden
STEPS: dict[int, dict[int, int]] = {
    START: {IS_TEXT: TEXT, IS_ABSTAIN: ABSTAINED},
    TEXT: {IS_TEXT: TEXT, IS_CITE: CITE, IS_END: FINISHED},
    CITE: {IS_DOC: CITED},
    CITED: {IS_CITE: CITE, IS_END: FINISHED},
    ABSTAINED: {IS_END: FINISHED},
    FINISHED: {},
}


class AnswerGrammar:
    """The grammar over one tokenizer's ids; begin() follows a batch of rows through it.

    num_ids: width of the model's logits, which may exceed the tokenizer's vocabulary; ids beyond it are forbidden.
    must_cite: a row that was shown documents ends its answer only after a citation.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, num_ids: int, must_cite: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.must_cite = must_cite
        self.cite, self.end = tokenizer.special("cite"), tokenizer.special("assistant_end")
        docs = [tokenizer.doc(slot) for slot in range(NUM_DOC_SLOTS)]
        kinds = torch.tensor([_is_text(tokenizer, id) for id in range(num_ids)]).long() * IS_TEXT
        kinds[docs], kinds[tokenizer.special("abstain")] = IS_DOC, IS_ABSTAIN
        kinds[self.cite], kinds[self.end] = IS_CITE, IS_END
        next_state = torch.full((len(STEPS), 6), -1)
        for state, step in STEPS.items():
            for kind, following in step.items():
                next_state[state, kind] = following
        self.docs = torch.tensor(docs, device=device)  # (S,)
        self.next_state = next_state[:, kinds].to(device)  # (states, V), -1 where forbidden
        self.device = self.docs.device

    def begin(self, num_documents: Sequence[int]) -> "AnswerRows":
        """Rows about to start an answer; num_documents: how many each was shown, in slots 0 ... n-1."""
        return AnswerRows(self, num_documents)


class AnswerRows:
    """Where each row of a batch stands in its answer: the session's rule."""

    def __init__(self, grammar: AnswerGrammar, num_documents: Sequence[int]) -> None:
        self._grammar = grammar
        counts = torch.tensor(list(num_documents), dtype=torch.long, device=grammar.device)
        self._states = torch.full_like(counts, START)  # (B,)
        self._open = torch.arange(NUM_DOC_SLOTS, device=grammar.device) < counts[:, None]  # (B, S) shown, not yet cited
        self._owes_citation = (counts > 0) & grammar.must_cite

    def allowed(self, rows: Sequence[int]) -> Tensor:
        """(len(rows), V) bool: which ids may come next in each row."""
        grammar, index = self._grammar, torch.tensor(rows, device=self._grammar.device)
        states, open_slots = self._states[index], self._open[index]
        allowed = grammar.next_state[states] >= 0
        allowed[:, grammar.cite] &= open_slots.any(dim=-1)
        allowed[:, grammar.docs] &= open_slots
        allowed[:, grammar.end] &= ~((states == TEXT) & self._owes_citation[index])
        return allowed

    def advance(self, rows: Sequence[int], ids: Tensor) -> None:
        """Take note of the ids (len(rows),) that were appended to rows."""
        grammar, index = self._grammar, torch.tensor(rows, device=self._grammar.device)
        states = grammar.next_state[self._states[index], ids]
        assert bool((states >= 0).all()), f"ids {ids.tolist()} are not allowed by the answer grammar"
        self._states[index] = states
        self._open[index] &= grammar.docs != ids[:, None]


def _is_text(tokenizer: Tokenizer, id: int) -> bool:
    return id < tokenizer.vocab_size and not tokenizer.is_reserved(id)

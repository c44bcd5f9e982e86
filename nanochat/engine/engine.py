"""The engine: conversations in, grounded answers out; many rows at once, or one as a stream of text."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanochat.chat_format import Rendered, parse_answer, render
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.session import Session
from nanochat.engine.stream import AnswerDecoder, answer_text
from nanochat.errors import UserError
from nanochat.model import LanguageModel
from nanochat.tokenizer import Tokenizer

Conversation = Mapping[str, Any]


class Engine:
    """Generation for one model and its tokenizer.

    Every answer keeps the grammar of nanochat.engine.grammar, so citations always resolve to shown documents.
    must_cite=False also allows answers without a citation where documents were shown.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, must_cite: bool = True) -> None:
        assert tokenizer.vocab_size <= model.config.vocab_size, (
            f"tokenizer has {tokenizer.vocab_size} ids, model {model.config.vocab_size}"
        )
        self.model, self.tokenizer = model, tokenizer
        self._grammar = AnswerGrammar(
            tokenizer, num_ids=model.config.vocab_size, must_cite=must_cite, device=model.device
        )

    def generate_from_conversation(
        self,
        conversation: Conversation,
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> tuple[str, dict[str, Any]]:
        """The answer to a conversation's last question: its text, such as "Torvik [2]", and an info record.

        info: answer (text without markers), citations ({slot, number, id, title} each), abstained, documents (those
        shown, number n stands at n-1), dropped (documents left out or trimmed for want of room), num_prompt_tokens,
        num_tokens, stop ("end" or "length"), first_token_s, tokens_per_s (after the first token, 0 when there is none).

        Documents pay for the model's context, sequence_len less max_tokens, of which at most a quarter of the context
        is set aside. Raises UserError when the conversation does not fit even without documents.
        """
        return self.generate_batch([conversation], max_tokens, temperature=temperature, top_k=top_k, seed=seed)[0]

    def generate_batch(
        self,
        conversations: Sequence[Conversation],
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> list[tuple[str, dict[str, Any]]]:
        """generate_from_conversation for many at once, in order; batch_size rows share a forward, of similar length.

        A row's greedy answer is the one it would get alone; row i samples with the random numbers of (seed, i).
        Times in info are those of the rows that ran together.
        """
        params = SamplingParams(temperature=temperature, top_k=top_k, max_tokens=max_tokens)
        prompts = [self._prompt(conversation, max_tokens) for conversation in conversations]
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].ids))
        results: dict[int, tuple[str, dict[str, Any]]] = {}
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            run = _Run(self, [prompts[number] for number in numbers], params, seed=seed, numbers=numbers)
            for _ in run.steps():
                pass
            results.update(zip(numbers, run.results(), strict=True))
        return [results[number] for number in range(len(prompts))]

    def stream(
        self,
        conversation: Conversation,
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> "AnswerStream":
        """The answer piece by piece; joined they are the text of generate_from_conversation. Errors come at once."""
        params = SamplingParams(temperature=temperature, top_k=top_k, max_tokens=max_tokens)
        return AnswerStream(_Run(self, [self._prompt(conversation, max_tokens)], params, seed=seed, numbers=[0]))

    def _prompt(self, conversation: Conversation, max_tokens: int) -> Rendered:
        context = self.model.config.sequence_len
        budget = context - min(max_tokens, context // 4)
        prompt = render(conversation, self.tokenizer, max_tokens=budget, for_generation=True)
        if len(prompt.ids) > budget:
            raise UserError(
                f"The question is too long: {len(prompt.ids)} tokens without documents, this model reads {budget} "
                f"and keeps {context - budget} for the answer",
                hint="ask a shorter question, or start a new conversation",
            )
        return prompt


class AnswerStream:
    """An iterator over the pieces of one answer; afterwards `text` and `info` are those of generate_from_conversation.

    When the reader stops early they describe what was written so far.
    """

    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._pieces = self._decode()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def text(self) -> str:
        return self._run.results()[0][0]

    @property
    def info(self) -> dict[str, Any]:
        return self._run.results()[0][1]

    def _decode(self) -> Iterator[str]:
        decoder = AnswerDecoder(self._run.engine.tokenizer)
        for step in self._run.steps():
            for _, id in step:
                if piece := decoder.push(id):
                    yield piece
        if piece := decoder.finish():
            yield piece


class _Run:
    """Rows that are answered together, with their clock."""

    def __init__(
        self, engine: Engine, prompts: Sequence[Rendered], params: SamplingParams, *, seed: int, numbers: Sequence[int]
    ) -> None:
        self.engine, self.prompts, self.params = engine, prompts, params
        self.session = Session(engine.model, len(prompts), seed=seed, numbers=numbers)
        self.num_first = self.num_sampled = 0
        self.first_token_s = self.after_first_s = 0.0

    def steps(self) -> Iterator[list[tuple[int, int]]]:
        """The (row, id) pairs of each step, from the prompts to the last answer's end."""
        grammar = self.engine._grammar
        started = time.perf_counter()
        self.session.extend(range(len(self.prompts)), [prompt.ids for prompt in self.prompts])
        results = self.engine.tokenizer.special("results_start")
        searched = [results in prompt.ids for prompt in self.prompts]
        rule = grammar.begin([len(prompt.documents) for prompt in self.prompts], searched=searched)
        for step in self.session.steps(self.params, stop_ids=(grammar.end,), rule=rule):
            now = time.perf_counter()
            if not self.num_sampled:
                self.first_token_s, self.num_first = now - started, len(step)
            self.after_first_s = now - started - self.first_token_s
            self.num_sampled += len(step)
            yield step

    def results(self) -> list[tuple[str, dict[str, Any]]]:
        """Text and info of each row."""
        return [
            self._result(prompt, row.ids[len(prompt.ids) :])
            for prompt, row in zip(self.prompts, self.session.rows, strict=True)
        ]

    def _result(self, prompt: Rendered, ids: list[int]) -> tuple[str, dict[str, Any]]:
        answer = parse_answer(ids, self.engine.tokenizer, prompt.documents)
        documents = prompt.documents
        later = self.num_sampled - self.num_first
        info = {
            "answer": answer.text,
            "citations": [
                {"slot": slot, "number": slot + 1, "id": documents[slot]["id"], "title": documents[slot]["title"]}
                for slot in answer.citations
            ],
            "abstained": answer.abstained,
            "documents": documents,
            "dropped": prompt.dropped,
            "num_prompt_tokens": len(prompt.ids),
            "num_tokens": len(ids),
            "stop": "end" if answer.is_finished else "length",
            "first_token_s": self.first_token_s,
            "tokens_per_s": later / self.after_first_s if later else 0.0,
        }
        return answer_text(answer), info

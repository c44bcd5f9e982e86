"""The engine: conversations in, grounded answers out; many rows at once, or one as a stream of text."""

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nanochat.chat_format import ParsedAnswer, Rendered, parse_answer, render
from nanochat.engine.citing import cite, last_question, trimmed
from nanochat.engine.deciding import Decision, check_threshold
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.prefill import MIN_SHARED
from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.request import Handle, Request
from nanochat.engine.sampling import SamplingParams, is_whole, short
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.stream import AnswerDecoder, answer_text
from nanochat.errors import ConfigError, UserError
from nanochat.model import LanguageModel
from nanochat.tokenizer import Tokenizer

Conversation = Mapping[str, Any]
PREFIX_CACHE_BYTES = 256 * 2**20
SPECULATE = 8  # on a CPU, where reading nine tokens costs little more than reading one


class Engine:
    """Generation for one model and its tokenizer; methods may be called from several threads, whose rows run together.

    Every answer keeps the grammar of nanochat.engine.grammar, so citations always resolve to shown documents.
    must_cite=False also allows answers without a citation where documents were shown. answer_threshold: an answer is
    given where the model finds it at least so likely that it has one, and otherwise an abstention; see
    nanochat.engine.deciding.Decision. None takes what is likeliest.

    prefix_cache_bytes: what may be kept of prompts and answers, so that a later question over the same documents, or a
    next turn, reads only what is new; 0 keeps nothing. speculate: how many ids may be guessed from the prompt and read
    together; 0 guesses nothing, None lets the device decide. max_rows: answers written at a time. None of them changes
    an answer.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        must_cite: bool = True,
        answer_threshold: float | None = None,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
        speculate: int | None = None,
        max_rows: int = 64,
    ) -> None:
        assert tokenizer.vocab_size <= model.config.vocab_size, (
            f"tokenizer has {tokenizer.vocab_size} ids, model {model.config.vocab_size}"
        )
        if speculate is None:
            speculate = SPECULATE if model.device.type == "cpu" else 0
        for name, value, least in (("prefix_cache_bytes", prefix_cache_bytes, 0), ("speculate", speculate, 0),
                                   ("max_rows", max_rows, 1)):
            if not is_whole(value) or value < least:
                raise ConfigError(f"{name} is {short(value)}, must be a whole number from {least}",
                                  hint="leave it out for the default")
        self.model, self.tokenizer = model, tokenizer
        self.answer_threshold = check_threshold(answer_threshold)
        self._grammar = AnswerGrammar(
            tokenizer, num_ids=model.config.vocab_size, must_cite=must_cite, device=model.device
        )
        self.prefix_cache = PrefixCache(
            model, max_bytes=prefix_cache_bytes, boundary_ids=[tokenizer.special("results_end")]
        ) if prefix_cache_bytes else None
        self.scheduler = Scheduler(model, max_rows=max_rows, prefix_cache=self.prefix_cache, speculate=speculate)

    def generate_from_conversation(
        self,
        conversation: Conversation,
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        answer_threshold: float | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """The answer to a conversation's last question: its text, such as "Torvik [2]", and an info record.

        info: answer (text without markers), citations (records of nanochat.engine.citing.cite: slot, number, id, title,
        start, end, passage, match), abstained, closest (slot, number, id and title of the document that an abstention
        names as coming near, if any), answer_probability (that the model does not abstain, None before it has
        decided), documents (those shown, number n stands at n-1), dropped (documents left out or trimmed for want of
        room or slots), trimmed ({slot, number, shown_chars} of each that lost its end), num_prompt_tokens,
        cached_tokens (of the prompt, not read again), num_tokens, drafted and accepted (tokens guessed, and right),
        stop ("end", "stop" or "length"; of a stream "cancelled" once it is closed, None while it goes on),
        first_token_s (after the call), tokens_per_s (after the first token, 0 when there is none).

        answer_threshold: instead of the engine's own. stop: texts that end the answer, which is cut before the first of
        them. Documents pay for the model's context, sequence_len less max_tokens, of which at most a quarter of the
        context is set aside. Raises UserError when the conversation does not fit even without documents.
        """
        stream = self.stream(conversation, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
                             stop=stop, answer_threshold=answer_threshold)
        for _ in stream:
            pass
        return stream.text, stream.info

    def generate_batch(
        self,
        conversations: Sequence[Conversation],
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        answer_threshold: float | None = None,
        batch_size: int = 64,
    ) -> list[tuple[str, dict[str, Any]]]:
        """generate_from_conversation for many at once, in order; up to batch_size of them run at a time.

        A row's greedy answer is the one it would get alone; row i samples with the random numbers of (seed, i).
        """
        if not is_whole(batch_size) or batch_size < 1:
            raise ConfigError(f"batch_size is {short(batch_size)}, must be a whole number from 1",
                              hint="64 rows suit most machines")
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, seed=seed,
                                stop_ids=(self._grammar.end,))
        prompts = [self._prompt(conversation, max_tokens) for conversation in conversations]
        heads: dict[tuple[int, ...], int] = {}  # first ids -> longest prompt that begins with them
        for prompt in prompts:
            heads[tuple(prompt.ids[:MIN_SHARED])] = max(heads.get(tuple(prompt.ids[:MIN_SHARED]), 0), len(prompt.ids))

        def place(number: int) -> tuple[Any, ...]:
            # what begins alike is read once, what is of similar length in few forwards
            ids = prompts[number].ids
            return heads[tuple(ids[:MIN_SHARED])], ids[:MIN_SHARED], len(ids)

        waiting = deque(sorted(range(len(prompts)), key=place))
        streams: dict[int, AnswerStream] = {}
        running: list[AnswerStream] = []
        while waiting or running:
            while waiting and len(running) < batch_size:
                number = waiting.popleft()
                streams[number] = AnswerStream(
                    self, prompts[number], params, number=number, stop=stop, keep=len(prompts) == 1,
                    question=last_question(conversations[number]), threshold=answer_threshold)
                running.append(streams[number])
            self.scheduler.step()
            running = [stream for stream in running if not stream.take_in()]
        return [(streams[number].text, streams[number].info) for number in range(len(prompts))]

    def stream(
        self,
        conversation: Conversation,
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        answer_threshold: float | None = None,
    ) -> "AnswerStream":
        """The answer piece by piece; joined they are the text of generate_from_conversation. Errors come at once."""
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, seed=seed,
                                stop_ids=(self._grammar.end,))
        return AnswerStream(self, self._prompt(conversation, max_tokens), params, stop=stop,
                            question=last_question(conversation), threshold=answer_threshold)

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

    def _submit(
        self, prompt: Rendered, params: SamplingParams, *, number: int, keep: bool, threshold: float | None
    ) -> Handle:
        threshold = self.answer_threshold if threshold is None else check_threshold(threshold)
        searched = self.tokenizer.special("results_start") in prompt.ids
        return self.scheduler.submit(Request(
            ids=prompt.ids, params=params, number=number, keep=keep,
            decision=Decision(self.tokenizer.special("abstain"), threshold, self.tokenizer.special("cite")),
            rule=lambda: self._grammar.begin_row(len(prompt.documents), searched=searched),
        ))


class AnswerStream:
    """An iterator over the pieces of one answer; afterwards `text` and `info` are those of generate_from_conversation.

    When the reader stops early they describe what was read so far, and the answer is not written on: with `close`, or
    when the reader drops this object.
    """

    def __init__(
        self, engine: Engine, prompt: Rendered, params: SamplingParams, *, number: int = 0, stop: Sequence[str] = (),
        keep: bool = True, question: str = "", threshold: float | None = None,
    ) -> None:
        self._question = question
        self._tokenizer, self._prompt, self._scheduler = engine.tokenizer, prompt, engine.scheduler
        self._decoder = AnswerDecoder(engine.tokenizer, stop=stop)
        self._handle = engine._submit(prompt, params, number=number, keep=keep, threshold=threshold)
        self._ids: list[int] = []  # those read so far
        self._is_over = False
        # nothing may refer back to this object, a running generator least of all: it shall go with its last reader
        weakref.finalize(self, self._handle.cancel)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not self._is_over:
            for piece in self._arrived():
                if piece:
                    return piece
            if self._is_complete():
                self._is_over = True
                if piece := self._decoder.finish():
                    return piece
            else:
                self._scheduler.step()
        raise StopIteration

    def close(self) -> None:
        """Stop: the row is given up at the scheduler's next step; what was read so far stays."""
        self._handle.cancel()

    def take_in(self) -> bool:
        """Read what has arrived; whether the answer is complete. Raises what ended it, if something did."""
        for _ in self._arrived():
            pass
        return self._is_complete()

    @property
    def text(self) -> str:
        return answer_text(self._answer())

    @property
    def info(self) -> dict[str, Any]:
        answer, handle = self._answer(), self._handle
        seconds = handle.last_token_s - handle.first_token_s
        return {
            "answer": answer.text,
            "citations": cite(answer, self._prompt, self._tokenizer, question=self._question),
            "abstained": answer.abstained,
            "closest": [{"slot": slot, "number": slot + 1, "id": document["id"], "title": document["title"]}
                        for slot in answer.closest for document in [self._prompt.documents[slot]]],
            "answer_probability": handle.answer_probability,
            "documents": self._prompt.documents,
            "dropped": self._prompt.dropped,
            "trimmed": trimmed(self._prompt, self._tokenizer),
            "num_prompt_tokens": len(self._prompt.ids),
            "cached_tokens": handle.cached_tokens,
            "num_tokens": len(self._ids),
            "drafted": handle.drafted,
            "accepted": handle.accepted,
            "stop": self._stop(answer),
            "first_token_s": handle.first_token_s,
            "tokens_per_s": (len(handle.ids) - 1) / seconds if seconds else 0.0,
        }

    def _stop(self, answer: ParsedAnswer) -> str | None:
        """Why the answer ended, as far as it was read; None while it goes on."""
        if self._decoder.is_stopped or answer.is_finished:
            return "stop" if self._decoder.is_stopped else "end"
        if self._handle.is_done and len(self._ids) == len(self._handle.ids):
            return self._handle.stop
        return "cancelled" if self._handle.is_cancelled else None

    def _answer(self) -> ParsedAnswer:
        answer = parse_answer(self._ids, self._tokenizer, self._prompt.documents)
        if not self._decoder.is_stopped:
            return answer
        text = self._decoder.cut(answer.text)
        return replace(answer, text=text, citations=answer.citations if text else [])

    def _arrived(self) -> Iterator[str]:
        """Pieces of what has arrived and was not read."""
        while len(self._ids) < len(self._handle.ids) and not self._decoder.is_stopped:
            self._ids.append(self._handle.ids[len(self._ids)])
            piece = self._decoder.push(self._ids[-1])
            if self._decoder.is_stopped:
                self._handle.cancel()
            yield piece

    def _is_complete(self) -> bool:
        is_done = self._handle.is_done and len(self._ids) == len(self._handle.ids)
        if is_done and self._handle.error is not None:
            raise self._handle.error
        return is_done or self._decoder.is_stopped

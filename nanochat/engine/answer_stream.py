"""One answer as it is written: an iterator over pieces of text, and what the answer rests on."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nanochat.chat_format import ParsedAnswer, Rendered, parse_answer
from nanochat.engine.citing import cite, trimmed
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.second_look import Again, Marks
from nanochat.engine.stream import AnswerDecoder, answer_text

if TYPE_CHECKING:
    from nanochat.engine.engine import Engine
    from nanochat.engine.request import Handle


class AnswerStream:
    """An iterator over the pieces of one answer; afterwards `text` and `info` are those of generate_from_conversation.

    When the reader stops early they describe what was read so far, and the answer is not written on: with `close`, or
    when the reader drops this object. again: begins a second reading once the first is through; nothing of the first is
    told then.
    """

    def __init__(
        self, engine: "Engine", prompt: Rendered, params: SamplingParams, *, number: int = 0, stop: Sequence[str] = (),
        keep: bool = True, question: str = "", threshold: float | None = None,
        hops: Sequence[Mapping[str, Any]] | None = None, again: Again | None = None,
    ) -> None:
        self._question, self._hops = question, hops
        self._again = again  # until it is decided which reading counts
        self._first: Handle | None = None  # the first reading, where there is a second
        self._marks: Marks = {}
        self._tokenizer, self._prompt, self._scheduler = engine.tokenizer, prompt, engine.scheduler
        self._decoder = AnswerDecoder(engine.tokenizer, stop=stop)
        self._handle = engine.submit(prompt, params, number=number, keep=keep, threshold=threshold)
        self._ids: list[int] = []  # those read so far
        self._is_over = False
        self._is_given_up = False
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
        # the mark first: a second reading that begins meanwhile in another thread sees it, or is cancelled here
        self._is_given_up = True
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
        first = self._first or handle
        probabilities = [one.answer_probability for one in (first, handle) if one.answer_probability is not None]
        return {
            "answer": answer.text,
            "citations": cite(answer, self._prompt, self._tokenizer, question=self._question),
            "abstained": answer.abstained,
            "closest": [{"slot": slot, "number": slot + 1, "id": document["id"], "title": document["title"]}
                        for slot in answer.closest for document in [self._prompt.documents[slot]]],
            "answer_probability": min(probabilities, default=None),
            "documents": self._prompt.documents,
            "dropped": self._prompt.dropped,
            "trimmed": trimmed(self._prompt, self._tokenizer),
            "num_prompt_tokens": len(self._prompt.ids),
            "cached_tokens": first.cached_tokens,
            "num_tokens": len(self._ids),
            "drafted": handle.drafted,
            "accepted": handle.accepted,
            "looks": 1 if self._first is None else 2,
            "stop": self._stop(answer),
            **({} if self._hops is None else {"hops": self._hops}),
            "first_token_s": handle.first_token_s + (self._first.last_token_s if self._first else 0.0),
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
        if self._again is not None and self._handle.is_done and not self._is_given_up:
            self._look_again(self._again)
            self._again = None
        if self._again is not None:
            return
        while len(self._ids) < len(self._handle.ids) and not self._decoder.is_stopped:
            id = self._handle.ids[len(self._ids)]
            self._ids.append(self._marks.get(id, id))
            piece = self._decoder.push(self._ids[-1])
            if self._decoder.is_stopped:
                self._handle.cancel()
            yield piece

    def _look_again(self, again: Again) -> None:
        if self._handle.error is not None or self._handle.stop not in ("end", "length"):
            return
        if begun := again(parse_answer(self._handle.ids, self._tokenizer, self._prompt.documents)):
            self._first, (self._handle, self._marks) = self._handle, begun
            weakref.finalize(self, self._handle.cancel)
            if self._is_given_up:
                self._handle.cancel()

    def _is_complete(self) -> bool:
        # given up in its first reading, of which nothing is told
        is_untold = self._again is not None and self._is_given_up
        is_done = self._handle.is_done and (
            is_untold or self._again is None and len(self._ids) == len(self._handle.ids))
        if is_done and self._handle.error is not None:
            raise self._handle.error
        return is_done or self._decoder.is_stopped

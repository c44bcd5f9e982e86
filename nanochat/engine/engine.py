"""The engine: conversations in, grounded answers out; many rows at once, or one as a stream of text."""

import functools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.chat_format import Rendered, render
from nanochat.engine.answer_stream import AnswerStream
from nanochat.engine.citing import last_question
from nanochat.engine.deciding import Decision, check_threshold
from nanochat.engine.grammar import AnswerGrammar, AnswerRule
from nanochat.engine.hop_rules import HopGrammar
from nanochat.engine.hops import HopConfig, OnHop, Search, follow_hops
from nanochat.engine.prefill import MIN_SHARED
from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.quoting import Quotables, QuoteRule
from nanochat.engine.request import Handle, Request
from nanochat.engine.sampling import SamplingParams, is_whole, short
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.second_look import Again, make_again
from nanochat.errors import ConfigError, UnsupportedModel, UserError
from nanochat.model import LanguageModel
from nanochat.tokenizer import Tokenizer

Conversation = Mapping[str, Any]
PREFIX_CACHE_BYTES = 256 * 2**20
SPECULATE = 8  # on a CPU, where reading nine tokens costs little more than reading one


class Engine:
    """Generation for one model and its tokenizer; methods may be called from several threads, whose rows run together.

    Every answer keeps the grammar of nanochat.engine.grammar, so citations always resolve to shown documents.
    must_cite=False also allows answers without a citation where documents were shown. extractive=True holds the text of
    an answer to the words of the documents it cites, see nanochat.engine.quoting. answer_threshold: an answer is
    given where the model finds it at least so likely that it has one, and otherwise an abstention.
    citation_threshold: behind a first document further ones are cited where the model finds that at least so likely;
    answers over several hops, whose evidence is in several documents, go without. None takes what is likeliest; see
    nanochat.engine.deciding.Decision. second_look=True: what an answer cites is read again, alone, and that answer
    counts, see nanochat.engine.second_look; an answer then comes as late as two.

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
        extractive: bool = False,
        answer_threshold: float | None = None,
        citation_threshold: float | None = None,
        second_look: bool = False,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
        speculate: int | None = None,
        max_rows: int = 64,
    ) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UnsupportedModel(
                f"The model has {model.config.vocab_size} ids and its tokenizer {tokenizer.vocab_size}: some of its "
                "words or marks, such as query_start, are unknown to it",
                hint="load both from one checkpoint; a published model gets the marks on import: --source hf:FOLDER")
        if speculate is None:
            speculate = SPECULATE if model.device.type == "cpu" else 0
        for name, value, least in (("prefix_cache_bytes", prefix_cache_bytes, 0), ("speculate", speculate, 0),
                                   ("max_rows", max_rows, 1)):
            if not is_whole(value) or value < least:
                raise ConfigError(f"{name} is {short(value)}, must be a whole number from {least}",
                                  hint="leave it out for the default")
        self.model, self.tokenizer = model, tokenizer
        self.answer_threshold, self.extractive = check_threshold(answer_threshold), extractive
        self.citation_threshold = check_threshold(citation_threshold, "citation_threshold")
        self.second_look = second_look
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
        search: Search | None = None,
        max_hops: int = 3,
        top_k_per_hop: int = 3,
    ) -> tuple[str, dict[str, Any]]:
        """The answer to a conversation's last question: its text, such as "Torvik [2]", and an info record.

        info: answer (text without markers), citations (records of nanochat.engine.citing.cite: slot, number, id, title,
        start, end, passage, match), abstained, closest (slot, number, id and title of the document that an abstention
        names as coming near, if any), answer_probability (that the model does not abstain, None before it has
        decided; the lower one of two readings), looks (1, or 2 with a second look), documents (those shown, number n
        stands at n-1), dropped (documents left out or trimmed for want of room or slots), trimmed ({slot, number,
        shown_chars} of each that lost its end), num_prompt_tokens,
        cached_tokens (of the prompt, not read again), num_tokens, drafted and accepted (tokens guessed, and right),
        stop ("end", "stop" or "length"; of a stream "cancelled" once it is closed, None while it goes on),
        first_token_s (after the call), tokens_per_s (after the first token, 0 when there is none).

        answer_threshold: instead of the engine's own. stop: texts that end the answer, which is cut before the first of
        them. Documents pay for the model's context, sequence_len less max_tokens, of which at most a quarter of the
        context is set aside.

        search: the model may ask again in its own words, see nanochat.engine.hops. What the last turn was shown counts
        as the first of at most max_hops; info gets `hops`, each {"hop", "query", "documents"}. Raises UserError when
        the conversation does not fit even without documents, SearchFailed when the search does not answer.
        """
        stream = self.stream(conversation, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
                             stop=stop, answer_threshold=answer_threshold, search=search, max_hops=max_hops,
                             top_k_per_hop=top_k_per_hop)
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
                    question=last_question(conversations[number]), threshold=answer_threshold,
                    again=self._again(conversations[number], prompts[number], params, number, max_tokens,
                                      answer_threshold))
                running.append(streams[number])
            self.scheduler.step(reads_all=self.scheduler.has_only(len(running)))
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
        search: Search | None = None,
        max_hops: int = 3,
        top_k_per_hop: int = 3,
        on_hop: OnHop | None = None,
    ) -> AnswerStream:
        """The answer piece by piece; joined they are the text of generate_from_conversation. Errors come at once.

        With a search the hops are made before this returns; on_hop(0, hop) is called for each as it comes.
        """
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, seed=seed,
                                stop_ids=(self._grammar.end,))
        if search is None:
            prompt = self._prompt(conversation, max_tokens)
            return AnswerStream(self, prompt, params, stop=stop, question=last_question(conversation),
                                threshold=answer_threshold,
                                again=self._again(conversation, prompt, params, 0, max_tokens, answer_threshold))
        trail = follow_hops(self, conversation, search, HopConfig(max_hops=max_hops, top_k=top_k_per_hop), params,
                            on_hop=on_hop)
        return AnswerStream(self, trail.prompt(), params, stop=stop, question=trail.question,
                            threshold=answer_threshold, hops=trail.hops)

    @functools.cached_property
    def hop_grammar(self) -> HopGrammar:
        """What the model may do between hops."""
        return HopGrammar(self._grammar, self.tokenizer)

    def budget(self, max_tokens: int) -> int:
        """Tokens that a prompt may have beside an answer of max_tokens, which a quarter of the context is kept for."""
        context = self.model.config.sequence_len
        return context - min(max_tokens, context // 4)

    def submit(
        self, prompt: Rendered, params: SamplingParams, *, number: int, keep: bool, threshold: float | None,
        has_logprobs: bool = False,
    ) -> Handle:
        """Queue an answer to a prompt that ends with assistant_start."""
        is_over_hops = self.tokenizer.special("query_start") in prompt.ids
        further = None if is_over_hops else self.citation_threshold
        threshold = self.answer_threshold if threshold is None else check_threshold(threshold)
        searched = self.tokenizer.special("results_start") in prompt.ids
        return self.scheduler.submit(Request(
            ids=prompt.ids, params=params, number=number, keep=keep, has_logprobs=has_logprobs,
            decision=Decision(self.tokenizer.special("abstain"), threshold, self.tokenizer.special("cite"), further),
            rule=lambda: self._rule(prompt, searched),
        ))

    def _again(
        self, conversation: Conversation, prompt: Rendered, params: SamplingParams, number: int, max_tokens: int,
        threshold: float | None,
    ) -> Again | None:
        if not self.second_look:
            return None
        return make_again(
            conversation, prompt, self.tokenizer, lambda narrow: self._prompt(narrow, max_tokens),
            lambda closer: self.submit(closer, params, number=number, keep=False, threshold=threshold))

    def _rule(self, prompt: Rendered, searched: bool) -> AnswerRule | QuoteRule:
        rule = self._grammar.begin_row(len(prompt.documents), searched=searched)
        return QuoteRule(rule, self._grammar, Quotables(prompt.ids, self.tokenizer)) if self.extractive else rule

    def _prompt(self, conversation: Conversation, max_tokens: int) -> Rendered:
        budget = self.budget(max_tokens)
        prompt = render(conversation, self.tokenizer, max_tokens=budget, for_generation=True)
        if len(prompt.ids) > budget:
            raise UserError(
                f"The question is too long: {len(prompt.ids)} tokens without documents, this model reads {budget} "
                f"and keeps {self.model.config.sequence_len - budget} for the answer",
                hint="ask a shorter question, or start a new conversation",
            )
        return prompt

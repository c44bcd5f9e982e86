"""Hops: the model reads what was found, asks again in its own words or answers; many questions side by side.

A question is always searched for first. Behind every block of results the model chooses between `query_start` and
`assistant_start`; nothing else is possible (nanochat.engine.hop_rules). After max_hops searches, or where the context
is full, the answer begins without being asked for.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanochat.chat_format import parse_answer, text_ids
from nanochat.engine.deciding import Decision
from nanochat.engine.hop_rules import walk
from nanochat.engine.hop_search import Search, search_once
from nanochat.engine.hop_trail import NUM_QUERY_MARKS, Trail
from nanochat.engine.request import Handle, Request
from nanochat.engine.sampling import SamplingParams, is_whole, short
from nanochat.errors import ConfigError

if TYPE_CHECKING:
    from nanochat.engine.engine import Engine

# (number of the row, hop): called when a hop's documents are there
OnHop = Callable[[int, Mapping[str, Any]], object]


_HINTS = {
    "max_hops": "1 searches once, with the question itself; 3 suits most questions",
    "top_k": "3 new documents per search suit most questions",
    "max_query_tokens": "32 tokens hold most queries",
}


@dataclass(frozen=True, kw_only=True)
class HopConfig:
    max_hops: int = 3  # searches, the first included, which asks the question itself
    top_k: int = 3  # new documents per search
    max_query_tokens: int = 32  # longest query that the model may write

    def __post_init__(self) -> None:
        for name in ("max_hops", "top_k", "max_query_tokens"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name} is {short(value)}, must be a whole number from 1", hint=_HINTS[name])


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A question, its hops and its answer, with every token that was read and written."""

    question: str
    hops: list[dict[str, Any]]  # {"hop", "query", "documents"}, documents as they were shown; see Trail
    documents: list[dict[str, Any]]  # those of all hops, in slot order
    ids: list[int]  # (T,)
    mask: list[int]  # (T,) 1 where the model sampled
    logprobs: list[float]  # (T,) of sampled ids under what they were drawn from, 0.0 elsewhere
    answer: str  # text without marks
    citations: list[int]  # slots
    abstained: bool
    closest: list[int]  # slots that an abstention names
    stop: str  # "end", or "length" when the answer was cut
    is_valid: bool  # the answer is complete, and no search repeated another
    is_forced: bool  # nobody decided that the search ends: hops, slots or room were used up
    num_repeated: int  # searches for what had been asked before; they found nothing
    answer_probability: float | None  # as the engine gives it
    search_probabilities: list[float]  # at every decision
    dropped: int  # documents dropped or trimmed for want of room or slots
    message: dict[str, Any]  # the answer as a message of a conversation

    def conversation(self) -> dict[str, Any]:
        """The episode as a conversation; rendered it gives back ids and mask."""
        search = {"role": "retrieval", "multi_hop": True, "hops": self.hops}
        return {"messages": [search, {"role": "user", "content": self.question}, self.message]}


def run_episodes(
    engine: "Engine",
    questions: Sequence[str],
    search: Search,
    config: HopConfig | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    group_size: int = 1,
    on_hop: OnHop | None = None,
    max_tokens: int = 64,
    answer_threshold: float | None = None,
) -> list[Episode]:
    """group_size episodes of every question; number g of question i is number i * group_size + g of the list.

    All run side by side; what waits for documents is searched for in one call per round, each query once. An episode is
    the same alone and in company: row i samples with the random numbers of (seed, i). on_hop gets that number and the
    hop. max_tokens: of an answer. Raises SearchFailed when the search does, and leaves the scheduler clean.
    """
    config = config or HopConfig()
    if not is_whole(group_size) or group_size < 1:
        raise ConfigError(f"group_size is {short(group_size)}, must be a whole number from 1",
                          hint="8 episodes per question suit training, 1 everything else")
    asked = [question for question in questions for _ in range(group_size)]
    users = [{"role": "user", "content": question} for question in asked]
    trails = [new_trail(engine, {"messages": [user]}, config, max_tokens, number=number)
              for number, user in enumerate(users)]
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=max_tokens,
                            stop_ids=(engine.tokenizer.special("assistant_end"),))
    answers: dict[int, Handle] = {}

    def answer(trail: Trail) -> Handle:
        answers[trail.number] = engine.submit(trail.prompt(), params, number=trail.number, keep=False,
                                              threshold=answer_threshold, has_logprobs=True)
        return answers[trail.number]

    with _cancelling(engine) as handles:
        follow(engine, trails, search, config, params, on_hop=on_hop, handles=handles, when_ready=answer)
        _wait(engine, handles)
    return [_episode(engine, trail, answers[trail.number]) for trail in trails]


def follow_hops(
    engine: "Engine", conversation: Mapping[str, Any], search: Search, config: HopConfig, params: SamplingParams, *,
    on_hop: OnHop | None = None,
) -> Trail:
    """The last turn of one conversation, up to where its answer begins. params: how its answer will be sampled."""
    trail = new_trail(engine, conversation, config, params.max_tokens)
    with _cancelling(engine) as handles:
        follow(engine, [trail], search, config, params, on_hop=on_hop, handles=handles)
    return trail


def walk_masks(
    engine: "Engine", ids: Sequence[int], mask: Sequence[int], config: HopConfig | None = None
) -> Iterator[tuple[int, Tensor]]:
    """nanochat.engine.hop_rules.walk with the grammar of an engine."""
    return walk(engine.hop_grammar, ids, mask, (config or HopConfig()).max_query_tokens)


def new_trail(
    engine: "Engine", conversation: Mapping[str, Any], config: HopConfig, max_tokens: int, *, number: int = 0
) -> Trail:
    return Trail(conversation, engine.tokenizer, budget=engine.budget(max_tokens), max_hops=config.max_hops,
                 max_query_tokens=config.max_query_tokens, number=number)


def follow(
    engine: "Engine", trails: Sequence[Trail], search: Search, config: HopConfig, params: SamplingParams,
    *, handles: list[Handle], on_hop: OnHop | None = None, when_ready: Callable[[Trail], Handle] | None = None,
) -> None:
    """Rounds of searching and deciding until every trail is ready to answer; it may begin at once, in `when_ready`.

    What is submitted goes into `handles`.
    """
    first = [trail for trail in trails if not trail.hops]
    found = search_once(search, [trail.question for trail in first], config.top_k, hop=1)
    for trail in first:
        trail.add_first(trail.new_documents(found[trail.question], config.top_k))
        _tell(on_hop, trail)
    waiting = list(trails)
    while waiting:
        decisions: list[tuple[Trail, Handle]] = []
        for trail in waiting:
            if trail.may_search:
                handles.append(_decide(engine, trail, config, params))
                decisions.append((trail, handles[-1]))
            else:
                trail.is_forced = True
                _ready(trail, when_ready, handles)
        _wait(engine, [handle for _, handle in decisions])
        asked: list[tuple[Trail, Handle, str]] = []
        for trail, handle in decisions:
            trail.search_probabilities.append(handle.answer_probability)
            if handle.ids[-1] == engine.hop_grammar.query_end:
                asked.append((trail, handle, engine.tokenizer.decode(handle.ids).strip()))
            else:
                trail.logprobs += handle.logprobs
                _ready(trail, when_ready, handles)
        _search_round(search, asked, config, on_hop)
        waiting = [trail for trail, _, _ in asked]


def _search_round(
    search: Search, asked: Sequence[tuple[Trail, Handle, str]], config: HopConfig, on_hop: OnHop | None
) -> None:
    """One round of queries, in one call."""
    new = [(trail, query) for trail, _, query in asked if not trail.has_asked(query)]
    hop = max((len(trail.hops) + 1 for trail, _ in new), default=0)
    # as many more as may have been shown. Of episodes this is a matter of the hop alone, and not of the company
    depth = max([config.top_k * hop, *(config.top_k + len(trail.documents) for trail, _ in new)])
    found = search_once(search, [query for _, query in new], depth, hop=hop)
    for trail, handle, query in asked:
        hits = () if trail.has_asked(query) else found[query]
        trail.add(handle.ids[1:-1], trail.new_documents(hits, config.top_k), handle.logprobs)
        _tell(on_hop, trail)


def _decide(engine: "Engine", trail: Trail, config: HopConfig, params: SamplingParams) -> Handle:
    grammar = engine.hop_grammar
    params = replace(params, max_tokens=config.max_query_tokens + NUM_QUERY_MARKS,
                     stop_ids=(grammar.query_end, grammar.assistant_start))
    # the pieces of an episode draw from different chances, the answer from that of an answer without hops
    number = trail.number + (len(trail.hops) << 40)
    return engine.scheduler.submit(Request(
        ids=trail.ids, params=params, number=number, has_logprobs=True,
        rule=lambda: grammar.begin_row(config.max_query_tokens, len(trail.documents)),
        decision=Decision(grammar.assistant_start)))


def _ready(trail: Trail, when_ready: Callable[[Trail], Handle] | None, handles: list[Handle]) -> None:
    if when_ready is not None:
        handles.append(when_ready(trail))


def _tell(on_hop: OnHop | None, trail: Trail) -> None:
    if on_hop is not None:
        on_hop(trail.number, trail.hops[-1])


def _wait(engine: "Engine", handles: Sequence[Handle]) -> None:
    """Step until all are done; raises what ended one of them. Of several nobody watches one."""
    for handle in handles:
        while not handle.is_done:
            num_mine = sum(not one.is_done for one in handles)
            engine.scheduler.step(reads_all=num_mine > 1 and engine.scheduler.has_only(num_mine))
        if handle.error is not None:
            raise handle.error


@contextlib.contextmanager
def _cancelling(engine: "Engine") -> Iterator[list[Handle]]:
    """What was submitted goes when something goes wrong."""
    handles: list[Handle] = []
    try:
        yield handles
    finally:
        left = [handle for handle in handles if not handle.is_done]
        for handle in left:
            handle.cancel()
        if left:
            engine.scheduler.step()


def _episode(engine: "Engine", trail: Trail, handle: Handle) -> Episode:
    tokenizer, prompt = engine.tokenizer, trail.prompt()
    read = parse_answer(handle.ids, tokenizer, trail.documents)
    message: dict[str, Any] = {"role": "assistant", "content": read.text, "citations": read.citations}
    if read.abstained:
        message = {"role": "assistant", "content": "", "abstain": True, "closest": read.closest}
    if trail.is_forced:
        message["forced"] = True
    slots = read.closest if read.abstained else read.citations
    told = [id for slot in slots for id in (tokenizer.special("cite"), tokenizer.doc(slot))]
    told += [tokenizer.special("abstain")] if read.abstained else text_ids(read.text, tokenizer)
    if handle.ids != [*told, tokenizer.special("assistant_end")]:
        message["ids"] = list(handle.ids)
    # a decision to answer has a log-probability already
    logprobs = [*trail.logprobs, *([0.0] if trail.is_forced else []), *handle.logprobs]
    return Episode(
        question=trail.question, hops=trail.hops,
        documents=[document for hop in trail.hops for document in hop["documents"]], ids=[*prompt.ids, *handle.ids],
        mask=[*prompt.mask, *([1] * len(handle.ids))], logprobs=logprobs, answer=read.text, citations=read.citations,
        abstained=read.abstained, closest=read.closest, stop=handle.stop,
        is_valid=handle.stop == "end" and not trail.num_repeated, is_forced=trail.is_forced,
        num_repeated=trail.num_repeated, answer_probability=handle.answer_probability,
        search_probabilities=trail.search_probabilities, dropped=trail.dropped, message=message)

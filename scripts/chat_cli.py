"""Ask questions about a knowledge base; every answer names its sources, or says that the documents do not answer it.

    python -m scripts.chat_cli --knowledge_base data/my_kb
    python -m scripts.chat_cli --knowledge_base data/my_kb --question "What is the return policy?"
    python -m scripts.chat_cli --knowledge_base data/my_kb --question "What is the return policy?" --json
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.common import print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError, KnowledgeBaseNotFound, UserError

if TYPE_CHECKING:
    from nanochat.engine import Engine
    from nanochat.rag.answer import Answer
    from nanochat.retrieval import RetrievalManager


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    source: str = "rag"               # checkpoint to load: base, mid, rag or refrag
    tag: str = ""                     # name of the checkpoint; empty: the most recent one
    step: int = -1                    # step of the checkpoint; -1: the last one
    retriever_type: str = ""          # empty: the knowledge base's own type
    rerank: str = ""                  # cross-encoder folder that orders the best results anew
    top_k: int = 5                    # documents shown to the model for each question
    max_hops: int = 1                 # searches per question; above 1 the model may ask again in its own words
    top_k_per_hop: int = 3            # new documents per search, with --max_hops above 1
    max_tokens: int = 128             # longest answer, tokens
    temperature: float = 0.0          # 0 is greedy: the same question gets the same answer
    seed: int = 0                     # for temperatures above 0
    answer_threshold: float | None = None  # abstain below this probability of an answer, 0 to 1; default: as calibrated
    citation_threshold: float = 0.9   # cite further documents from this probability on, 0 to 1; 0: as the model would
    second_look: bool = True          # read what an answer cites once more, alone; that answer counts
    spelling: bool = True             # read misspelt words of a question as what was meant, and say so
    extractive: bool | None = None    # answers only in words of a cited document; default: if it was taught only such
    device: str = "auto"              # auto, cpu, cuda, cuda:1 or mps
    question: str | None = None       # answer this one question and exit
    json: bool = False                # print that answer as one JSON object, with its passages and probability


CONFIG = ChatConfig

HELP = """  /kb          the knowledge base: type, number of documents, folder
  /kb PATH     switch to another knowledge base
  /sources     full text of the documents shown for the last answer
  /top_k N     documents shown to the model for each question
  /help        this list
  quit         leave (also exit, /quit, Ctrl-D)"""
LEAVE = ("quit", "exit", "/quit", "/exit")


class Chat:
    """The state of a conversation at the terminal: engine, knowledge base, last answer."""

    def __init__(
        self, engine: "Engine", manager: "RetrievalManager", config: ChatConfig, *, meta: dict[str, Any],
        card: dict[str, Any] | None,
    ) -> None:
        self.engine, self.manager, self.config = engine, manager, config
        self.meta, self.card = meta, card  # of the checkpoint
        self.top_k = config.top_k if config.max_hops == 1 else config.top_k_per_hop  # documents per search
        self.last: Answer | None = None

    def ask(self, question: str, *, prefix: str = "") -> None:
        """Write the answer while it is made, then its sources."""
        from nanochat.rag.answer import answer_question
        from nanochat.rag.citations import printable, source_lines
        from nanochat.rag.hops import answer_over_hops, hop_line

        config, is_started = self.config, False

        def write(piece: str) -> None:
            nonlocal is_started
            print(printable(piece) if is_started else prefix + printable(piece), end="", flush=True)
            is_started = True

        try:
            ways = {"max_tokens": config.max_tokens, "temperature": config.temperature, "seed": config.seed,
                    "spelling": config.spelling, "write": None if config.json else write}
            if config.max_hops > 1:
                self.last = answer_over_hops(
                    self.engine, self.manager, question, max_hops=config.max_hops, top_k_per_hop=self.top_k,
                    on_hop=None if config.json else lambda hop: print(hop_line(hop), flush=True), **ways)
            else:
                self.last = answer_question(self.engine, self.manager, question, top_k=self.top_k, **ways)
            if config.json:
                print(json.dumps(record_of(self.last, self.engine.answer_threshold)))
                return
            if not is_started:
                write("(no answer)")
            if self.last.info.get("stop") == "length":
                write(f" ... (cut at {config.max_tokens} tokens)")
        finally:
            if is_started:
                print(flush=True)
        for line in source_lines(self.last):
            print(line)

    def command(self, line: str) -> None:
        """Run a line that starts with a slash."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/help":
            print(HELP)
        elif name == "/kb":
            self.switch(argument)
        elif name == "/sources":
            self.show_sources()
        elif name == "/top_k":
            if not (argument.isdecimal() and int(argument) > 0):
                raise ConfigError(f"/top_k needs a number from 1, not {argument[:40]!r}", hint="/top_k 5")
            self.top_k = int(argument)
            print(f"  {self.top_k} documents per {'question' if self.config.max_hops == 1 else 'search'}")
        else:
            raise ConfigError(f"Unknown command: {name[:40]}", hint="/help lists the commands")

    def switch(self, path: str) -> None:
        """Open another knowledge base, if a path is given, and say which one is in use."""
        from nanochat.rag.citations import printable
        from nanochat.retrieval import RetrievalManager

        if path:
            self.manager = RetrievalManager(self.config.retriever_type or None, path, rerank=self.config.rerank)
            self.last = None
        knowledge_base = self.manager.knowledge_base
        count = len(knowledge_base.documents)
        print(printable(f"  {count} documents, {self.manager.retriever_type}, {knowledge_base.path}"))
        self.tell_if_stale()

    def tell_if_stale(self) -> None:
        """Say so when the checkpoint's card was made with another knowledge base or other weights."""
        from nanochat.evaluation.card import measuring_again, stale_reason

        fingerprint = self.manager.knowledge_base.fingerprint
        if self.card and (reason := stale_reason(self.card, fingerprint=fingerprint, meta=self.meta)):
            note(f"the card of this checkpoint is stale, {reason}; measure again: "
                 + measuring_again(self.meta, knowledge_base=self.manager.knowledge_base.path))

    def show_sources(self) -> None:
        """The documents of the last answer in full."""
        from nanochat.rag.citations import printable, source_name

        documents = self.last.documents if self.last else []
        if not documents:
            print("  no documents were shown")
        elif (probability := self.last.info["answer_probability"]) is not None:
            threshold = self.engine.answer_threshold
            print(f"  probability of an answer {probability:.3f}" + (
                "" if threshold is None else f", threshold {threshold:.3f}"))
        for number, document in enumerate(documents, start=1):
            print(f"\n  {source_name(document, number)}\n{printable(document['content'])}")


def read_lines() -> Iterator[str]:
    """What is typed, or piped in and echoed, until the end or a word that leaves."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):
            # gives input() its line editing and history
            import readline  # noqa: F401
    while True:
        try:
            line = input("\nYou: ").strip()
        except EOFError:
            print()
            return
        if not is_terminal:
            print(line)
        if line.lower() in LEAVE:
            return
        if line:
            yield line


def report(error: UserError) -> None:
    """One error in two lines; the loop goes on."""
    print(f"Error: {error.problem}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A remark beside the conversation."""
    print(f"Note: {text}", file=sys.stderr, flush=True)


def record_of(answer: "Answer", threshold: float | None) -> dict[str, Any]:
    """An answer as --json prints it."""
    from nanochat.rag.citations import notes
    from nanochat.rag.hops import hop_records

    info = answer.info
    return {
        "question": answer.question, "read_as": answer.read_as, "text": answer.text, "answer": info.get("answer", ""),
        "abstained": answer.abstained, "answer_probability": info.get("answer_probability"),
        "answer_threshold": threshold, "citations": answer.citations, "closest": info.get("closest", []),
        "hops": hop_records(answer),
        "documents": [{"number": number, **document} for number, document in enumerate(answer.documents, start=1)],
        "notes": notes(answer), "stop": info.get("stop"),
    }


def check(config: ChatConfig) -> None:
    """Refuse settings that cannot work, before anything slow happens."""
    if not config.knowledge_base:
        raise KnowledgeBaseNotFound(
            "Knowledge base not found: --knowledge_base was not given",
            hint="build it: python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb",
        )
    if config.question is not None and not config.question.strip():
        raise ConfigError("--question is empty", hint='--question "What is the return policy?"')
    if config.json and config.question is None:
        raise ConfigError("--json prints one answer and needs a question", hint='--question "What is the ..." --json')
    if config.answer_threshold is not None and not 0 <= config.answer_threshold <= 1:
        raise ConfigError(f"--answer_threshold must lie between 0 and 1, not {config.answer_threshold}",
                          hint="0 always answers, 1 never; leave it out for the calibrated one")
    if not 0 <= config.citation_threshold <= 1:
        raise ConfigError(f"--citation_threshold must lie between 0 and 1, not {config.citation_threshold}",
                          hint="0.9 cites a second document only where the model is sure of it")
    for name in ("top_k", "max_tokens", "max_hops", "top_k_per_hop"):
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, not {getattr(config, name)}", hint=f"--{name} 5")


def open_chat(config: ChatConfig) -> Chat:
    """Open the knowledge base first, because it fails faster, then load the model."""
    from nanochat.retrieval import RetrievalManager

    manager = RetrievalManager(config.retriever_type or None, config.knowledge_base, rerank=config.rerank)
    # imported here so that --help does not wait for torch
    from nanochat.checkpoint_manager import load_model, require_mamba
    from nanochat.device import pick_device, set_cpu_threads
    from nanochat.engine import Engine
    from nanochat.evaluation.card import read_card, threshold_of
    from nanochat.rag.quoting import is_extractive

    device = pick_device(config.device)
    set_cpu_threads()
    step = config.step if config.step >= 0 else None
    model, tokenizer, meta = load_model(config.source, device=device, phase="eval", tag=config.tag or None, step=step)
    require_mamba(model.config, meta["source"], meta["tag"])
    card = read_card(meta["path"])
    threshold = config.answer_threshold
    # a threshold belongs to the weights that it was chosen with
    if threshold is None and origins(config)["answer_threshold"] == "default":
        threshold, reason = threshold_of(card, meta, second_look=config.second_look)
        if reason:
            note(reason)
    if config.max_hops > 1 and meta["source"] != "refrag":
        note(f"checkpoint {meta['source']}/{meta['tag']} has not learned to search again; --source refrag has: "
             "python -m scripts.refrag_finetune")
    engine = Engine(model, tokenizer, answer_threshold=threshold, citation_threshold=config.citation_threshold,
                    second_look=config.second_look, extractive=is_extractive(config.extractive, meta))
    return Chat(engine, manager, config, meta=meta, card=card)


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.chat_cli", description=__doc__ or "")
    check(config)
    if config.temperature == 0 and origins(config)["seed"] not in ("default", "code"):
        print0("--seed has no effect at --temperature 0: the likeliest answer is always the same")
    if config.max_hops > 1 and config.second_look and origins(config)["second_look"] not in ("default", "code"):
        note(f"--second_look has no effect with --max_hops {config.max_hops}: such answers are read once")
    unused, instead = ("top_k", "--top_k_per_hop") if config.max_hops > 1 else ("top_k_per_hop", "--max_hops 3")
    if origins(config)[unused] not in ("default", "code"):
        note(f"--{unused} has no effect with --max_hops {config.max_hops}: {instead} is what you want")
    for stream in (sys.stdin, sys.stdout):
        # a stray byte or a narrow console must not end the conversation
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    chat = open_chat(config)
    if config.question is not None:
        chat.tell_if_stale()
        chat.ask(config.question)
        return 0
    print("RAG Chat (type 'quit' to exit, '/help' for commands)")
    chat.switch("")
    for line in read_lines():
        try:
            if line.startswith("/"):
                chat.command(line)
            else:
                chat.ask(line, prefix="Assistant: ")
        except UserError as error:
            report(error)
        except KeyboardInterrupt:
            print("(stopped)")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

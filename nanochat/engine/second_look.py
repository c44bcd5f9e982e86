"""A second look: what an answer cites is read once more, alone, and what is answered then counts.

Among several documents a small model takes a neighbour's value for the one asked for, answers from a document that
comes near, or says what a stranger's sentence in another document told it. With nothing but the cited documents before
it, it does so less. Measured: docs/answers.md, "A second look".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanochat.chat_format import ParsedAnswer, Rendered
from nanochat.engine.request import Handle
from nanochat.tokenizer import Tokenizer

Marks = Mapping[int, int]  # id of a document's mark in the second prompt -> in the first
Again = Callable[[ParsedAnswer], tuple[Handle, Marks] | None]  # None: the first reading counts


def is_single(conversation: Mapping[str, Any]) -> bool:
    """Whether a conversation is one question about one plain search."""
    roles = [message["role"] for message in conversation["messages"] if message["role"] != "system"]
    # the reference answer of a stored conversation is not part of what is asked
    if roles and roles[-1] == "assistant":
        del roles[-1]
    return sorted(roles) == ["retrieval", "user"] and not any(
        message.get("multi_hop") for message in conversation["messages"])


def narrowed(conversation: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The conversation with these documents for what was found, without an answer to it."""
    return {**conversation, "messages": [
        {**message, "documents": list(documents)} if message["role"] == "retrieval" else message
        for message in conversation["messages"] if message["role"] != "assistant"]}


def make_again(
    conversation: Mapping[str, Any], prompt: Rendered, tokenizer: Tokenizer,
    render: Callable[[Mapping[str, Any]], Rendered], submit: Callable[[Rendered], Handle],
) -> Again | None:
    """What begins the second reading of an answer to `prompt`; None where there is none: other conversations."""
    if not is_single(conversation):
        return None

    def again(answer: ParsedAnswer) -> tuple[Handle, Marks] | None:
        slots = sorted(set(answer.citations))
        if answer.abstained or not slots or len(slots) == len(prompt.documents) or set(slots) & set(prompt.trimmed):
            return None
        closer = render(narrowed(conversation, [prompt.documents[slot] for slot in slots]))
        if len(closer.documents) != len(slots):
            return None
        return submit(closer), {tokenizer.doc(new): tokenizer.doc(slot) for new, slot in enumerate(slots)}

    return again

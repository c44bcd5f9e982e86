"""The grammar of conversations: which roles may follow which, and what each message must carry."""

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.errors import ConversationError

ROLES = ("system", "retrieval", "user", "assistant")

# state -> role -> next state; a turn is [retrieval] user assistant, or user [retrieval] assistant
_NEXT = {
    "start": {"system": "first turn", "retrieval": "searched", "user": "asked"},
    "first turn": {"retrieval": "searched", "user": "asked"},
    "searched": {"user": "asked and searched"},
    "asked": {"retrieval": "asked and searched", "assistant": "answered"},
    "asked and searched": {"assistant": "answered"},
    "answered": {"retrieval": "searched", "user": "asked"},
}
_MAY_END = ("asked", "asked and searched", "answered")


def check_conversation(conversation: Mapping[str, Any]) -> None:
    """Raise ConversationError unless the conversation is legal.

    Legal is an optional system message, then turns of user and assistant, each with at most one retrieval message
    before or after its user message. The last assistant message may be missing: that is a prompt. `citations` are
    positions, from 0, among all documents shown so far; so is `closest`, which an abstention may have. A hop may
    have `citations` of documents shown before it and be `"supervised": false` (a query not to be learnt), an answer
    behind hops may be `"forced": true` (nobody decided that the search ends); both may carry `ids`, what a model wrote
    for them. Other keys, `reference` among them, are left alone.
    """
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not _is_list(messages):
        raise ConversationError(
            "A conversation needs a list of 'messages'", hint='{"messages": [{"role": "user", "content": "..."}]}'
        )
    state = "start"
    num_documents = 0
    for i, message in enumerate(messages, start=1):
        state = _next_state(state, message, where=f"message {i}")
        role = message["role"]
        if role == "retrieval":
            num_documents += _check_retrieval(message, num_documents, where=f"message {i} (retrieval)")
        else:
            _check_content(message, where=f"message {i} ({role})")
        if role == "assistant":
            _check_citations(message, num_documents, where=f"message {i} (assistant)")
    if state not in _MAY_END:
        last = f"after message {len(messages)} ({messages[-1]['role']})" if messages else "before its first message"
        raise ConversationError(f"The conversation ends {last}: expected {_expected(state)}", hint="ask something")


def result_groups(message: Mapping[str, Any]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """(query, documents) of each hop of a retrieval message; a single-hop message has one group and the query ""."""
    if message.get("multi_hop"):
        return [(hop["query"], hop["documents"]) for hop in message["hops"]]
    return [("", message["documents"])]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _expected(state: str) -> str:
    return " or ".join(_NEXT[state])


def _next_state(state: str, message: Any, *, where: str) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise ConversationError(
            f"{where} has the role {role!r}: expected {_expected(state)}", hint=f"roles: {', '.join(ROLES)}"
        )
    if role not in _NEXT[state]:
        raise ConversationError(
            f"{where} has the role '{role}': expected {_expected(state)}",
            hint="the order is system once, then retrieval (optional), user, assistant in every turn",
        )
    return _NEXT[state][role]


def _check_content(message: Mapping[str, Any], *, where: str) -> None:
    content = message.get("content", "" if message.get("abstain") else None)
    if not isinstance(content, str):
        raise ConversationError(f"{where}: 'content' is {content!r:.60}, expected text", hint='"content": "..."')
    if message["role"] == "user" and not content.strip():
        raise ConversationError(f"{where}: 'content' is empty", hint="a user message asks something")
    if message["role"] == "assistant":
        _check_bool(message, "forced", where=where)
        _check_ids(message, where=where)
    # an answer that was cut before its text has ids only
    if message["role"] == "assistant" and not content.strip() and not (message.get("abstain") or message.get("ids")):
        raise ConversationError(f"{where}: 'content' is empty", hint='give an answer, or "abstain": true')


def _check_citations(message: Mapping[str, Any], num_documents: int, *, where: str) -> None:
    _check_bool(message, "abstain", where=where)
    for key in ("citations", "closest"):
        _check_slots(message, key, num_documents, where=where)
    if message.get("citations") and message.get("abstain"):
        raise ConversationError(f"{where} abstains and cites: expected one of the two",
                                hint="remove 'citations'; 'closest' names a document that comes near")
    if message.get("closest") and not message.get("abstain"):
        raise ConversationError(f"{where} has 'closest' and an answer: it goes with an abstention",
                                hint="name the documents that answer in 'citations'")


def _check_retrieval(message: Mapping[str, Any], num_documents: int, *, where: str) -> int:
    """Check documents and hops, behind num_documents of earlier turns; return how many documents there are."""
    if not message.get("multi_hop"):
        return _check_documents(message.get("documents"), where=where)
    hops = message.get("hops")
    if not _is_list(hops) or not hops:
        raise ConversationError(f"{where}: 'hops' is missing or empty", hint='a multi_hop message needs "hops": [...]')
    found = 0
    for number, hop in enumerate(hops, start=1):
        found += _check_hop(hop, number, num_documents + found, where=f"{where}, hop {number}")
    return found


def _check_hop(hop: Any, number: int, num_documents: int, *, where: str) -> int:
    if not isinstance(hop, Mapping):
        raise ConversationError(f"{where} is {type(hop).__name__}, expected query and documents")
    if hop.get("hop", number) != number:
        raise ConversationError(f"{where}: 'hop' is {hop['hop']!r}, expected {number}", hint="hops count 1, 2, 3, ...")
    if not isinstance(hop.get("query"), str) or not hop["query"].strip():
        raise ConversationError(f"{where}: 'query' is missing or empty", hint="hop 1 may repeat the question")
    _check_bool(hop, "supervised", where=where)
    _check_slots(hop, "citations", num_documents, where=where)
    _check_ids(hop, where=where)
    return _check_documents(hop.get("documents"), where=where)


def _check_slots(record: Mapping[str, Any], key: str, num_documents: int, *, where: str) -> None:
    slots = record.get(key, ())
    if not _is_list(slots) or any(type(i) is not int for i in slots):
        raise ConversationError(f"{where}: '{key}' is {slots!r}, expected a list of whole numbers")
    for i in slots:
        if not 0 <= i < num_documents:
            raise ConversationError(
                f"{where}: citation {i} points at no document, {num_documents} were shown",
                hint="citations count from 0 over all documents shown so far in the conversation",
            )


def _check_bool(record: Mapping[str, Any], key: str, *, where: str) -> None:
    if not isinstance(record.get(key, False), bool):
        raise ConversationError(f"{where}: '{key}' is {record[key]!r:.60}, expected true or false")


def _check_ids(record: Mapping[str, Any], *, where: str) -> None:
    ids = record.get("ids", ())
    if not _is_list(ids) or any(type(id) is not int for id in ids):
        raise ConversationError(f"{where}: 'ids' is {ids!r:.60}, expected a list of token ids",
                                hint="leave 'ids' out: the text is encoded anew")


def _check_documents(documents: Any, *, where: str) -> int:
    if not _is_list(documents):
        raise ConversationError(f"{where}: 'documents' is missing, expected a list", hint="nothing found is []")
    for i, document in enumerate(documents):
        if not isinstance(document, Mapping):
            raise ConversationError(f"{where}: document {i} is {type(document).__name__}, expected an object")
        for name in ("id", "title", "content"):
            if not isinstance(document.get(name), str):
                raise ConversationError(
                    f"{where}: '{name}' of document {i} is missing or not text",
                    hint="each document needs id, title and content",
                )
    return len(documents)

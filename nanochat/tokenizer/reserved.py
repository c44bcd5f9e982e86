"""The reserved names: marks of the chat format that are single ids and that no text can spell."""

NUM_DOC_SLOTS = 32

MARKS = (
    *("bos", "system_start", "system_end", "user_start", "user_end", "assistant_start", "assistant_end"),
    *("results_start", "results_end", "query_start", "query_end", "cite", "abstain"),
    *("note_start", "note_end", "expand"),
)
# spare ids: a later mark takes one of them and every stored checkpoint keeps its numbering
RESERVED_NAMES = (
    *MARKS,
    *(f"doc_{i}" for i in range(NUM_DOC_SLOTS)),
    *(f"spare_{i}" for i in range(64 - len(MARKS) - NUM_DOC_SLOTS)),
)
NUM_RESERVED = len(RESERVED_NAMES)
# an imported vocabulary that has a token of its own under one of our names gets ours under another prefix
PREFIXES = ("", "rag_", "rag2_")


def reserved_tokens(prefix: str = "") -> tuple[str, ...]:
    """How the reserved ids are written in a tokenizer.json, in the order of RESERVED_NAMES."""
    return tuple(f"<|{prefix}{name}|>" for name in RESERVED_NAMES)


def without_lone_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: pairs of surrogates joined, as JSON means them, lone ones as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

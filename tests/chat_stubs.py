"""A small tokenizer and shorthand for conversations: what the tests of the chat format share."""

from hypothesis import strategies as st

from nanochat.tokenizer import NUM_RESERVED, RESERVED_NAMES, Tokenizer

WORDS = "the Torvik bridge opened in 1987 and Ilse Marrow built it near Vessary for 412 coins".split()
TOKENIZER = Tokenizer.train([" " + " ".join(WORDS)] * 3, 500)


def doc(name, content="It opened in 1987.", title="Torvik"):
    return {"id": name, "title": title, "content": content}


LONG = doc("long", " ".join(WORDS))


def user(text="When?"):
    return {"role": "user", "content": text}


def answer(text="1987", **fields):
    return {"role": "assistant", "content": text, **fields}


def retrieval(*documents):
    return {"role": "retrieval", "documents": list(documents)}


def show(ids):
    """Ids as readable text, reserved ids as <name>."""
    parts = []
    for i in ids:
        parts.append(f"<{RESERVED_NAMES[i]}>" if i < NUM_RESERVED else TOKENIZER.decode([i]))
    return "".join(parts)


def supervised(rendered):
    return show(i for i, m in zip(rendered.ids, rendered.mask, strict=True) if m)


word = st.sampled_from([*WORDS, "<|bos|>", "[DOC_1]", "\u00e9", "\n", "\u65e5\u672c"])
text = st.lists(word, max_size=30).map(" ".join)
said = text.filter(str.strip)
found = st.lists(st.builds(doc, st.just("x"), text, text), max_size=4)


@st.composite
def conversations(draw):
    """Legal conversations of one to three turns, with an answer in every turn."""
    messages, shown = [], 0
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        turn = [user(draw(said))]
        form = draw(st.sampled_from(["closed", "one", "hops"]))
        if form == "one":
            turn.insert(draw(st.integers(0, 1)), retrieval(*draw(found)))
            shown += len([m for m in turn if m["role"] == "retrieval"][0]["documents"])
        elif form == "hops":
            hops = [{"hop": i, "query": draw(said), "documents": draw(found)} for i in (1, 2)]
            turn.insert(draw(st.integers(0, 1)), {"role": "retrieval", "multi_hop": True, "hops": hops})
            shown += sum(len(hop["documents"]) for hop in hops)
        if draw(st.booleans()):
            near = {"closest": [draw(st.integers(0, shown - 1))]} if shown and draw(st.booleans()) else {}
            turn.append(answer(draw(text), abstain=True, **near))
        else:
            cited = draw(st.lists(st.integers(0, shown - 1), max_size=3)) if shown else []
            turn.append(answer(draw(said), citations=cited))
        messages += turn
    return {"messages": messages}


def answers_of(rendered):
    """The rendered answers, each from after its assistant_start to its assistant_end."""
    start, end = TOKENIZER.special("assistant_start"), TOKENIZER.special("assistant_end")
    starts = [i + 1 for i, token in enumerate(rendered.ids) if token == start]
    return [rendered.ids[i : rendered.ids.index(end, i) + 1] for i in starts]

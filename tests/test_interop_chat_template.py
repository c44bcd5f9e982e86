"""The chat template: for every legal conversation transformers gives the ids of our own renderer."""

import pytest
from chat_stubs import answer, doc, retrieval, user
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_tokenizer_stubs import CORPUS, KINDS, any_text, granite_like, write_source
from tokenizers import AddedToken

from nanochat.chat_format import render
from nanochat.interop.chat_template import BREAK, CHAT_TEMPLATE, CUT, chat_template
from nanochat.interop.tokenizer import load_tokenizer, write_tokenizer
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

AutoTokenizer = pytest.importorskip("transformers").AutoTokenizer

OWN, TAKEN = "own", "taken"
every_kind = pytest.mark.parametrize("kind", [OWN, TAKEN, *KINDS])

edges = st.sampled_from(["", " ", "\n", "  ", "\u3000", "\x1c"])
text = st.builds(lambda left, middle, right: left + middle + right, edges, any_text, edges)
said = text.filter(str.strip)
found = st.lists(st.builds(doc, st.just("x"), text, text), max_size=4)


@st.composite
def conversations(draw):
    """Legal conversations of one to three turns; the last answer may be missing."""
    messages, shown, turns = [], 0, draw(st.integers(1, 3))
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for number in range(turns):
        turn = [user(draw(said))]
        form = draw(st.sampled_from(["closed", "one", "hops"]))
        if form == "one":
            documents = draw(found)
            turn.insert(draw(st.integers(0, 1)), retrieval(*documents))
            shown += len(documents)
        elif form == "hops":
            query = st.one_of(said, st.just(f" {turn[0]['content']} "))
            hops = [{"hop": i, "query": draw(query), "documents": draw(found)} for i in (1, 2)]
            turn.insert(draw(st.integers(0, 1)), {"role": "retrieval", "multi_hop": True, "hops": hops})
            shown += sum(len(hop["documents"]) for hop in hops)
        if number < turns - 1 or draw(st.booleans()):
            if draw(st.booleans()):
                more = [{}, {"content": "No."}, *([{"closest": [0, shown - 1, 0]}] if shown else [])]
                turn.append({"role": "assistant", "abstain": True, **draw(st.sampled_from(more))})
            else:
                cited = draw(st.lists(st.integers(0, shown - 1), max_size=4)) if shown else []
                turn.append(answer(draw(said), citations=cited))
        messages += turn
    return messages


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """kind -> our tokenizer, and what transformers loads of its export."""
    root, made = tmp_path_factory.mktemp("templates"), {}
    for kind in (OWN, TAKEN, *KINDS):
        if kind == OWN:
            tokenizer = Tokenizer.train(CORPUS, 700)
        elif kind == TAKEN:  # a vocabulary with a token of its own under one of our names
            source = write_source(root / f"source_{kind}", "granite")
            backend = granite_like()
            backend.add_special_tokens(["<|bos|>", "<|doc_3|>"])
            backend.save(str(source / "tokenizer.json"))
            tokenizer = load_tokenizer(source)
        else:
            tokenizer = load_tokenizer(write_source(root / f"source_{kind}", kind))
        write_tokenizer(tokenizer, root / kind, model_max_length=512)
        made[kind] = (tokenizer, AutoTokenizer.from_pretrained(root / kind))
    return made


def rendered_by(theirs, messages, for_generation=False, **fields):
    return theirs.apply_chat_template(messages, add_generation_prompt=for_generation, **fields)["input_ids"]


def without_lookalikes(value):
    """Without characters of which a normalizer makes a control token: the template sees texts before that."""
    if isinstance(value, str):
        return value.replace("＜", "(")
    if isinstance(value, dict):
        return {key: without_lookalikes(item) for key, item in value.items()}
    return [without_lookalikes(item) for item in value] if isinstance(value, list) else value


@every_kind
@given(messages=conversations(), for_generation=st.booleans())
@settings(deadline=None, max_examples=40)
def test_ids_are_those_of_our_renderer(pairs, kind, messages, for_generation):
    tokenizer, theirs = pairs[kind]
    if kind == "unigram":
        messages = without_lookalikes(messages)
    expected = render({"messages": messages}, tokenizer, for_generation=for_generation).ids
    assert rendered_by(theirs, messages, for_generation) == expected, theirs.convert_ids_to_tokens(expected)


@every_kind
@pytest.mark.parametrize("key", ["content", "text"])
@pytest.mark.parametrize("count", [0, 1, 3, NUM_DOC_SLOTS])
def test_the_argument_documents_is_for_the_last_question(pairs, kind, key, count):
    tokenizer, theirs = pairs[kind]
    history = [user("Torvik?"), answer("A bridge.")]
    documents = [doc(str(i), f"It opened in {1900 + i}. <|doc_{i}|> </s>", f"Bridge {i}") for i in range(count)]
    expected = render({"messages": [*history, retrieval(*documents), user()]}, tokenizer, for_generation=True).ids
    given_ = [{"title": d["title"], key: d["content"]} for d in documents]
    assert rendered_by(theirs, [*history, user()], True, documents=given_) == expected
    # what a message carries goes first
    assert rendered_by(theirs, [*history, retrieval(*documents), user()], True, documents=[{"text": "no"}]) == expected


def test_a_document_may_lack_its_title(pairs):
    tokenizer, theirs = pairs[OWN]
    expected = render({"messages": [retrieval(doc("a", "Opened.", title=" ")), user()]}, tokenizer).ids
    assert rendered_by(theirs, [user()], documents=[{"text": "Opened."}]) == expected


@every_kind
def test_more_documents_than_slots_are_refused(pairs, kind):
    many = [retrieval(*[doc("x")] * 20), user(), answer(), retrieval(*[doc("y")] * 13), user()]
    with pytest.raises(Exception, match="at most 32 documents"):
        rendered_by(pairs[kind][1], many)


def test_an_unknown_role_and_a_late_system_message_are_refused(pairs):
    with pytest.raises(Exception, match="role tool is not one of"):
        rendered_by(pairs[OWN][1], [user(), {"role": "tool", "content": "x"}])
    with pytest.raises(Exception, match="system message comes first"):
        rendered_by(pairs[OWN][1], [user(), answer(), {"role": "system", "content": "x"}])


@pytest.mark.parametrize("number", [3, 40])
def test_overlapping_and_many_control_tokens_stay_out_of_reach(tmp_path, number):
    source, backend = write_source(tmp_path / "source", "granite"), granite_like()
    own = ["[[", '["', "<s>", "</s>", "\\n>", *(f"[M{i}]" for i in range(number))]
    backend.add_special_tokens(own)
    # found behind the normalizer, and with the spaces around it, if left as published
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=True, special=True)])
    backend.save(str(source / "tokenizer.json"))
    tokenizer = load_tokenizer(source)
    write_tokenizer(tokenizer, tmp_path / "out", model_max_length=512)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    documents = retrieval(doc("a", '[[[[ ["" <s></s> \\n> <<s>', "[M2]" * 3))
    messages = [documents, user("a <mask> b"), answer("<mask>"), user("[[[ [M1] [M39] <|bos|>")]
    assert rendered_by(theirs, messages) == render({"messages": messages}, tokenizer).ids
    assert chat_template(tokenizer).count("| replace(") <= 24


def test_the_template_is_simple_jinja_and_ours_has_no_foreign_tokens(pairs):
    assert chat_template(pairs[OWN][0]) == CHAT_TEMPLATE
    assert CHAT_TEMPLATE.count(BREAK) == 1 and CUT not in CHAT_TEMPLATE and CUT in chat_template(pairs["unigram"][0])
    # what llama.cpp's interpreter knows, and no more
    assert "{% include" not in CHAT_TEMPLATE and "loop.cycle" not in CHAT_TEMPLATE and "@" not in CHAT_TEMPLATE

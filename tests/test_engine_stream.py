"""Text while it arrives: whole characters, no quadratic work, pieces that join to the whole."""

import random
import time

import pytest
from engine_stubs import TEXTS, make_tokenizer

from nanochat.chat_format import parse_answer
from nanochat.engine.stream import ABSTAIN_TEXT, AnswerDecoder, TextDecoder, TextStop, answer_text, first_stop

TOKENIZER = make_tokenizer()
REPLACEMENT = "\ufffd"


def pieces_of(ids: list[int]) -> list[str]:
    decoder = TextDecoder(TOKENIZER)
    return [*(decoder.push(id) for id in ids), decoder.finish()]


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467 "


@pytest.mark.parametrize("text", [*TEXTS, "", "   ", " a  b \n c \n", FAMILY, "\ufffd\ufffd x"])
def test_pieces_join_to_the_text_and_never_split_a_character(text):
    pieces = pieces_of(TOKENIZER.encode(text))
    assert "".join(pieces) == text.strip()
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_random_bytes_join_to_what_decode_gives():
    generator = random.Random(0)
    words = [id for id in range(TOKENIZER.vocab_size) if not TOKENIZER.is_reserved(id)]
    # ids that decode to no whole character make up half of the stream
    broken = [id for id in words if REPLACEMENT in TOKENIZER.decode([id])]
    for _ in range(300):
        ids = [generator.choice(broken if generator.random() < 0.5 else words) for _ in range(generator.randrange(40))]
        assert "".join(pieces_of(ids)) == TOKENIZER.decode(ids).strip()


def test_no_more_than_a_few_ids_are_decoded_again():
    class CountingTokenizer:
        num_ids = 0

        def decode(self, ids):
            CountingTokenizer.num_ids += len(ids)
            return TOKENIZER.decode(ids)

    broken = [id for id in range(TOKENIZER.vocab_size) if TOKENIZER.decode([id]) == REPLACEMENT]
    for ids in (broken * 10, TOKENIZER.encode(TEXTS[2] * 20)):
        CountingTokenizer.num_ids = 0
        decoder = TextDecoder(CountingTokenizer())
        for id in ids:
            decoder.push(id)
        assert CountingTokenizer.num_ids <= 20 * len(ids), f"{CountingTokenizer.num_ids} ids decoded for {len(ids)}"


def test_two_thousand_ids_of_odd_text_take_four_times_as_long_as_five_hundred():
    """Processor time of a whole answer, byte by byte, with stop texts: linear in its length."""
    words = [id for id in range(TOKENIZER.vocab_size) if not TOKENIZER.is_reserved(id)]
    rng = random.Random(4)
    ids = [rng.choice(words[:256]) for _ in range(2000)]

    def seconds(count: int) -> float:
        times = []
        for _ in range(5):
            decoder, start = AnswerDecoder(TOKENIZER, stop=["never there", "\ufffe"]), time.process_time()
            text = "".join([*(decoder.push(id) for id in ids[:count]), decoder.finish()])
            times.append(time.process_time() - start)
        assert text == TOKENIZER.decode(ids[:count]).strip()
        return min(times)

    short, long = seconds(500), seconds(2000)
    assert long < 8 * short, f"{long * 1e3:.1f} ms for 2,000 ids, {short * 1e3:.1f} ms for 500"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_stop_is_found_wherever_pieces_are_cut(size):
    rng = random.Random(size)
    for _ in range(300):
        text = "".join(rng.choice("ab \n") for _ in range(rng.randrange(30))).strip()
        stops = ["".join(rng.choice("ab ") for _ in range(rng.randrange(4))) + rng.choice("ab") for _ in range(2)]
        stop = TextStop(stops)
        pieces = [stop.push(text[start : start + size]) for start in range(0, len(text), size)]
        cut = first_stop(text, stops)
        assert "".join([*pieces, stop.finish()]) == (text if cut < 0 else text[:cut].rstrip()), (text, stops)
        assert stop.is_hit == (cut >= 0)


def mark(name: str) -> int:
    return TOKENIZER.special(name)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([mark("abstain"), mark("assistant_end")], ABSTAIN_TEXT),
        ([mark("cite"), TOKENIZER.doc(1), *TOKENIZER.encode(" Mira"), mark("assistant_end")], "Mira [2]"),
        ([mark("cite"), TOKENIZER.doc(2), mark("cite"), TOKENIZER.doc(0), *TOKENIZER.encode(" 1931 ")], "1931 [3][1]"),
        ([mark("cite"), TOKENIZER.doc(0), *TOKENIZER.encode(" caf\u65e5")[:-1]], f"caf{REPLACEMENT} [1]"),
        ([mark("cite"), TOKENIZER.doc(0), *TOKENIZER.encode(" ")], ""),
        ([mark("cite"), TOKENIZER.doc(0)], ""),
        ([mark("cite")], ""),
        ([*TOKENIZER.encode(" caf\u00e9 "), mark("assistant_end")], "caf\u00e9"),
        ([mark("assistant_end")], ""),
    ],
)
def test_answers_read_the_same_piecewise_and_whole(ids, expected):
    decoder = AnswerDecoder(TOKENIZER)
    assert "".join([*(decoder.push(id) for id in ids), decoder.finish()]) == expected
    documents = [{"id": f"d{number}", "title": "", "content": ""} for number in range(3)]
    assert answer_text(parse_answer(ids, TOKENIZER, documents)) == expected

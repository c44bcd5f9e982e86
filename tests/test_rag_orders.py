"""Orders drawn for practice: many, whole, and none of those that evaluations give."""

import random
import re

from nanochat.evaluation.suite.changing import INJECTIONS
from nanochat.rag.orders import draw_order

VALUE = "Ann Lee"
RNG = random.Random(0)
DRAWN = [draw_order(VALUE, RNG) for _ in range(40_000)]


def test_no_part_is_left_open_and_none_is_empty():
    for text in DRAWN:
        assert text.strip() and not re.search(r"[{}]|  ", text), text
        assert text.startswith(("<", "[", "#")) or text[0].isupper() or text[0].isdigit(), text


def test_one_seed_draws_the_same_and_many_draw_thousands():
    assert draw_order(VALUE, random.Random(5)) == draw_order(VALUE, random.Random(5))
    assert len(set(DRAWN)) > 15_000


def test_all_kinds_are_drawn_in_equal_parts():
    drawn = DRAWN[:10_000]
    plain = [text for text in drawn if VALUE not in text and "<|" not in text]
    remarks = sum(bool(re.match(r"(The|One) [a-z ]+ (was|is|has|needs|may|comes) ", text)) for text in plain)
    assert .3 < sum(VALUE in text for text in drawn) / len(drawn) < .5
    assert .2 < sum("<|" in text for text in drawn) / len(drawn) < .25
    assert .22 < remarks / len(drawn) < .28 and len(plain) - remarks > .22 * len(drawn)


def test_evaluations_keep_wordings_of_their_own():
    asked = {order.format(V=VALUE).lower() for orders in INJECTIONS.values() for order in orders}
    assert not asked & {text.lower() for text in DRAWN}
    for order in asked:
        assert not any(order in text.lower() for text in DRAWN), order

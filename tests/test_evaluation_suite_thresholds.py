"""What a model must reach: the file, its bounds, and numbers held against them."""

import json
import re

import pytest

from nanochat.errors import UserError
from nanochat.evaluation.statistics import Estimate
from nanochat.evaluation.suite.thresholds import DEFAULT, Threshold, Verdict, judge_numbers, read_thresholds


def test_a_bound_is_printed_as_it_is_written():
    assert Threshold(number="n", at_most=0.005).bound == "<= 0.005"
    assert Threshold(number="n", at_least=0.9).bound == ">= 0.9"


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high, num=9)


@pytest.mark.parametrize(("line", "found", "outcome", "is_clear"), [
    ({"at_least": 0.9}, estimate(0.95, 0.91, 0.98), "pass", True),
    ({"at_least": 0.9}, estimate(0.91, 0.85, 0.95), "pass", False),
    ({"at_least": 0.9}, estimate(0.9, 0.9, 0.9), "pass", True),
    ({"at_least": 0.9}, estimate(0.5, 0.4, 0.6), "fail", True),
    ({"at_most": 0.05}, estimate(0.03, 0.0, 0.07), "pass", False),
    ({"at_most": 0.05}, estimate(0.06, 0.055, 0.07), "fail", True),
    ({"at_least": 1.0}, estimate(1.0, 0.99, 1.0), "pass", True),
    ({"at_least": 0.9}, None, "not measured", False),
])
def test_verdicts(line, found, outcome, is_clear):
    verdict = Verdict(threshold=Threshold(number="n", **line), estimate=found)
    assert (verdict.outcome, verdict.is_clear) == (outcome, is_clear)


def test_the_thresholds_are_a_file_with_a_hash(tmp_path):
    own = read_thresholds()
    assert len(own.lines) >= 12 and len(own.sha256) == 64 and own.path == DEFAULT.name
    mine = tmp_path / "mine.json"
    lines = [{"number": "yours.lift", "at_least": 0}]
    mine.write_text(json.dumps({"schema": "nanochat-rag-thresholds", "lines": lines}))
    found = read_thresholds(mine)
    assert found.sha256 != own.sha256
    assert [one.outcome for one in judge_numbers(found, {"yours.lift": estimate(0.1, 0, 0.2)})] == ["pass"]


@pytest.mark.parametrize(("text", "words"), [
    (None, "Thresholds not found"), ("{", "cannot be read as JSON"), ("[]", 'it needs "schema"'),
    ('{"schema": "nanochat-rag-thresholds", "lines": [{"at_least": 1}]}', 'line 1: "number" is missing'),
    ('{"schema": "nanochat-rag-thresholds", "lines": [{"number": "a"}]}', "line 1: one of"),
    ('{"schema": "nanochat-rag-thresholds", "lines": [{"number": "a", "at_least": true}]}', "line 1: one of"),
    ('{"schema": "nanochat-rag-thresholds", "lines": [{"number": "a", "at_least": NaN}]}', "line 1: one of"),
    ('{"schema": "nanochat-rag-thresholds", "lines": [{"number": "a", "at_least": 1, "at_most": 2}]}',
     "line 1: one of"),
])
def test_bad_thresholds_are_refused_with_a_sentence(tmp_path, text, words):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        read_thresholds(path)

"""Filters on metadata: "date>=2024-01-01" in text or {"date": {">=": "2024-01-01"}} in Python, and the rows they keep.

A document passes when all conditions hold. A condition holds when one of its values does for one value of the
document: a list contains, a scalar is. `!=` is the opposite of `=`, so it also holds where the key is absent; nothing
else does.

Numbers compare as numbers. Text is equal to the same text only; `<` and `>` compare it as numbers where both sides are
numbers, else letter by letter, which is right for ISO dates. `~=` compares with a pattern of * and ?.
"""

import difflib
import fnmatch
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from nanochat.errors import ConfigError
from nanochat.retrieval.document import Document

if TYPE_CHECKING:
    import numpy as np

    from nanochat.retrieval.table import Table

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
OPERATORS = ("=", "!=", *_ORDERS, "~=")
_TEXT_FORM = re.compile(r"([^=!<>~]+)(==|!=|<=|>=|~=|=|<|>)(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_HINT = "write it like source=handbook, date>=2024-01-01, tags=a|b, lang!=de or topic~=ship*"

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Condition:
    """One condition on one key. Equal conditions are equal and hash alike: a cache may use them as a key."""

    key: str
    operator: str  # one of OPERATORS
    values: tuple[str, ...]  # as text; one of them is enough

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{'|'.join(self.values)}"

    def accepts(self, found: Sequence[Scalar]) -> bool:
        """Whether the values that a document has of this key (none where it is absent) meet the condition."""
        if self.operator == "!=":
            return not any(_equal(value, wanted) for value in found for wanted in self.values)
        compare = {"=": _equal, "~=": _like}.get(self.operator) or _ordered(_ORDERS[self.operator])
        return any(compare(value, wanted) for value in found for wanted in self.values)


Filter = str | Condition | Sequence[str | Condition] | Mapping[str, Any]


def parse_filters(filters: Filter | None) -> tuple[Condition, ...]:
    """The conditions of a filter in any form: one text, several, a mapping of keys, or conditions already parsed.

    In text, a|b means a or b, and double quotes keep a value as it is: title="a|b". In a mapping, a list means any of
    its elements, and a mapping of operators several conditions. Raises ConfigError for what is none of these.
    """
    if filters is None:
        return ()
    if isinstance(filters, str | Condition):
        filters = [filters]
    if isinstance(filters, Mapping):
        return tuple(condition for key, wanted in filters.items() for condition in _of_mapping(key, wanted))
    if not isinstance(filters, Sequence):
        raise ConfigError(f"Filter {filters!r} is neither text nor a mapping", hint=_HINT)
    return tuple(item if isinstance(item, Condition) else _of_text(item) for item in filters)


def rows_matching(table: "Table", filters: Filter | None) -> "np.ndarray":
    """bool (num_rows,): the rows of the documents that pass, deleted ones included.

    Raises ConfigError for a key that no document has, which would else find nothing without saying why.
    """
    import numpy as np

    mask = np.ones(table.num_rows, bool)
    for condition in parse_filters(filters):
        _check_key(condition, table.fields.keys)
        mask &= table.fields.matching(condition.key, condition.accepts)
    return mask


def passes(document: Document, filters: Filter | None) -> bool:
    """Whether one whole document passes: what `rows_matching` means, without a table."""
    from nanochat.retrieval.table.fields import field_values

    values = dict(field_values(document))
    return all(condition.accepts(values.get(condition.key, [])) for condition in parse_filters(filters))


def _of_text(text: Any) -> Condition:
    found = _TEXT_FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None or not found[1].strip():
        raise ConfigError(f"Filter {text!r} is not a key, an operator and a value", hint=_HINT)
    key, sign, value = (part.strip() for part in found.groups())
    if len(value) >= 2 and value[0] == value[-1] == '"':
        values = (value[1:-1],)
    else:
        values = tuple(part.strip() for part in value.split("|"))
    if "" in values and value != '""':
        raise ConfigError(f"Filter {text!r} has an empty value", hint=f'{_HINT}; for empty text: {key}=""')
    return Condition(key, "=" if sign == "==" else sign, values)


def _of_mapping(key: Any, wanted: Any) -> list[Condition]:
    if not isinstance(key, str):
        raise ConfigError(f"Filter key {key!r} is not text", hint=_HINT)
    if not isinstance(wanted, Mapping):
        wanted = {"=": wanted}
    conditions = []
    for sign, value in wanted.items():
        if sign not in (*OPERATORS, "=="):
            raise ConfigError(f"Filter on {key!r} has no operator {sign!r}", hint=f"use one of {' '.join(OPERATORS)}")
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values:
            raise ConfigError(f"Filter on {key!r} has an empty list, which nothing can match", hint="leave it out")
        texts = tuple(_text_of(item, key) for item in values)
        conditions.append(Condition(key, "=" if sign == "==" else sign, texts))
    return conditions


def _text_of(value: Any, key: str) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, date):
        return value.isoformat()
    raise ConfigError(f"Filter on {key!r} compares with {value!r}, which is no text, number or date", hint=_HINT)


def _check_key(condition: Condition, keys: Sequence[str]) -> None:
    if condition.key in keys:
        return
    problem = f"Filter on {condition.key!r}: no document has it"
    if not keys:
        raise ConfigError(f"{problem}, or any other metadata", hint="leave the filter out")
    known = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
    near = difflib.get_close_matches(condition.key, keys, n=1)
    raise ConfigError(
        f"{problem}; there are: {known}", hint=f"did you mean {near[0]!r}?" if near else "choose one of these"
    )


def _number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


@functools.lru_cache(maxsize=256)
def _wanted_number(text: str) -> int | float | None:
    """The number of a condition's value, asked for once per value of a document."""
    return _number(text)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(value: Scalar, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted.lower() == ("true" if value else "false")
    if _is_number(value):
        return value == _wanted_number(wanted)
    return value == wanted


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Scalar, str], bool]:
    def holds(value: Scalar, wanted: str) -> bool:
        limit = _wanted_number(wanted)
        if isinstance(value, bool):
            return False
        if not isinstance(value, str):
            return limit is not None and compare(value, limit)
        number = None if limit is None else _number(value)
        return compare(value, wanted) if number is None else compare(number, limit)

    return holds


def _like(value: Scalar, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value if isinstance(value, str) else _text_of(value, ""), pattern)

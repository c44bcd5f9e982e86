"""Typed reading of a published config.json: every complaint names the file, the field and its value."""

import math
from collections.abc import Mapping
from typing import Any

from nanochat.errors import CheckpointError, UnsupportedModel

WHAT_LOADS = "dense GraniteMoeHybrid, Bamba and Mamba2 checkpoints load, e.g. hf:ibm-granite/granite-4.0-h-350m"
MOST = 2**31 - 1  # a larger size is no size


class Fields:
    """The fields of one record; a missing field, or null, takes the default, and is an error without one."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self.record, self.where = record, where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.record.get(name) is not None

    def whole(self, name: str, default: int | None = None, *, least: int = 1, most: int = MOST) -> int:
        """A whole number, at least `least` and at most `most`."""
        value = self._get(name, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            is_large = type(value) is int and value > most
            raise self.damaged(name, f"a whole number from {least}" + (f" to {most}" if is_large else ""))
        return value

    def number(self, name: str, default: float, *, above: float = -math.inf) -> float:
        """A finite number, larger than `above`."""
        value = self._get(name, default)
        if not is_number(value) or not above < value < math.inf:
            raise self.damaged(name, "a number" if above == -math.inf else f"a number above {above:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self.damaged(name, "true or false")
        return value

    def words(self, name: str) -> list[str]:
        """A list of strings; empty when missing."""
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.damaged(name, "a list of words")
        return value

    def limits(self, name: str) -> tuple[float, float]:
        """A pair (least, most), most may be infinite; (0, inf) when missing.

        transformers writes infinity as {"__float__": "Infinity"}, older versions as the bare word Infinity.
        """
        value = self._get(name, [0.0, math.inf])
        if isinstance(value, list):
            value = [math.inf if part == {"__float__": "Infinity"} else part for part in value]
        is_pair = isinstance(value, list) and list(map(is_number, value)) == [True, True]
        if not is_pair or not 0 <= value[0] < value[1]:
            raise self.damaged(name, "two numbers, the smaller one first")
        return float(value[0]), float(value[1])

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object; empty when missing."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self.damaged(name, "an object")
        return value

    def damaged(self, name: str, expected: str) -> CheckpointError:
        """The error of a field with a value that no version writes."""
        return CheckpointError(f"{self.where}: {name} is {short(self.record.get(name))}, expected {expected}",
                               hint="download the folder again")

    def refuse(self, name: str, why: str) -> UnsupportedModel:
        """The error of a field with a value that the native model has no counterpart for."""
        return UnsupportedModel(f"{self.where}: {name} is {short(self.record.get(name))}: {why}", hint=WHAT_LOADS)

    def _get(self, name: str, default: Any) -> Any:
        value = self.record.get(name)
        return default if value is None else value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; infinity is one."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Columns of metadata for filters: every key's distinct values, and which document has which."""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.retrieval.document import Document
from nanochat.retrieval.table.arrays import HEADER_BYTES, read_array, read_file, write_array
from nanochat.retrieval.table.cutting import reader_headings, reader_pages
from nanochat.retrieval.table.records import PartRecord

if TYPE_CHECKING:
    from nanochat.retrieval.table.reading import Part

# a value of more bytes is not repeated in fields.json: filters read it from its document
_MAX_VALUE_BYTES = 512
_LONG = -1
_to_json = json.JSONEncoder(ensure_ascii=False).encode

Scalar = str | int | float | bool


def scalars(value: Any) -> list[Scalar]:
    """What a filter compares of a metadata value: the value, the elements of a list; nothing of an object or null."""
    values = value if isinstance(value, list | tuple) else [value]
    return [item for item in values if isinstance(item, str | int | float | bool)]


def field_values(document: Document) -> Iterator[tuple[str, list[Scalar]]]:
    """(key, values) of everything that filters can compare: the source and the metadata."""
    if document.source:
        yield "source", [document.source]
    hidden = {"source"}
    hidden |= {"headings"} if reader_headings(document.metadata) is not None else set()
    hidden |= {"pages"} if reader_pages(document.metadata) is not None else set()
    for key, value in document.metadata.items():
        if key not in hidden and (values := scalars(value)):
            yield key, values


class FieldsWriter:
    """Collects the columns of a part that is being written."""

    def __init__(self) -> None:
        # key -> (value as JSON -> its number, documents, number of the value of each of them)
        self._columns: dict[str, tuple[dict[str, int], array, array]] = {}

    def add(self, index: int, document: Document) -> None:
        """Note the values of a document."""
        for key, values in field_values(document):
            numbers, documents, codes = self._columns.setdefault(key, ({}, array("i"), array("i")))
            text = _to_json(values[0] if len(values) == 1 else values)
            documents.append(index)
            codes.append(_LONG if len(text) > _MAX_VALUE_BYTES else numbers.setdefault(text, len(numbers)))

    def add_part(self, first: int, fields: "PartFields") -> None:
        """Note the columns of a part whose documents come next, the first of them as number `first`."""
        for key, column in fields.columns.items():
            numbers, documents, codes = self._columns.setdefault(key, ({}, array("i"), array("i")))
            texts = [_to_json(value) for value in column.values]
            # the last place is for _LONG
            renumbered = np.array([*(numbers.setdefault(text, len(numbers)) for text in texts), _LONG], np.int32)
            documents.frombytes((column.documents + np.int32(first)).astype(np.int32).tobytes())
            codes.frombytes(renumbered[column.codes].tobytes())

    def write(self, folder: Path) -> None:
        """Write fields.json and fields.npy."""
        start, pieces = 0, []
        with open(folder / "fields.json", "w", encoding="utf-8") as file:
            file.write("{")
            for key in sorted(self._columns):
                numbers, documents, codes = self._columns[key]
                file.write(f'{"," if start else ""}\n{_to_json(key)}: ')
                file.write(f'{{"start": {start}, "count": {len(documents)}, "values": [{", ".join(numbers)}]}}')
                pieces.append(np.stack([np.frombuffer(documents, np.int32), np.frombuffer(codes, np.int32)]))
                start += len(documents)
            file.write("\n}\n")
        write_array(folder / "fields.npy", np.concatenate([np.zeros((2, 0), np.int32), *pieces], axis=1), "<i4")


class Column:
    """One key of one part: which documents have a value (ascending), and the place of each value among `values`."""

    def __init__(self, values: list[Any], documents: np.ndarray, codes: np.ndarray) -> None:
        if len(codes) and not (_LONG <= codes.min() and codes.max() < len(values)):
            raise ValueError("fields.npy does not belong to fields.json")
        self.values, self.documents, self.codes = values, documents, codes


class PartFields:
    """The columns of a part; read when a filter first asks. Raises ValueError or OSError for damaged files."""

    def __init__(self, folder: Path, record: PartRecord) -> None:
        self._folder, self._record = folder, record

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """Key -> column."""
        num_values, rest = divmod(self._record.files["fields.npy"]["bytes"] - HEADER_BYTES, 8)
        if rest or num_values < 0:
            raise ValueError("fields.npy has an impossible size")
        documents, codes = read_array(self._folder / "fields.npy", "<i4", (2, num_values))
        if num_values and not 0 <= documents.min() <= documents.max() < self._record.num_documents:
            raise ValueError("fields.npy does not belong to this part")
        text = read_file(self._folder / "fields.json", self._record.files["fields.json"]["bytes"])
        try:
            columns = {}
            for key, entry in json.loads(text).items():
                place = slice(entry["start"], entry["start"] + entry["count"])
                columns[key] = Column(entry["values"], documents[place], codes[place])
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"fields.json is not what was written: {error!r}") from error
        return columns


Accepts = Callable[[Sequence[Scalar]], bool]  # given the values of a document, none where it has none


class Fields:
    """The columns of all parts of a table."""

    def __init__(self, parts: Sequence["Part"]) -> None:
        self._parts = parts

    @cached_property
    def keys(self) -> list[str]:
        """Every key that some document has, sorted."""
        return sorted({key for part in self._parts for key in part.fields.columns})

    def values(self, key: str) -> list[Scalar]:
        """The distinct values of a key, in order of arrival; elements of lists one by one, very long ones left out."""
        found: dict[tuple[type, Scalar], None] = {}
        for part in self._parts:
            column = part.fields.columns.get(key)
            for value in column.values if column else []:
                found.update(((type(item), item), None) for item in scalars(value))
        return [value for _, value in found]

    def matching(self, key: str, accepts: Accepts) -> np.ndarray:
        """bool (num_rows,): the rows of the documents whose values of a key are accepted."""
        masks = [_matching_documents(part, key, accepts)[part.owners] for part in self._parts]
        return np.concatenate(masks) if masks else np.zeros(0, bool)


def _matching_documents(part: "Part", key: str, accepts: Accepts) -> np.ndarray:
    mask = np.full(part.num_documents, accepts([]), bool)
    column = part.fields.columns.get(key)
    if column is None:
        return mask
    # the last place is for _LONG
    accepted = np.array([*(accepts(scalars(value)) for value in column.values), False], bool)
    mask[column.documents] = accepted[column.codes]
    unknown = column.documents[column.codes == _LONG]
    for index, document in zip(unknown.tolist(), part.read_documents(unknown)):
        mask[index] = accepts(dict(field_values(document)).get(key, []))
    return mask

"""Parts of a table: what could not be read again is refused before it is written; damage is noticed when it is read."""

import os
import random

import pytest
from table_stubs import doc, opened, unsynced  # noqa: F401

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.table import PartRecord, Table, merge_parts, write_part


def pieces(document):
    """A plain chunker: 4 characters each, the last ones overlap; contents of up to 4 characters stay whole."""
    length = len(document.content)
    return [(start, min(start + 4, length)) for start in range(0, length, 3)] if length > 4 else [(0, length)]


@pytest.mark.parametrize("spans", [[], [(0, 0)], [(-1, 3)], [(0, 11)], [(5, 3)]])
def test_spans_outside_the_content_are_refused(tmp_path, spans):
    with pytest.raises(ValueError, match="'a' of 10 characters"):
        write_part(tmp_path, [doc("a")], lambda _: spans)
    assert not os.listdir(tmp_path)


def deep(levels):
    return [deep(levels - 1)] if levels else 1


@pytest.mark.parametrize("bad", [
    doc("b", "half \ud83d"), doc("b\udc00"), doc("b", note=float("nan")), doc("b", note=float("inf")),
    doc("b", n={1, 2}), doc("b", note="\ud800"), doc("b", " \n"), doc(""), doc("b", n=deep(200)), doc("b", n=deep(900)),
    Document(id="b", content="x", metadata=[1]), Document(id="b", content="x", metadata={(1, 2): 3}),
    Document(id="b", content="x", metadata={1: 1, "a": 2}), doc("b", n=10**5000), Document(id="b", content=b"x"),
])  # fmt: skip
def test_documents_that_could_not_be_read_again_leave_nothing(tmp_path, bad):
    with pytest.raises(DocumentError, match=r"^document 12: ") as caught:
        write_part(tmp_path, iter([doc("a"), bad]), None, first=11)
    assert caught.value.hint and not os.listdir(tmp_path)


def test_a_failure_while_documents_arrive_leaves_nothing(tmp_path):
    def arriving():
        yield doc("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path, arriving(), None)
    with pytest.raises(ValueError, match="'a' comes twice"):
        write_part(tmp_path, [doc("a"), doc("b"), doc("a", "other")], None)
    assert not os.listdir(tmp_path)


def test_an_equal_part_is_kept_and_a_damaged_one_replaced(tmp_path):
    record = write_part(tmp_path, [doc("a")], None)
    file = tmp_path / record.name / "documents.jsonl"
    inode = file.stat().st_ino
    assert write_part(tmp_path, [doc("a")], None) == record and file.stat().st_ino == inode
    content = file.read_bytes()
    file.write_bytes(content.replace(b"words", b"xxxxx"))
    assert write_part(tmp_path, [doc("a")], None) == record and file.read_bytes() == content
    assert os.listdir(tmp_path) == [record.name]


def test_damage_is_not_copied(tmp_path):
    record = write_part(tmp_path, [doc("a")], None)
    file = tmp_path / record.name / "documents.jsonl"
    part = opened(tmp_path, record)
    file.write_bytes(file.read_bytes().replace(b"words", b"xxxxx"))
    with pytest.raises(ValueError, match="documents.jsonl of part p-.* is not what was written"):
        merge_parts(tmp_path, [part])
    assert os.listdir(tmp_path) == [record.name]


def everything(folder, record):
    """Read all there is of a part in every way; rows must be what they are or damage be noticed."""
    table = Table([opened(folder, record)])
    found = [*table.documents, *table.whole_documents, *table.passages([2, 0]), table.passage(1), table.document("b")]
    numbers = [table.find("a"), table.find("b"), table.find("c#1"), table.neighbours(1), table.num_documents]
    return found, numbers, table.fields.keys, table.fields.matching("k", bool).tolist(), table.parts[0].hashes.tolist()


def test_damage_is_a_value_error_or_an_os_error(tmp_path):
    documents = [doc("a", "one two three", k=1), doc("b", "x", k="long" * 200), doc("c", "four five", k=["p", "q"])]
    record = write_part(tmp_path, documents, pieces)
    everything(tmp_path, record)
    dice = random.Random(0)
    for name in record.files:
        file = tmp_path / record.name / name
        content = file.read_bytes()
        changed = [content[:place] for place in {0, 1, 64, 127, 128, 129, len(content) - 1} if place < len(content)]
        changed += [content + b"x", bytes(len(content)), b"\xff" * len(content)]
        for _ in range(80):
            flipped = bytearray(content)
            flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            changed.append(bytes(flipped))
        for each in changed:
            file.write_bytes(each)
            try:
                everything(tmp_path, record)
            except (ValueError, OSError):
                pass
        file.unlink()
        with pytest.raises(OSError, match=name):
            everything(tmp_path, record)
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match=name):
            everything(tmp_path, record)
        file.unlink()
        file.write_bytes(content)


@pytest.mark.parametrize("change", [
    {"name": "../p"}, {"name": "p-12"}, {"name": 3}, {"num_documents": -1}, {"num_passages": True},
    {"num_documents": 1.0}, {"num_passages": 2**40}, {"files": {}}, {"files": []}, {"files": None}, {"more": 1},
])  # fmt: skip
def test_records_of_parts_are_checked(tmp_path, change):
    record = write_part(tmp_path, [doc("a")], None).to_dict()
    with pytest.raises(ValueError):
        PartRecord.from_dict({**record, **change})
    for bad in (None, {"bytes": -1, "sha256": "0" * 64}, {"bytes": 1, "sha256": "x"}, {"bytes": 1}):
        with pytest.raises(ValueError):
            PartRecord.from_dict({**record, "files": {**record["files"], "ids.npy": bad}})
    with pytest.raises(ValueError):
        PartRecord.from_dict([record])



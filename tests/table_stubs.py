"""What the tests of tables share: documents, parts, and no waiting for the disk."""

import os

import pytest

from nanochat.retrieval.document import Document
from nanochat.retrieval.table import Part


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """Waiting for the disk is most of the time of small writes, and no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def doc(identifier, content="some words", **metadata):
    return Document(id=identifier, title=f"about {identifier}", content=content, source="s", metadata=metadata)


def opened(folder, record):
    return Part.open(folder / record.name, record)

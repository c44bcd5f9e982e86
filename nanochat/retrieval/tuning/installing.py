"""Writing what was learned into a knowledge base, as its next version; the versions before stay as they are."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import sync_path
from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.base import hard_link_or_copy, make_retriever
from nanochat.retrieval.storage.snapshot import read_sources
from nanochat.retrieval.table.records import file_record
from nanochat.retrieval.writing.changes import Change, Tally, finish
from nanochat.retrieval.writing.place import writing

_SAME = ("fingerprint", "num_rows", "deleted")  # what must not have changed since the index was made


def install_index(
    path: Path, folder: Path, based_on: Mapping[str, Any], *, settings: Mapping[str, Any] | None = None
) -> Change:
    """A version with the dense index that was made in a folder, for the rows of the manifest `based_on`.

    settings: for the dense index and the knowledge base, such as the model. Nothing is encoded; files that are those
    of the old index become hard links. KnowledgeBaseError where documents came or went since.
    """
    started = time.perf_counter()
    with writing(path, "tune-encoder") as writer:
        manifest = writer.base.manifest
        old = manifest["indexes"].get("dense")
        if old != based_on["indexes"]["dense"] or any(manifest[key] != based_on[key] for key in _SAME):
            raise KnowledgeBaseError(f"{path} was changed while its encoder was tuned",
                                     hint="give the command again; nothing was changed now")
        settings = dict(settings or {})
        record = _take_in(path, f"dense-{writer.version:06d}", folder, old, {**old["settings"], **settings})
        writer.commit(writer.draft(
            sources=read_sources(path, manifest), indexes={**manifest["indexes"], "dense": record},
            settings={**manifest["settings"], **settings},
        ))
        encoder = record["made_by"]["encoder"]
        return finish(writer, Tally(unchanged=manifest["num_documents"]), started, encoder=encoder["fingerprint"])


def _take_in(
    path: Path, name: str, made: Path, old: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The folder of an index inside the knowledge base, and what the manifest says about it."""
    previous, folder = path / "indexes" / old["folder"], path / "indexes" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = {}
    for file in sorted(made.iterdir()):
        known = old["files"].get(file.name)
        record = file_record(file)
        hard_link_or_copy(previous / file.name if record == known else file, folder / file.name)
        if record != known:
            os.chmod(folder / file.name, 0o644)
            sync_path(folder / file.name)
        files[file.name] = record
    sync_path(folder)
    retriever = make_retriever("dense", settings)
    retriever.load(folder)
    return {"folder": name, "settings": dict(settings), "made_by": retriever.describe(), "files": files}

"""The indexes inside a knowledge base: written for a version, carried on to the next, checked and loaded."""

import importlib
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat.common import sync_path
from nanochat.errors import ConfigError, UserError
from nanochat.retrieval.base import COMPONENTS, RETRIEVERS, Retriever, check_retriever_type, make_retriever
from nanochat.retrieval.storage.manifest import check_file, check_folder, damaged, index_files
from nanochat.retrieval.storage.versions import remove
from nanochat.retrieval.table.records import file_record

if TYPE_CHECKING:
    from nanochat.retrieval.table import Table

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 20_000  # passages
Item = TypeVar("Item")
Progress = Callable[[str], None] | None


def stored_types(retriever_type: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The indexes that a retriever type needs, each with its settings: its own, or those of its components."""
    check_retriever_type(retriever_type)
    if retriever_type not in COMPONENTS:
        return {retriever_type: dict(settings)}
    return {name: settings_of(name, settings) for name in COMPONENTS[retriever_type]}


def settings_of(retriever_type: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a composed type's settings that are for one of its components."""
    known = inspect.signature(class_of(retriever_type)).parameters
    return {key: value for key, value in settings.items() if key in known}


def check_settings(retriever_type: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting that the type does not have."""
    known = inspect.signature(class_of(retriever_type)).parameters
    for key in settings:
        if key not in known:
            have = f"it has: {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"The retriever type {retriever_type} has no setting {key!r}; {have}",
                              hint="leave it out, or choose another type")


def class_of(retriever_type: str) -> Any:
    """The class of a retriever type."""
    module, _, attribute = RETRIEVERS[check_retriever_type(retriever_type)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def write_index(
    path: Path, version: int, name: str, settings: Mapping[str, Any], table: "Table", *, first_row: int = 0,
    previous: Mapping[str, Any] | None = None, reuse: Mapping[str, Any] | None = None, progress: Progress = None,
) -> dict[str, Any]:
    """Write the index of a type for a version and return what the manifest says about it.

    previous: the record of the index that holds the rows before `first_row`. reuse: the record of one whose vectors
    may be taken over where the text is the same. Both only where this program would make them the same way.
    """
    retriever = make_retriever(name, settings)
    folder_name = f"{name}-{version:06d}"
    folder = path / "indexes" / folder_name
    if folder.exists() or folder.is_symlink():
        remove(folder)
    folder.mkdir(parents=True)
    if hasattr(retriever, "journal"):
        (path / "work").mkdir(exist_ok=True)
        retriever.journal = path / "work"
    if reuse is not None and hasattr(retriever, "reuse"):
        retriever.reuse = path / "indexes" / reuse["folder"]
    rows: Sequence[Any] = table.rows(first_row, table.num_rows)
    if progress is not None:
        rows = _Watched(rows, progress, f"indexed for {name}")
    old = path / "indexes" / previous["folder"] if previous is not None else None
    retriever.write(folder, rows, old)
    files = _records(folder, previous, old)
    # what cannot be read again must not be committed; and an encoder is known only once it is loaded
    retriever.load(folder)
    if retriever.num_rows != table.num_rows:
        raise ValueError(f"the {name} index was written with {retriever.num_rows} rows, not {table.num_rows}")
    made_by = retriever.describe()
    return {"folder": folder_name, "settings": _settled(settings, made_by), "made_by": made_by, "files": files}


def _settled(settings: Mapping[str, Any], made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that give the same encoder again, also where the default is another one by then."""
    encoder = made_by.get("encoder")
    if not isinstance(encoder, Mapping) or settings.get("model"):
        return dict(settings)
    return {**settings, "model": encoder.get("model") or encoder["encoder"]}


def _records(folder: Path, previous: Mapping[str, Any] | None, old: Path | None) -> dict[str, dict[str, Any]]:
    """Size and hash of every file, all on the disk; a file that is a hard link to an old one keeps its record."""
    known = previous["files"] if previous is not None else {}
    records = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir():
            sync_path(file)
            continue
        name = file.relative_to(folder).as_posix()
        if old is not None and name in known and os.path.samefile(file, old / name):
            records[name] = known[name]
            continue
        os.chmod(file, 0o644)
        sync_path(file)
        records[name] = file_record(file)
    sync_path(folder)
    return records


def load_index(
    path: Path, manifest: Mapping[str, Any], name: str, settings: Mapping[str, Any] | None = None
) -> Retriever | None:
    """The retriever of an index in the folder, its files checked; None where this program would make another one.

    `settings` go before those it was written with.
    """
    record = manifest["indexes"].get(name)
    if record is None:
        return None
    check_index(path, manifest, name)
    retriever = make_retriever(name, {**record.get("settings", {}), **(settings or {})})
    try:
        retriever.load(path / "indexes" / record["folder"])
    except UserError:
        raise
    except (ValueError, OSError) as error:
        # one that another program made may well be of a form that this one cannot read
        if "encoder" in record["made_by"] or retriever.describe() == record["made_by"]:
            raise damaged(path, f"the {name} index cannot be read: {error}") from error
        return None
    if retriever.describe() != record["made_by"]:
        return None
    if retriever.num_rows != manifest["num_rows"]:
        raise damaged(path, f"the {name} index has {retriever.num_rows} rows, not {manifest['num_rows']}")
    return retriever


def check_index(path: Path, manifest: Mapping[str, Any], name: str, *, always_hash: bool = False) -> None:
    """Raise KnowledgeBaseError unless the files of an index are as they were written."""
    check_folder(path, "indexes")
    check_folder(path, f"indexes/{manifest['indexes'][name]['folder']}")
    for file, record in index_files(manifest, name):
        check_file(path, file, record, always_hash=always_hash)


def compose(retriever_type: str, components: Sequence[Retriever], settings: Mapping[str, Any]) -> Retriever:
    """A retriever made of others, such as hybrid of bm25 and dense."""
    make = class_of(retriever_type).of
    known = inspect.signature(make).parameters
    return make(*components, **{key: value for key, value in settings.items() if key in known})


class _Watched(Sequence[Item]):
    """A sequence that tells how far someone has read it."""

    def __init__(self, items: Sequence[Item], progress: Callable[[str], None], verb: str) -> None:
        self._items, self._progress, self._verb = items, progress, verb
        self._started, self._next = time.perf_counter(), _PROGRESS_EVERY

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        for place, item in enumerate(self._items):
            self._tell(place)
            yield item

    def __getitem__(self, place: Any) -> Any:
        self._tell(place.indices(len(self))[1] if isinstance(place, slice) else place)
        return self._items[place]

    def _tell(self, place: int) -> None:
        while place >= self._next:
            seconds = time.perf_counter() - self._started
            self._progress(f"{self._verb}: {self._next:,} of {len(self._items):,} passages, {seconds:.0f} s")
            self._next += _PROGRESS_EVERY

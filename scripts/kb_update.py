"""Change a knowledge base: add, update or delete documents, or bring it in line with a folder.

    python -m scripts.kb_update --action sync --documents data/handbook --knowledge_base data/my_kb
    nanochat kb add new.jsonl --knowledge_base data/my_kb
    nanochat kb delete policy_001 --knowledge_base data/my_kb
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nanochat.common import print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError

if TYPE_CHECKING:
    from nanochat.retrieval.knowledge_base import Change, KnowledgeBase

_SHOWN_SKIPS = 10


@dataclass(frozen=True, kw_only=True)
class KbUpdateConfig:
    action: Literal["add", "update", "delete", "sync"] = "sync"  # what to do
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    documents: tuple[str, ...] = ()   # add, update, sync: files and folders
    ids: tuple[str, ...] = ()         # delete: ids of documents
    purge: bool = False               # delete: take the text out of every old version as well; cannot be undone
    backups: tuple[str, ...] = ()     # delete with purge: folders of backups to take it out of, too
    strict: bool = False              # add, update: change nothing when any file or line cannot be used


CONFIG = KbUpdateConfig
SETTINGS = {
    "add": ("documents", "strict"), "update": ("documents", "strict"), "sync": ("documents",),
    "delete": ("ids", "purge", "backups"),
}


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_update", description=__doc__ or "")
    wanted = "ids" if config.action == "delete" else "documents"
    if not config.knowledge_base:
        raise ConfigError("--knowledge_base is missing", hint="name the folder: --knowledge_base data/my_kb")
    if not getattr(config, wanted):
        example = "policy_001" if wanted == "ids" else "data/my_documents"
        raise ConfigError(f"--{wanted} is missing", hint=f"nanochat kb {config.action} {example} "
                          f"--knowledge_base {config.knowledge_base}")
    for name, origin in origins(config).items():
        if origin in ("flag", "file") and name not in ("action", "knowledge_base", *SETTINGS[config.action]):
            print0(f"--{name} has no effect with --action {config.action}")
    if config.backups and not config.purge:
        raise ConfigError("--backups is for --purge", hint="add --purge to take the documents out of the backups")
    from nanochat.retrieval import KnowledgeBase

    knowledge_base = KnowledgeBase.open(config.knowledge_base)
    print0(summary(change(knowledge_base, config)))
    print0(f"{config.knowledge_base}: version {knowledge_base.version}, "
           f"{knowledge_base.num_documents:,} documents, {len(knowledge_base.documents):,} passages")
    return 0


def change(knowledge_base: "KnowledgeBase", config: KbUpdateConfig) -> "Change":
    """Do what the settings say and return what was done."""
    if config.action == "delete":
        return knowledge_base.delete(config.ids, purge=config.purge, backups=config.backups)
    if config.action == "sync":
        return knowledge_base.sync(config.documents, progress=print0)
    from nanochat.retrieval.readers import load_documents
    from nanochat.retrieval.readers.files import skip_lines

    documents, errors = load_documents(config.documents, strict=config.strict, progress=print0)
    for line in skip_lines([error.problem for error in errors], _SHOWN_SKIPS):
        print0(line)
    return (knowledge_base.add if config.action == "add" else knowledge_base.update)(documents)


def summary(done: "Change") -> str:
    """One line about a change, and one for each of the first files that were skipped."""
    from nanochat.retrieval.readers.files import skip_lines

    lines = [f"{done.action}: {done.added:,} added, {done.updated:,} updated, {done.deleted:,} deleted, "
             f"{done.unchanged:,} unchanged, {done.seconds:.1f} s"]
    return "\n".join([*lines, *(f"  {line}" for line in skip_lines(done.skipped, _SHOWN_SKIPS))])


if __name__ == "__main__":
    raise SystemExit(run_main(main))

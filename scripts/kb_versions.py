"""Look after a knowledge base: its versions, its health, its backups.

    python -m scripts.kb_versions --action versions --knowledge_base data/my_kb
    nanochat kb rollback 3 --knowledge_base data/my_kb
    nanochat kb backup backups/my_kb --knowledge_base data/my_kb
    nanochat kb verify data/my_kb
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanochat.common import print0, run_main
from nanochat.config import load_config, origins
from nanochat.errors import ConfigError

if TYPE_CHECKING:
    from nanochat.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True, kw_only=True)
class KbVersionsConfig:
    # what to do
    action: Literal["versions", "stats", "verify", "rollback", "prune", "compact", "backup", "export"] = "versions"
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    version: int = 0                  # rollback: version to go back to; stats, verify, export: 0 is the current one
    keep: int = 1                     # prune: how many of the latest versions stay
    output: str = ""                  # backup: new folder; export: new .jsonl file of the whole documents
    json: bool = False                # versions, stats: print JSON


CONFIG = KbVersionsConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_versions", description=__doc__ or "")
    if not config.knowledge_base:
        raise ConfigError("--knowledge_base is missing", hint="name the folder: --knowledge_base data/my_kb")
    for name, origin in origins(config).items():
        if origin in ("flag", "file") and name not in ("action", "knowledge_base", *SETTINGS[config.action]):
            print0(f"--{name} has no effect with --action {config.action}")
    if config.action in ("backup", "export") and not config.output:
        example = "backups/my_kb" if config.action == "backup" else "data/my_documents.jsonl"
        raise ConfigError("--output is missing", hint=f"nanochat kb {config.action} {example} "
                          f"--knowledge_base {config.knowledge_base}")
    if config.action == "versions":
        _versions(config)
        return 0
    if config.action == "rollback" and config.version < 1:
        raise ConfigError("--version is missing", hint=f"nanochat kb versions {config.knowledge_base} lists them")
    from nanochat.retrieval import KnowledgeBase

    # a rollback opens the version it goes back to: the current one may be damaged
    old = config.action in ("stats", "verify", "export", "rollback") and config.version
    ACTIONS[config.action](KnowledgeBase.open(config.knowledge_base, version=config.version if old else None), config)
    return 0


def _versions(config: KbVersionsConfig) -> None:
    # nothing is opened: the list is what helps where the current version is damaged
    from nanochat.retrieval.storage.versions import list_versions

    infos = list_versions(Path(config.knowledge_base))
    if config.json:
        print0(json.dumps([vars(info) for info in infos], indent=2))
        return
    print0(f"{'version':>7}  {'when':<19}  {'documents':>9}  {'passages':>9}  what")
    for info in infos:
        mark = " <- current" if info.is_current else ""
        print0(f"{info.version:>7}  {info.time[:19].replace('T', ' '):<19}  {info.num_documents:>9,}  "
               f"{info.num_passages:>9,}  {info.action}{mark}")


def _stats(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    stats = knowledge_base.stats()
    if config.json:
        print0(json.dumps(stats, indent=2))
        return
    for name, value in stats.items():
        shown = f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict) else value
        print0(f"{name:<24} {shown}")


def _verify(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    knowledge_base.verify()
    print0(f"{config.knowledge_base}: version {knowledge_base.version}, {knowledge_base.num_documents:,} documents, "
           f"indexes: {', '.join(knowledge_base.manifest['indexes'])}; all files as written")


def _rollback(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    done = knowledge_base.rollback(config.version)
    print0(f"{config.knowledge_base}: version {done.version} is now what version {config.version} was, "
           f"{knowledge_base.num_documents:,} documents")


def _prune(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    if config.keep < 1:
        raise ConfigError(f"--keep is {config.keep}", hint="at least the current version stays: --keep 1")
    done = knowledge_base.prune(keep=config.keep)
    print0(f"{config.knowledge_base}: removed {len(done.removed)} old versions, {done.freed_bytes / 1e6:.1f} MB"
           + (f"; kept because they are in use: {', '.join(map(str, done.in_use))}" if done.in_use else ""))


def _compact(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    done = knowledge_base.compact()
    print0(f"{config.knowledge_base}: version {done.version} without the rows of deleted documents, "
           f"{done.seconds:.1f} s")


def _backup(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    knowledge_base.backup(config.output)
    print0(f"Wrote {config.output}: version {knowledge_base.version}, a knowledge base of its own; "
           f"to check it: nanochat kb verify {config.output}")


def _export(knowledge_base: "KnowledgeBase", config: KbVersionsConfig) -> None:
    count = knowledge_base.export(config.output)
    print0(f"Wrote {config.output}: {count:,} documents")


ACTIONS: dict[str, Callable[["KnowledgeBase", KbVersionsConfig], None]] = {
    "stats": _stats, "verify": _verify, "rollback": _rollback, "prune": _prune,
    "compact": _compact, "backup": _backup, "export": _export,
}
# action -> what it reads besides --knowledge_base
SETTINGS = {
    "versions": ("json",), "stats": ("json", "version"), "verify": ("version",), "rollback": ("version",),
    "prune": ("keep",), "compact": (), "backup": ("output",), "export": ("output", "version"),
}


if __name__ == "__main__":
    raise SystemExit(run_main(main))

"""Search a knowledge base and see what a model would be shown: ranks, scores, passages and where they stand.

    nanochat kb search "return policy" --knowledge_base data/my_kb --top_k 3
    python -m scripts.kb_search --query "return policy" --knowledge_base data/my_kb --filter source=handbook
"""

import json
import textwrap
import time
from dataclasses import dataclass
from typing import Any

from nanochat.common import print0, run_main
from nanochat.config import load_config
from nanochat.errors import ConfigError

_SHOWN_KEYS = ("source", "file", "page", "heading")


@dataclass(frozen=True, kw_only=True)
class KbSearchConfig:
    query: str = ""                   # what to search for (required)
    knowledge_base: str = ""          # folder built by nanochat.retrieval (required)
    retriever_type: str = ""          # simple, bm25, dense or hybrid; empty: what it was built with
    top_k: int = 5                    # how many results
    filter: tuple[str, ...] = ()      # conditions on metadata, all must hold: source=handbook "date>=2024-01-01"
    neighbours: int = 0               # show so many passages before and after each result
    rerank: str = ""                  # cross-encoder folder that orders the best results anew
    version: int = 0                  # version of the knowledge base; 0 is the current one
    json: bool = False                # print one JSON object per result


CONFIG = KbSearchConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_search", description=__doc__ or "")
    for name, example in (("query", '"return policy"'), ("knowledge_base", "data/my_kb")):
        if not getattr(config, name).strip():
            raise ConfigError(f"--{name} is missing", hint=f"--{name} {example}")
    if config.neighbours < 0:
        raise ConfigError(f"--neighbours is {config.neighbours}", hint="give 0 or more")
    from nanochat.retrieval import RetrievalManager

    manager = RetrievalManager(config.retriever_type or None, config.knowledge_base, version=config.version or None,
                               rerank=config.rerank)
    started = time.perf_counter()
    found = manager.retrieve(config.query, config.top_k, filters=config.filter)
    seconds = time.perf_counter() - started
    for place, document in enumerate(found, 1):
        around = manager.knowledge_base.neighbours(document.id, before=config.neighbours, after=config.neighbours)
        if config.json:
            more = {"neighbours": [one.to_dict() for one in around]} if config.neighbours else {}
            print0(json.dumps({"rank": place, **document.to_dict(), **more}, ensure_ascii=False))
            continue
        print0(f"{place}. [{document.score:.3f}] {document.title or document.id}  ({document.id})")
        if note := _note(document.metadata, document.source):
            print0(f"   {note}")
        for one in around if config.neighbours else [document]:
            mark = "   " if one.id == document.id else "   . "
            print0(textwrap.fill(" ".join(one.content.split()), 110, initial_indent=mark, subsequent_indent="   ",
                                 max_lines=6, placeholder=" ..."))
    if not config.json:
        print0(f"{len(found)} of {len(manager.knowledge_base.documents):,} passages, {manager.retriever_type}, "
               f"{seconds * 1000:.1f} ms" + ("" if found else "; nothing fits the query and the filters"))
    return 0


def _note(metadata: Any, source: str) -> str:
    shown = {"source": source, **metadata}
    return ", ".join(f"{key} {shown[key]}" for key in _SHOWN_KEYS if shown.get(key))


if __name__ == "__main__":
    raise SystemExit(run_main(main))

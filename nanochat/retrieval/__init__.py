"""Documents in, ranked documents out: readers, retrievers, knowledge bases.

Names load on first use: importing this package costs a few milliseconds and needs neither numpy nor torch.
"""

import importlib
from typing import Any

_HOMES = {
    "Document": "document",
    "ScoredDocument": "document",
    "chunk_document": "chunking",
    "Hit": "base",
    "Retriever": "base",
    "RETRIEVERS": "base",
    "check_retriever_type": "base",
    "make_retriever": "base",
    "READERS": "readers",
    "read_documents": "readers",
    "KnowledgeBase": "knowledge_base",
    "RetrievalManager": "manager",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""What the tests of knowledge bases share: documents, settings that need no package, and looks into a folder."""

import json

from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.storage.versions import commit_version
from tasks.example_documents import example_documents

DOCUMENTS = [Document.from_dict(record) for record in example_documents()]
# the encoder that needs no package
SETTINGS = {"dense": {"model": "lsa"}, "hybrid": {"model": "lsa"}}


def build(documents, path, name="simple", **options):
    return KnowledgeBase.build(documents, path, name, settings=SETTINGS.get(name), **options)


def first(knowledge_base, query, retriever_type=None):
    settings = SETTINGS.get(retriever_type)
    allowed = knowledge_base.allowed()
    return knowledge_base.retriever(retriever_type, settings).search([query], 1, allowed=allowed)[0][0].position


def found_ids(knowledge_base, query, top_k=5, **options):
    return [document.id for document in knowledge_base.search([query], top_k, **options)[0]]


def files_of(folder):
    """Everything but the log, which holds the time, and locks."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "log.jsonl" and not path.name.endswith(".lock")}


def change_manifest(place, change):
    """Let `change` alter the current manifest as if a program had written it so."""
    manifest = json.loads(json.dumps(KnowledgeBase.open(place).manifest))
    change(manifest)
    commit_version(place, manifest)

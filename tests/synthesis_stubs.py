"""Small documents of many forms, and a library over them, for tests of training data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanochat.rag.library import Library
from nanochat.retrieval import Document, make_retriever
from tasks.worlds import WorldConfig, make_world

HELP = {"id": "help", "title": "Kettle help", "content": """# Kettle help

## How long does delivery take?

Standard delivery takes three
to five working days.

## Return policy

Customers can return kettles under the return policy within 30 days. The refund is paid at once.

## Prices

| Product | Price | Warranty |
|---|---|---|
| Torvik 200 | 49 EUR | 2 years |
| Velda Mini | 25 EUR | 1 year |

## Overview

This part has nothing to say.
"""}
COMPANY = {"id": "company", "title": "About us", "content": (
    "Kettle & Crown was founded in 1987. The Torvik 200 is an electric kettle with a steel body. In March 2004, Odessa "
    "Crane opened the second factory in Brinmoor. The head office of the firm stands there. Torvik Works is located in "
    "Ralgard. The Torvik Works has 140 employees. A residual current device (RCD) switches the circuit off. It was "
    "sold to the Crane family. They opened a shop in Brinmoor.")}
FAQ = {"id": "faq", "title": "Questions", "content": (
    "Q: Can I change my order?\nA: Yes, until the parcel has left the warehouse.\n\nQ: Which cards do you take?\n"
    "A: We take Visa and Maestro.")}
FIELDS = {"id": "specs", "title": "Torvik 300", "content": "Power: 3000 W\nColour: black\nCapacity: 1.8 litres"}
RECORD = {"id": "record", "title": "Gout", "content": "Gout is treated with rest. It is common.",
          "metadata": {"question": "What are the treatments for Gout?"}}
SITE = [HELP, COMPANY, FAQ, FIELDS, RECORD]


def make_library(documents: Sequence[Mapping[str, Any]], retriever_type: str = "bm25") -> Library:
    """Documents behind a retriever in memory."""
    retriever = make_retriever(retriever_type)
    retriever.index([Document.from_dict(document) for document in documents])

    def search(queries: Sequence[str], top_k: int, allowed: Sequence[bool] | None) -> list[list[int]]:
        mask = None if allowed is None else np.asarray(allowed, bool)
        return [[hit.position for hit in row] for row in retriever.search(queries, top_k, allowed=mask)]

    return Library(list(documents), search)


def world_documents(seed: int = 5, num_entities: int = 120) -> list[dict[str, Any]]:
    """Documents of an invented world."""
    return make_world(WorldConfig(seed=seed, num_entities=num_entities)).documents


def spec_documents(count: int = 40) -> list[dict[str, Any]]:
    """Documents of lines "name: value" about things, and about the place where each is made."""
    colours = ["silver", "black", "white", "amber", "violet", "crimson", "ochre", "teal"]
    documents = []
    for number in range(count):
        name, place = f"Torvik{chr(97 + number % 26)}{number}", f"Brin{chr(97 + number % 26)}moor{number}"
        documents.append({"id": f"thing{number}", "title": name, "content": (
            f"Colour: {colours[number % 8]}\nWeight: {number + 3} kg\nFactory: {place}\nPrice: {number * 7 + 10} EUR")})
        documents.append({"id": f"place{number}", "title": place, "content": (
            f"Population: {number * 911 + 1200}\nRiver: Vel{chr(97 + number % 26)}da{number}\n"
            f"Founded: {1500 + number * 3}")})
    return documents

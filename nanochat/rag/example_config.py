"""What a reading example looks like: how many documents and questions, and how often something is wrong with them."""

from dataclasses import dataclass, fields
from typing import Any

from nanochat.errors import ConfigError
from nanochat.tokenizer import NUM_DOC_SLOTS


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """Every draw is random within these bounds. Raises ConfigError for numbers and shares that cannot be."""

    max_documents: int = 6  # documents shown, 1 ... 32; the number is drawn from 1 ... this
    lookups: int = 6  # questions asked of one set of documents; the first one is the one they were retrieved for
    unanswerable_share: float = 0.25  # of the later questions: about documents that are not shown
    taken_away_share: float = 0.25  # first questions whose evidence is taken away: close distractors remain
    shuffle_share: float = 0.5  # contexts whose documents are shuffled; the rest keep the retriever's order
    random_share: float = 0.15  # distractors drawn at random instead of from the retriever
    first_absent_share: float | None = None  # first questions that nothing answers; None: as many as there are
    edited_share: float = 0.0  # contexts in which the evidence of the first question states another value
    rival_share: float = 0.0  # contexts with a second document that contradicts the evidence of the first question
    decoy_share: float = 0.0  # contexts with a copy of the evidence that tells another value of somebody of a like name
    injected_share: float = 0.0  # contexts in which a stranger slipped a sentence into a document, mostly an order

    def __post_init__(self) -> None:
        check_bounds(self, hint="rag_finetune takes it from --top_k: --top_k 5")
        if self.lookups < 1:
            raise ConfigError(f"lookups is {self.lookups}, must be at least 1", hint="for example lookups=6")


def check_bounds(config: Any, *, hint: str) -> None:
    """Refuse settings with more documents than slots, or a share outside of 0..1; `hint`: what gives max_documents.

    config: a dataclass with max_documents, and shares in fields named ..._share; None is no share. Raises ConfigError.
    """
    if not 1 <= config.max_documents <= NUM_DOC_SLOTS:
        raise ConfigError(f"max_documents is {config.max_documents}, must lie in 1..{NUM_DOC_SLOTS}: a model has no "
                          "more slots for documents", hint=hint)
    for field in fields(config):
        share = getattr(config, field.name)
        # also true of NaN
        if field.name.endswith("_share") and share is not None and not 0 <= share <= 1:
            raise ConfigError(f"{field.name} is {share}, must lie in 0..1", hint=f"for example {field.name}=0.25")

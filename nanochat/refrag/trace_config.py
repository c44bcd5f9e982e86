"""What training traces look like: how many searches and documents, and how often something is missing or goes wrong."""

from dataclasses import dataclass, fields

from nanochat.errors import ConfigError
from nanochat.tokenizer import NUM_DOC_SLOTS


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Every draw is random within these bounds. Raises ConfigError for numbers and shares that cannot be."""

    lengths: tuple[int, ...] = (1, 2, 3)  # hops of the questions, each length as often as the others
    max_hops: int = 3  # searches of a trace; questions of more hops are left out
    top_k: int = 3  # documents of a search; the number is drawn from 1 ... this for each
    absent_share: float = 0.4  # traces that end without an answer
    removed_share: float = 0.2  # of them: an answerable question whose evidence of one hop is nowhere
    recovery_share: float = 0.25  # answered traces with room for it that search in vain on the way
    bad_query_share: float = 0.7  # of them: because the query was bad; in the others the evidence came late
    early_share: float = 0.1  # hops that happen to show the next hop's evidence, too
    shuffle_share: float = 0.5  # searches whose documents are shuffled; the rest keep the retriever's order
    random_share: float = 0.15  # searches with distractors drawn at random instead of from the retriever
    injected_share: float = 0.1  # traces in which a document gives the reader an instruction
    min_followups: int = 2  # later plain questions about the documents shown, so that there is more to read for
    max_followups: int = 4

    def __post_init__(self) -> None:
        if self.max_hops < 1 or self.top_k < 1:
            raise ConfigError(f"max_hops is {self.max_hops} and top_k {self.top_k}: both must be at least 1",
                              hint="--max_hops 3 --top_k_per_hop 3")
        if self.max_hops * self.top_k > NUM_DOC_SLOTS:
            raise ConfigError(
                f"{self.max_hops} searches of {self.top_k} documents are {self.max_hops * self.top_k} documents, but a "
                f"model can tell {NUM_DOC_SLOTS} apart", hint=f"lower --max_hops or --top_k_per_hop: --max_hops 3 "
                f"--top_k_per_hop {NUM_DOC_SLOTS // 3}")
        if not self.lengths or min(self.lengths) < 1 or not 0 <= self.min_followups <= self.max_followups:
            raise ConfigError(f"lengths are {self.lengths} and later questions {self.min_followups} to "
                              f"{self.max_followups}", hint="for example lengths=(1, 2) and 2 to 4")
        for field in fields(self):
            share = getattr(self, field.name)
            if field.name.endswith("_share") and not 0 <= share <= 1:
                raise ConfigError(f"{field.name} is {share}, must lie in 0..1", hint=f"for example {field.name}=0.1")

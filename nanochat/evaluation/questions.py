"""Questions to be evaluated, as typed values."""

from dataclasses import dataclass
from pathlib import Path

from nanochat.rag.question_file import QuestionError, read_records

__all__ = ["EvalQuestion", "QuestionError", "read_questions"]


@dataclass(frozen=True, kw_only=True)
class EvalQuestion:
    id: str
    question: str
    answers: tuple[str, ...] = ()           # accepted answers; empty: the documents cannot answer
    supporting_ids: tuple[str, ...] = ()    # documents that together hold the evidence; empty: not known
    hops: int = 1
    kind: str = ""                          # free label of the generator, e.g. the relation asked for

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)


def read_questions(path: str | Path, limit: int | None = None) -> tuple[list[EvalQuestion], str]:
    """At most `limit` questions of a file and the SHA-256 of its bytes. Raises QuestionError, see `read_records`."""
    records, digest = read_records(path, limit)
    return [
        EvalQuestion(
            id=record["id"], question=record["question"].strip(), answers=tuple(record["answers"]),
            supporting_ids=tuple(record["supporting_ids"]), hops=record["hops"], kind=str(record.get("kind", "")),
        )
        for _, record in records
    ], digest

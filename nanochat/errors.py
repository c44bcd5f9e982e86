"""Errors that a user can fix: a problem that names the thing, and a hint with the next command to type."""


class UserError(Exception):
    """Something the user can put right; scripts print it as two lines and exit with code 2."""

    def __init__(self, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n  hint: {self.hint}" if self.hint else self.problem


class ConfigError(UserError):
    """A flag, a config file or a combination of settings that cannot work."""


class DocumentError(UserError):
    """A document file that cannot be read; the problem starts with file:line."""


class KnowledgeBaseError(UserError):
    """A knowledge base folder that is damaged, of another type, or cannot be written."""


class KnowledgeBaseNotFound(KnowledgeBaseError):
    """No knowledge base at the given path."""


class CheckpointNotFound(UserError):
    """No checkpoint for the given source, tag and step."""


class CheckpointError(UserError):
    """A checkpoint that is damaged or does not fit what is asked of it."""


class UnsupportedModel(UserError):
    """A model that this command refuses, such as a pure transformer for RAG."""


class ConversationError(UserError):
    """A conversation whose roles or fields are not in the grammar."""


class SearchFailed(UserError):
    """A search that a model asked for and that raised, or gave something else than documents."""


class MissingDependency(UserError):
    """An optional package that the chosen feature needs."""

"""Check documents before they become a knowledge base: lengths, titles, duplicates, personal data, debris.

    nanochat kb lint data/my_documents.jsonl --report data/lint_report
    python -m scripts.kb_lint --documents data/handbook --questions data/test_questions.jsonl --strict true
    python -m scripts.kb_lint --documents data/my_documents.jsonl --fix true --output data/fixed.jsonl
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.common import print0, run_main, write_folder, write_json, write_jsonl, write_text
from nanochat.config import load_config, origins
from nanochat.config_file import nearest
from nanochat.errors import ConfigError, DocumentError, UserError

if TYPE_CHECKING:
    from nanochat.retrieval import Document
    from nanochat.retrieval.linting import Fixer, Linter, LintReport

_SHOWN_ERRORS = 5
_REPAIRS = {
    "mojibake": "wrong encodings undone", "control_characters": "control characters removed",
    "white_space": "white space trimmed", "no_title": "titles made", "duplicate": "duplicates dropped",
    "emptied": "documents of control characters dropped",
}


@dataclass(frozen=True, kw_only=True)
class KbLintConfig:
    documents: tuple[str, ...] = ()   # files and folders to check
    knowledge_base: str = ""          # instead of documents: folder built by nanochat.retrieval
    questions: tuple[str, ...] = ()   # files of evaluation questions, which no document should contain
    report: str = ""                  # folder for report.html and report.json
    strict: bool = False              # exit with 2 when any warning or error is found
    fix: bool = False                 # write the documents with everything repaired that is safe to repair
    output: str = ""                  # fix: new .jsonl file for the repaired documents
    skip: tuple[str, ...] = ()        # checks that are not wanted, e.g. repeated_title near_duplicate
    limit: int = 0                    # check only so many documents; 0 checks all
    max_words: int = 2000             # longer documents are a finding
    min_words: int = 20               # shorter ones are, too


CONFIG = KbLintConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="scripts.kb_lint", description=__doc__ or "")
    _check(config)
    # imported here so that --help does not wait for it
    from nanochat.retrieval.linting import Fixer, Linter, LintLimits

    limits = LintLimits(max_words=config.max_words, min_words=config.min_words)
    linter = Linter(questions=_questions(config), limits=limits, skip=config.skip)
    after = Linter(limits=limits, skip=config.skip) if config.fix else None
    fixer = Fixer() if config.fix else None
    repaired: list[dict[str, Any]] = []
    errors: list[UserError] = []
    for entry in _entries(config):
        linter.look(entry)
        if isinstance(entry, UserError):
            errors.append(entry)
        elif fixer and after and (document := fixer.fix(entry)):
            after.look(document)
            repaired.append(document.to_dict())
    report = linter.report()
    if not report.num_documents and not errors:
        raise DocumentError(f"{_name(config)}: holds no documents",
                            hint="write one JSON object per line: id, title, content")
    print0(_name(config))
    print0(report.table())
    _print_errors(errors)
    if config.report:
        _write_report(report, Path(config.report), _name(config))
    if fixer and after:
        write_jsonl(config.output, repaired)
        _print_repairs(fixer, after, Path(config.output), len(repaired))
        report = after.report()
    return 2 if config.strict and (errors or not report.is_clean) else 0


def _check(config: KbLintConfig) -> None:
    from nanochat.retrieval.linting.checks import CHECKS

    if bool(config.documents) == bool(config.knowledge_base):
        raise ConfigError("give --documents or --knowledge_base" + (", not both" if config.documents else ""),
                          hint="nanochat kb lint data/my_documents.jsonl")
    for name in config.skip:
        if name not in CHECKS:
            other = nearest(name, list(CHECKS))
            raise ConfigError(f"--skip {name}: no such check",
                              hint=f"did you mean {other}?" if other else f"there are: {', '.join(CHECKS)}")
    if config.limit < 0 or config.max_words < 1 or config.min_words < 0:
        raise ConfigError("--limit, --max_words and --min_words count something", hint="leave them out, or give more")
    if not config.fix:
        if origins(config)["output"] in ("flag", "file"):
            print0("--output has no effect without --fix")
        return
    if not config.documents:
        raise ConfigError("--fix is for --documents", hint="repair the documents, then build the knowledge base again")
    path = Path(config.output)
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError("--fix needs --output, a .jsonl file", hint="--output data/fixed.jsonl")
    if path.exists():
        raise UserError(f"Refusing to replace {path}", hint="choose a new file name, or move that file away")


def _entries(config: KbLintConfig) -> Iterator["Document | UserError"]:
    """Documents, and errors in the place of what cannot be read."""
    from nanochat.retrieval import KnowledgeBase
    from nanochat.retrieval.readers import scan_all

    if config.knowledge_base:
        return islice(KnowledgeBase.open(config.knowledge_base).documents, config.limit or None)
    return scan_all(config.documents, config.limit or None, progress=print0)


def _questions(config: KbLintConfig) -> list[str]:
    from nanochat.retrieval.judging.judgements import read_queries

    return [query.text for path in config.questions for query in read_queries(path)]


def _name(config: KbLintConfig) -> str:
    return config.knowledge_base or ", ".join(config.documents)


def _print_errors(errors: list[UserError]) -> None:
    for error in errors[:_SHOWN_ERRORS]:
        print0(f"unreadable: {error.problem}\n  hint: {error.hint}")
    if len(errors) > _SHOWN_ERRORS:
        print0(f"and {len(errors) - _SHOWN_ERRORS:,} more that cannot be read")


def _write_report(report: "LintReport", folder: Path, name: str) -> None:
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {"a file"} if folder.exists() else set()
    if found - {"report.html", "report.json"}:
        raise UserError(f"Refusing to replace {folder}: it holds {sorted(found)[0]}",
                        hint="choose a new folder, e.g. --report data/lint_report")
    with write_folder(folder.resolve()) as new:
        write_json(new / "report.json", {"name": name, **report.to_dict()})
        write_text(new / "report.html", report.html(name))
    print0(f"Wrote {folder / 'report.html'} and report.json")


def _print_repairs(fixer: "Fixer", after: "Linter", output: Path, num_documents: int) -> None:
    done = [f"{fixer.counts[name]:,} {words}" for name, words in _REPAIRS.items() if fixer.counts[name]]
    print0(f"Wrote {output}: {num_documents:,} documents; " + (", ".join(done) or "nothing needed repair"))
    if fixer.note:
        print0(fixer.note)
    report = after.report()
    print0(f"Left: {report.count('error'):,} errors, {report.count('warning'):,} warnings")


if __name__ == "__main__":
    raise SystemExit(run_main(main))

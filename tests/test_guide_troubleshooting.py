"""Every message that docs/troubleshooting.md quotes is one that the program can say; some of them are provoked."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from nanochat.common import run_main
from nanochat.errors import UserError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.training.guards import Guard
from scripts import kb_versions, rag_finetune
from scripts.training_memory import name_helpful_flags

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.M)
# code in the first cell of a row of the tables of messages
TABLES = PAGE.partition("## More messages")[2]
ROWS = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (.*?) \| .*\|$", TABLES, re.M)))
# what the text of a section quotes beside its heading
QUOTED = ["No module named 'tantivy'", "The documents do not answer this question."]


def words_of(node: ast.AST) -> str:
    """The text of a literal or f-string, a newline for each value in it: no quoted message has one."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def said() -> list[str]:
    """Every text in the sources but the docstrings."""
    found = []
    for path in sorted(path for room in ("nanochat", "scripts", "tasks") for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [words_of(node) for node in ast.walk(tree) if id(node) not in docstrings and words_of(node)]
    return found


def can_be_said(message: str) -> bool:
    """Whether a text of the sources has the fixed parts of a message, in order; `...` stands for values."""
    parts = [re.escape(part.strip()) for part in message.split("...")]
    return any(re.search(".*".join(parts), text, re.S) for text in said())


def test_the_check_can_fail():
    assert can_be_said("Knowledge base ... is damaged")
    assert not can_be_said("Knowledge base ... is broken")
    assert not can_be_said("is damaged ... Knowledge base"), "the order counts"
    assert not can_be_said("Out of memory: an error that names the flags"), "docstrings are not said"


def test_messages_are_found_on_the_page():
    assert len(HEADINGS) >= 8 and len(ROWS) >= 35
    assert "Knowledge base not found" in HEADINGS and "Checkpoint not found" in ROWS


@pytest.mark.parametrize("message", [*HEADINGS, *ROWS, *QUOTED])
def test_a_quoted_message_is_one_that_the_program_can_say(message):
    assert f"`{message}`" in PAGE
    assert can_be_said(message), f"no text of the sources has: {message}"


def test_a_missing_and_a_damaged_knowledge_base_say_so_in_these_words(tmp_path, capsys):
    assert run_main(rag_finetune.main, ["--knowledge_base", str(tmp_path / "none")]) == 2
    assert "Error: Knowledge base not found" in capsys.readouterr().err
    folder = tmp_path / "kb"
    KnowledgeBase.build([Document(id="a", title="A", content="One sentence.")], folder, "simple")
    for name in ("CURRENT", "versions", "parts", "indexes"):
        assert (folder / name).exists() and f"`{name}`" in PAGE
    part = max((folder / "parts").rglob("*.*"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-3])
    assert run_main(kb_versions.main, ["--action", "verify", "--knowledge_base", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: Knowledge base {folder} is damaged") and "hint: " in error


def test_memory_runs_out_with_the_flags_of_the_page_in_its_order():
    config = rag_finetune.RagFinetuneConfig(knowledge_base="kb")
    with pytest.raises(UserError, match="^Out of memory") as caught, name_helpful_flags(config, is_saved=lambda: True):
        raise MemoryError
    printed = PAGE.partition("### `Out of memory`")[2].partition("```\n\n")[0]
    flags = [flag for flag in re.findall(r"--\w+", caught.value.hint) if flag != "--grad_accum_steps"]
    places = [printed.index(flag) for flag in flags if flag != "--resume"]
    assert len(places) >= 6 and places == sorted(places), flags


def test_a_diverged_run_says_so_in_these_words():
    guard = Guard()
    with pytest.raises(UserError, match="^Training diverged"):
        for step in range(100):
            guard.judge(step, "text", float("nan"), 1.0)

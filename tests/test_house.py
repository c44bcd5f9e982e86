"""The house rules that a machine can hold: import floors, file sizes, light imports, fast help, nothing executable."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("nanochat", "scripts", "tasks")

# room -> floor; a room may import floors below it and itself, never its neighbours
FLOORS = {
    "nanochat": 0, "nanochat.errors": 0,
    "nanochat.common": 1, "nanochat.config": 1, "nanochat.conversation": 1, "nanochat.text": 1,
    "nanochat.device": 2, "nanochat.model": 2, "nanochat.tokenizer": 2, "nanochat.retrieval": 2, "tasks": 2,
    "nanochat.chat_format": 3, "nanochat.training": 3, "nanochat.interop": 3,
    "nanochat.engine": 4, "nanochat.checkpoint_manager": 4,
    "nanochat.rag": 5,
    "nanochat.refrag": 6, "nanochat.evaluation": 6,
    "scripts": 7, "nanochat.cli": 7, "nanochat.server": 7,
}
SAME_ROOM = {"nanochat.__main__": "nanochat.cli", "nanochat.config_file": "nanochat.config",
             "nanochat.checkpoint_files": "nanochat.checkpoint_manager"}
NOT_FOR = {room: {"nanochat.retrieval", "tasks"} for room, floor in FLOORS.items() if floor in (3, 4)}
NOT_FOR["nanochat.engine"] = NOT_FOR["nanochat.engine"] | {"nanochat.training"}
TABLES = ("RETRIEVERS", "READERS", "ENCODERS", "BLOCKS", "TASKS", "REWARDS", "RL_ALGORITHMS", "CONDITIONS",
          "CHECKS", "PATHS")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
EXECUTORS = {"eval", "exec", "compile", "__import__"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root)(?:/|\b(?=[\s\"'`]))|/home/\w|/Users/\w")
REGISTRY = re.compile(r"https?://[^\s\"')]*(?:pypi|pythonhosted|pytorch\.org/whl|npmjs|anaconda|/simple\b)")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(module: str) -> str:
    """The room of a dotted module name: its first part, or the first two inside nanochat."""
    parts = module.split(".")
    room = ".".join(parts[: 2 if parts[0] == "nanochat" else 1])
    return SAME_ROOM.get(room, room)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, also inside functions."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            # `from nanochat import model` names a room in its second half
            yield from ((node.lineno, f"nanochat.{alias.name}") for alias in node.names if module == "nanochat")


def tracked_files() -> list[Path]:
    """What git would commit; without git, everything outside hidden and generated folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                                text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    skipped = ("data", "wandb", "__pycache__")
    return [path for path in ROOT.rglob("*") if path.is_file() and not any(
        part.startswith(".") or part in skipped for part in path.relative_to(ROOT).parts)]


def seconds_of(command: list[str], *, under: float, tries: int) -> tuple[float, str]:
    """Best time of a few tries, in seconds, as printed by the command itself, and its last word.

    The commands print processor time: on an idle machine it is the waiting time, on a busy one it does not grow.
    """
    best, word = float("inf"), ""
    for _ in range(tries):
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        seconds, word = finished.stdout.split()[-2:]
        best = min(best, float(seconds))
        if best < under:
            break
    return best, word


@pytest.mark.parametrize("path", python_files(*CODE), ids=name_of)
def test_imports_point_down(path):
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert room in FLOORS, f"{room} has no floor: add it to FLOORS in {Path(__file__).name} and to docs/architecture.md"
    for line, module in imports_of(path):
        other = room_of(module)
        if other.split(".")[0] not in CODE or other == room or other not in FLOORS:
            continue
        where = f"{name_of(path)}:{line}: {room} (floor {FLOORS[room]})"
        assert FLOORS[other] < FLOORS[room] or other == "nanochat", f"{where} imports {other} (floor {FLOORS[other]})"
        assert other not in NOT_FOR.get(room, ()), f"{where} must not import {other}"


@pytest.mark.parametrize("path", python_files(*CODE, "tests", "bench"), ids=name_of)
def test_files_are_short_and_say_what_lives_in_them(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300, f"{name_of(path)} has {text.count(chr(10))} lines, at most 300"
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name_of(path)} does not open with a docstring"


@pytest.mark.parametrize("path", python_files(*CODE, "bench", "configs"), ids=name_of)
def test_nothing_loads_code_as_data(path):
    for node in ast.walk(tree_of(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        match node:
            case ast.Import(names=names):
                assert not UNPICKLERS & {alias.name.split(".")[0] for alias in names}, where
            case ast.ImportFrom(module=str(module)):
                assert module.split(".")[0] not in UNPICKLERS, where
            case ast.Call(func=ast.Name(id=name)):
                assert name not in EXECUTORS, f"{where}: {name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in keywords)
                assert safe, f"{where}: torch.load needs weights_only=True"
            case ast.keyword(arg="allow_pickle", value=value):
                assert ast.unparse(value) == "False", f"{where}: allow_pickle"


def test_tracked_files_name_no_machine_and_no_registry():
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATH, REGISTRY):
            found = pattern.search(text)
            assert not found, f"{name_of(path)}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}"


@pytest.mark.parametrize("statement", ["import nanochat.retrieval", "from nanochat.retrieval import RetrievalManager"])
def test_importing_retrieval_is_light(statement):
    program = (f"import sys, time; start = time.process_time(); {statement}; "
               "print(time.process_time() - start, 'torch' in sys.modules)")
    seconds, has_torch = seconds_of([sys.executable, "-c", program], under=0.3, tries=5)
    assert has_torch == "False", f"`{statement}` imports torch"
    assert seconds < 0.3, f"`{statement}` takes {seconds:.2f} s"


# a file of scripts/ without a main is shared by those that have one
SCRIPTS = [f"scripts.{path.stem}" for path in python_files("scripts") if "def main(" in path.read_text()]


@pytest.mark.parametrize("module", [*SCRIPTS, "nanochat.retrieval", "nanochat.cli"])
def test_help_is_fast(module):
    program = ("import os, subprocess, sys; "
               f"done = subprocess.run([sys.executable, '-m', {module!r}, '--help'], capture_output=True, text=True); "
               "assert done.returncode == 0, done.stderr; assert len(done.stdout) > 50, done.stdout; "
               "print(sum(os.times()[2:4]), 'ok')")
    seconds, _ = seconds_of([sys.executable, "-c", program], under=1.5, tries=3)
    assert seconds < 1.5, f"python -m {module} --help takes {seconds:.2f} s: import torch after parsing"


def table_entries() -> Iterator[tuple[str, str]]:
    for path in python_files(*CODE):
        for node in tree_of(path).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id in TABLES and isinstance(node.value, ast.Dict):
                yield from ((target.id, key.value) for key in node.value.keys if isinstance(key, ast.Constant))


@pytest.mark.parametrize(("table", "entry"), sorted(set(table_entries())))
def test_every_table_entry_is_documented(table, entry):
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    assert f"`{entry}`" in text, f"{table} has {entry!r}, but no file in docs/ says `{entry}`"

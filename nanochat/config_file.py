"""Config files as data: a .py file of `name = literal` lines (never executed), TOML or JSON.

A .py file may hold a docstring, comments, annotations, numbers, strings, True/False/None, lists, tuples, dicts, earlier
names, unary minus, + - * / // % on numbers, joining and repeating of strings and lists. Names that start with an
underscore are for the file's own arithmetic and set nothing. Everything else is refused with file and line.
"""

import ast
import difflib
import json
import math
import operator
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nanochat.errors import ConfigError

SUFFIXES = (".py", ".toml", ".json")
MAX_BYTES = 64 * 1024
MAX_DEPTH = 40                    # brackets and operators inside each other
MAX_SIZE = 100_000                # characters and elements of one value
MAX_WORK = 2_000_000              # characters and elements over all steps of reading a file
MAX_INTEGER = 2**63

_DATA_ONLY = "config files are data: names and plain values"
_ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}


class Setting(NamedTuple):
    value: Any
    where: str                    # "file:line", or the file alone where the line is not known


def read_config_file(path: str | Path) -> dict[str, Setting]:
    """Names and values of a .py, .toml or .json file. Raises ConfigError that starts with file:line."""
    path = Path(path)
    text = _read_text(path)
    if path.suffix == ".py":
        return _read_python(text, path)
    try:
        table = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}", hint="see json.org") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(f"{where}: not valid TOML: {_one_line(error)}", hint="see toml.io") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {_one_line(error)}", hint="plain names and values only") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}:1: expected names and values, found a {type(table).__name__}",
                          hint='write {"name": value, ...}')
    settings = {}
    for name, value in table.items():
        where = f"{path}:{_line_of(name, text)}"
        check_value(name, where)
        check_value(value, where)
        settings[name] = Setting(value, where)
    return settings


def check_value(value: Any, where: str, *, depth: int = 0) -> None:
    """Refuse what no setting needs: deep nesting, huge or non-finite numbers, unprintable text, other types."""
    problem = ""
    match value:
        case None | bool():
            pass
        case int():
            problem = "integer out of range" if abs(value) > MAX_INTEGER else ""
        case float():
            problem = "" if math.isfinite(value) else "number is not finite"
        case str():
            problem = _text_problem(value)
        case list() | tuple() | dict() if depth >= MAX_DEPTH:
            problem = "nested too deeply"
        case list() | tuple():
            for item in value:
                check_value(item, where, depth=depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    problem = f"dict keys must be strings, found {type(key).__name__}"
                    break
                check_value(key, where)
                check_value(item, where, depth=depth + 1)
        case _:
            problem = f"{type(value).__name__} is not a kind of value settings have"
    if problem:
        hint = ("give an ordinary number" if isinstance(value, float)
                else "numbers, strings, true/false, lists and tables are fine")
        raise ConfigError(f"{where}: {problem}", hint=hint)


def nearest(name: str, known: list[str]) -> str:
    """The known name most like this one, or "" when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return close[0] if close else ""


def _text_problem(text: str) -> str:
    if len(text) > MAX_SIZE:
        return f"text is longer than {MAX_SIZE} characters"
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return "text holds a character that cannot be written to a file"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _line_of(name: str, text: str) -> int:
    """First line that sets this TOML or JSON name; 1 when it is spelled with escapes."""
    found = re.search(rf"^[ \t{{,\[\"']*{re.escape(name)}[\"'\]]*[ \t]*(?:[=:.]|$)", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _read_text(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: not a config file", hint="config files end in .py, .toml or .json")
    try:
        if not path.exists():
            other = nearest(path.name, [entry.name for entry in path.parent.glob("*") if entry.suffix in SUFFIXES])
            hint = f"did you mean {path.parent / other}?" if other else "ready-made ones are in configs/"
            raise ConfigError(f"Config file not found: {path}", hint=hint)
        if not path.is_file():
            raise ConfigError(f"{path}: not a file", hint="ready-made config files are in configs/")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: config file is larger than {MAX_BYTES} bytes", hint="is it the right file?")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})", hint="save the file as UTF-8") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path!s:.200}: cannot be read: {_one_line(error)}", hint="check the path") from error


def _read_python(text: str, path: Path) -> dict[str, Setting]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        where = f"{path}:{error.lineno or 1}"
        raise ConfigError(f"{where}: {error.msg}", hint="write one `name = value` per line") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: cannot be read: {_one_line(error) or 'nested too deeply'}",
                          hint="write one `name = value` per line") from error
    return _Reader(path).read(tree)


class _Reader:
    """Evaluates the small subset; every step is charged to one budget, so no file can make it work for long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, Setting] = {}
        self.work = 0

    def read(self, tree: ast.Module) -> dict[str, Setting]:
        for statement in tree.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str())):
                    continue
                case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                    pass
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as expression):
                    pass
                case _:
                    raise self.refuse(statement)
            where = f"{self.path}:{statement.lineno}"
            check_value(name, where)
            value = self.evaluate(expression, 0)
            check_value(value, where)
            self.names[name] = Setting(value, where)
        return {name: setting for name, setting in self.names.items() if not name.startswith("_")}

    def error(self, node: ast.AST, problem: str, hint: str = _DATA_ONLY) -> ConfigError:
        return ConfigError(f"{self.path}:{getattr(node, 'lineno', 1)}: {problem}", hint=hint)

    def refuse(self, node: ast.AST) -> ConfigError:
        return self.error(node, f"{_KINDS.get(type(node), 'this')} is not allowed in a config file")

    def charge(self, node: ast.AST, size: int) -> None:
        self.work += size
        if size > MAX_SIZE or self.work > MAX_WORK:
            raise self.error(node, "value is too large", hint=f"at most {MAX_SIZE} characters or elements")

    def evaluate(self, node: ast.expr, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error(node, "nested too deeply", hint=f"at most {MAX_DEPTH} brackets or operators in one value")
        value = self.value_of(node, depth + 1)
        self.charge(node, _size(value))
        return value

    def value_of(self, node: ast.expr, depth: int) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                if isinstance(value, int) and abs(value) > MAX_INTEGER:
                    raise self.error(node, "integer out of range")
                return value
            case ast.Name(id=name):
                if name not in self.names:
                    other = nearest(name, list(self.names))
                    raise self.error(node, f"name {name!r} is not set above this line",
                                     hint=f"did you mean {other!r}?" if other else "set it first, or quote it")
                return self.names[name].value
            case ast.List(elts=items):
                return [self.evaluate(item, depth) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.evaluate(item, depth) for item in items)
            case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
                return {self.evaluate(key, depth): self.evaluate(value, depth)
                        for key, value in zip(keys, values, strict=True)}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.evaluate(operand, depth)
                if not _is_number(value):
                    raise self.error(node, f"minus needs a number, found {type(value).__name__}")
                return -value
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                return self.combine(node, self.evaluate(left, depth), type(sign), self.evaluate(right, depth))
        raise self.refuse(node)

    def combine(self, node: ast.expr, left: Any, sign: type, right: Any) -> Any:
        if sign is ast.Mult and _is_sequence(right) and not _is_sequence(left):
            left, right = right, left
        joined = sign is ast.Add and _is_sequence(left) and type(left) is type(right)
        repeated = sign is ast.Mult and _is_sequence(left) and type(right) is int
        if joined:
            self.charge(node, _size(left) + _size(right))
        elif repeated:
            self.charge(node, _size(left) * max(right, 0))
        elif not (_is_number(left) and _is_number(right)):
            raise self.error(node, f"cannot combine {type(left).__name__} and {type(right).__name__} this way")
        try:
            value = _ARITHMETIC[sign](left, right)
        except (ZeroDivisionError, OverflowError) as error:
            raise self.error(node, _one_line(error)) from error
        if type(value) is int and abs(value) > MAX_INTEGER:
            raise self.error(node, "integer out of range")
        return value


_KINDS = {
    ast.Import: "import", ast.ImportFrom: "import", ast.Call: "a call", ast.Attribute: "an attribute",
    ast.JoinedStr: "an f-string", ast.ListComp: "a comprehension", ast.DictComp: "a comprehension",
    ast.SetComp: "a comprehension", ast.GeneratorExp: "a comprehension", ast.FunctionDef: "a function",
    ast.ClassDef: "a class", ast.Lambda: "a lambda", ast.If: "if", ast.For: "a loop", ast.While: "a loop",
    ast.Subscript: "indexing", ast.Assign: "setting several names at once", ast.Expr: "a line that sets nothing",
    ast.IfExp: "if", ast.Starred: "unpacking", ast.Dict: "unpacking", ast.AnnAssign: "a name without a value",
    ast.Compare: "a comparison", ast.BinOp: "this operator", ast.UnaryOp: "this operator",
    ast.Constant: "this kind of literal",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _leaves(value: Any) -> Iterator[int]:
    """Sizes whose sum is what a value would take if nothing in it were shared."""
    if isinstance(value, (list, tuple)):
        yield 1
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield len(value) + 1 if isinstance(value, str) else 1


def _size(value: Any) -> int:
    return sum(_leaves(value))

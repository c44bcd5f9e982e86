"""Settings of a script: one frozen dataclass, filled from defaults, a config file, the environment and flags.

    @dataclass(frozen=True, kw_only=True)
    class ChatConfig:
        source: str = "rag"           # checkpoint to load; a field's trailing comment is its --help

    config = load_config(ChatConfig, argv, prog="scripts.chat_cli")

Later wins: defaults < config file < environment (only WANDB_RUN, for a field named `run`) < flags.
Flags may be spelled --a_b v, --a_b=v or --a-b v; booleans --flag, --flag true or --flag false.
"""

import contextlib
import dataclasses
import io
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from nanochat.config_file import SUFFIXES, Setting, check_value, nearest, read_config_file
from nanochat.errors import ConfigError

Config = TypeVar("Config")

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
# flags of many values that are files, so that a value may look like a config file
FILES = ("documents", "questions")
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def load_config(cls: type[Config], argv: list[str], *, prog: str, description: str = "") -> Config:
    """An instance of the frozen dataclass `cls`. `--help` prints and exits 0; anything wrong raises ConfigError.

    The first argument that is no flag and ends in .py, .toml or .json is the config file; after a flag of many files
    (--documents) it is one of those instead.
    """
    if any(argument in ("--help", "-h") for argument in argv):
        _print_help(cls, prog, description)
        raise SystemExit(0)
    # get_type_hints resolves annotations that are still strings
    annotations = typing.get_type_hints(cls)
    hints = {field.name: annotations[field.name] for field in dataclasses.fields(cls) if field.init}
    path, flags = _split(argv, hints, prog)
    values: dict[str, Any] = {}
    origins_of = dict.fromkeys(hints, "default")
    for name, setting in (read_config_file(path) if path else {}).items():
        values[name] = _from_file(name, setting, hints)
        origins_of[name] = "file"
    if "run" in hints and os.environ.get("WANDB_RUN"):
        values["run"], origins_of["run"] = os.environ["WANDB_RUN"], "environment"
    for name, value in _parse_flags(flags, hints).items():
        values[name], origins_of[name] = value, "flag"
    for field in dataclasses.fields(cls):
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and no_default and field.name not in values:
            raise ConfigError(f"--{field.name} is missing", hint=f"see python -m {prog} --help")
    try:
        config = cls(**values)
    except ValueError as error:
        # a dataclass may check itself in __post_init__
        raise ConfigError(" ".join(str(error).split()), hint=f"see python -m {prog} --help") from error
    object.__setattr__(config, "_origins", types.MappingProxyType(origins_of))
    return config


def origins(config: Any) -> dict[str, str]:
    """Where each field's value came from: "default", "file", "environment" or "flag"; "code" if not by load_config."""
    known: Mapping[str, str] = getattr(config, "_origins", {})
    return {field.name: known.get(field.name, "code") for field in dataclasses.fields(config)}


def describe(config: Any) -> str:
    """One line per field: name, value, and the origin where it is not the default."""
    rows = []
    for name, origin in origins(config).items():
        note = "" if origin == "default" else f"  ({origin})"
        rows.append(f"  {name} = {getattr(config, name)!r}{note}")
    return "\n".join(rows)


def _print_help(cls: type, prog: str, description: str) -> None:
    # under torchrun one process answers for all
    if os.environ.get("RANK", "0") != "0":
        return
    import tyro

    text = (description or (cls.__doc__ or "")).strip()
    if text.startswith(f"{cls.__name__}("):
        text = ""
    try:
        tyro.cli(
            cls, prog=f"python -m {prog} [CONFIG_FILE]", description=text or f"Settings of {prog}.", args=["--help"],
            use_underscores=True, config=(tyro.conf.FlagConversionOff,),
        )
    except SystemExit:
        return


def lead(argv: list[str], name: str) -> list[str]:
    """The arguments with the words before the first flag given to the flag `name`: `sync notes` is `sync --name notes`.

    Where `name` is given as a flag too, its values follow.
    """
    count = next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
    if not count:
        return argv
    words, rest = argv[:count], argv[count:]
    for place, word in enumerate(rest):
        spelled, equals, value = word.partition("=")
        if spelled.lstrip("-").replace("-", "_") == name:
            return [*rest[:place], f"--{name}", *words, *([value] if equals else []), *rest[place + 1 :]]
    return [f"--{name}", *words, *rest]


def _split(argv: list[str], hints: Mapping[str, Any], prog: str) -> tuple[str | None, dict[str, list[str]]]:
    """The config file, and the words given for each flag. A lone -- (left over from torchrun) is skipped."""
    words = [word for word in argv if word != "--"]
    path, flags, place = None, {}, 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-") or word == "-":
            if path is not None or not word.endswith(SUFFIXES):
                raise ConfigError(f"Unexpected argument: {_short(word)}",
                                  hint="settings are written --name value; a config file ends in .py, .toml or .json")
            path = word
            continue
        spelled, equals, value = word.partition("=")
        name = _field_name(spelled, hints, prog)
        given = [value] if equals else []
        while not equals and place < len(words) and _belongs(words[place], hints[name], len(given), name in FILES):
            given.append(words[place])
            place += 1
        # a flag of many values may be repeated; of others the last one counts
        flags[name] = [*flags.get(name, []), *given] if _is_many(hints[name]) else given
    return path, flags


def _field_name(spelled: str, hints: Mapping[str, Any], prog: str) -> str:
    name = spelled.lstrip("-").replace("-", "_")
    if spelled.startswith("--") and name in hints:
        return name
    other = nearest(name, list(hints))
    hint = f"did you mean --{other}?" if other else f"see python -m {prog} --help"
    raise ConfigError(f"Unknown flag {_short(spelled, quote=False)}", hint=hint)


def _belongs(word: str, annotation: Any, taken: int, takes_files: bool) -> bool:
    """Whether the next word is a value of this flag."""
    if word.startswith("--"):
        return False
    if _is_bool(annotation):
        return taken == 0 and not word.endswith(SUFFIXES)
    return taken == 0 or (_is_many(annotation) and (takes_files or not word.endswith(SUFFIXES)))


def _parse_flags(flags: Mapping[str, list[str]], hints: Mapping[str, Any]) -> dict[str, Any]:
    values, others = {}, {}
    for name, given in flags.items():
        for word in given:
            check_value(word, f"--{name}")
        if _is_bool(hints[name]):
            values[name] = _parse_bool(name, given, hints[name])
        elif not given:
            raise ConfigError(f"--{name} needs a value: {expected(hints[name])}", hint=f"--{name} VALUE")
        elif hints[name] is str:
            values[name] = given[0]
        elif hints[name] == float | None and given[0].lower() == "none":
            values[name] = None
        else:
            others[name] = given
    try:
        values.update(_parse_with_tyro(others, hints))
    except SystemExit:
        for name, given in others.items():
            try:
                _parse_with_tyro({name: given}, hints)
            except SystemExit:
                raise _bad_value(name, given, hints[name]) from None
        raise AssertionError(f"each of {list(others)} parses alone, but not together") from None
    for name, value in values.items():
        check_value(value, f"--{name}")
    return values


def _parse_with_tyro(flags: Mapping[str, list[str]], hints: Mapping[str, Any]) -> dict[str, Any]:
    if not flags:
        return {}
    import tyro

    given = dataclasses.make_dataclass("Given", [(name, hints[name]) for name in flags], kw_only=True)
    arguments = [word for name, words in flags.items() for word in (f"--{name}", *words)]
    # tyro prints a box of its own before it exits; our two lines replace it
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            parsed = tyro.cli(given, args=arguments, use_underscores=True, add_help=False)
        except ValueError:
            raise SystemExit(2) from None
    return {name: getattr(parsed, name) for name in flags}


def _parse_bool(name: str, given: list[str], annotation: Any) -> bool | None:
    word = given[0].lower() if given else "true"
    if word in TRUE or word in FALSE:
        return word in TRUE
    if word == "none" and annotation is not bool:
        return None
    raise _bad_value(name, given, annotation)


def _bad_value(name: str, given: list[str], annotation: Any) -> ConfigError:
    return ConfigError(f"Bad value for --{name}: {_short(' '.join(given))}", hint=f"expected {expected(annotation)}")


def _from_file(name: str, setting: Setting, hints: Mapping[str, Any]) -> Any:
    if name not in hints:
        other = nearest(name, list(hints))
        raise ConfigError(f"{setting.where}: unknown name {_short(name)}",
                          hint=f"did you mean {other!r}?" if other else f"known names: {', '.join(hints)}")
    fits, value = _fit(setting.value, hints[name])
    if not fits:
        raise ConfigError(f"{setting.where}: bad value for {name}: {_short(setting.value)}",
                          hint=f"expected {expected(hints[name])}")
    return value


def _fit(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Whether a value from a file fits a type, and the value in that type (list to tuple, whole number to float)."""
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if kind in (typing.Union, types.UnionType):
        tried = [_fit(value, choice) for choice in arguments]
        return next((result for result in tried if result[0]), (False, value))
    if kind is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments), value
    if kind in (tuple, list) and isinstance(value, (list, tuple)):
        same_length = kind is tuple and arguments[-1] is not Ellipsis
        wanted = arguments if same_length else arguments[:1] * len(value)
        if len(wanted) != len(value):
            return False, value
        parts = [_fit(item, choice) for item, choice in zip(value, wanted, strict=True)]
        return all(fits for fits, _ in parts), kind(part for _, part in parts)
    if annotation is float and type(value) is int:
        return True, float(value)
    if annotation in (None, type(None)):
        return value is None, value
    return type(value) is (kind or annotation), value


def expected(annotation: Any) -> str:
    """What a flag takes, in words."""
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if kind in (typing.Union, types.UnionType):
        return " or ".join("none" if choice is type(None) else expected(choice) for choice in arguments)
    if kind in (tuple, list) and arguments:
        return f"several, each {expected(arguments[0])}"
    return _EXPECTED.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _is_bool(annotation: Any) -> bool:
    optional = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return annotation is bool or (optional and bool in typing.get_args(annotation))


def _is_many(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list)


def _short(value: Any, *, quote: bool = True) -> str:
    text = repr(value) if quote or not str(value).isprintable() else str(value)
    return text if len(text) <= 80 else text[:77] + "..."

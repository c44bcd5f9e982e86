"""Settings: every spelling of a flag, the order of origins, config files as data, and only clean errors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.common import run_main
from nanochat.config import describe, lead, load_config, origins
from nanochat.config_file import MAX_BYTES, read_config_file
from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Example:
    knowledge_base: str = ""                      # folder built by nanochat.retrieval
    source: Literal["base", "mid"] = "mid"        # checkpoint to start from
    top_k: int = 5                                # documents per question
    use_rewards: bool = True                      # train with rewards
    init_lr_frac: float = 0.02                    # first learning rate, as a part of the full one
    max_doc_length: int | None = None             # tokens of one document
    sizes: tuple[int, ...] = (1, 2)               # widths
    block_pattern: str = "T,M"                    # one letter per layer
    run: str = "dummy"                            # name of the run


def load(*argv: str) -> Example:
    return load_config(Example, list(argv), prog="scripts.example")


def config_file(folder: Path, text: str, suffix: str = ".py") -> str:
    path = folder / f"settings{suffix}"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--top_k", "7"], "top_k", 7),
        (["--top_k=7"], "top_k", 7),
        (["--top-k", "7"], "top_k", 7),
        (["--top-k=7"], "top_k", 7),
        (["--", "--top_k", "7"], "top_k", 7),
        (["--top_k", "7", "--"], "top_k", 7),
        (["--top_k", "3", "--top_k", "7"], "top_k", 7),
        (["--use_rewards", "false"], "use_rewards", False),
        (["--use_rewards=False"], "use_rewards", False),
        (["--use_rewards", "true"], "use_rewards", True),
        (["--use-rewards"], "use_rewards", True),
        (["--use_rewards", "--top_k", "7"], "top_k", 7),
        (["--init_lr_frac", "-1e-3"], "init_lr_frac", -1e-3),
        (["--init_lr_frac", "1"], "init_lr_frac", 1.0),
        (["--max_doc_length", "300"], "max_doc_length", 300),
        (["--max_doc_length", "None"], "max_doc_length", None),
        (["--sizes", "3", "4", "5"], "sizes", (3, 4, 5)),
        (["--knowledge_base=a=b --c"], "knowledge_base", "a=b --c"),
        (["--knowledge_base", ""], "knowledge_base", ""),
        (["--knowledge_base", "7"], "knowledge_base", "7"),
        (["--source", "base"], "source", "base"),
    ],
)
def test_flags_may_be_spelled_in_every_way_of_the_guide(argv, name, value):
    config = load(*argv)
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)
    assert origins(config)[name] == "flag"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path, monkeypatch):
    path = config_file(tmp_path, 'top_k = 8\nrun = "file"\nsource = "base"\n')
    monkeypatch.setenv("WANDB_RUN", "environment")
    config = load("--source", "mid", path)
    assert (config.top_k, config.run, config.source, config.use_rewards) == (8, "environment", "mid", True)
    names = ("top_k", "run", "source", "use_rewards")
    assert [origins(config)[name] for name in names] == ["file", "environment", "flag", "default"]
    assert load(path, "--run", "flag").run == "flag"
    assert "top_k = 8  (file)" in describe(config)


def test_other_environment_variables_and_classes_without_run_are_left_alone(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Small:
        top_k: int = 5

    monkeypatch.setenv("WANDB_RUN", "x")
    monkeypatch.setenv("TOP_K", "9")
    assert load_config(Small, [], prog="scripts.small") == Small()
    assert origins(Small()) == {"top_k": "code"}


@pytest.mark.parametrize(
    ("argv", "problem", "hint"),
    [
        (["--topk", "3"], "Unknown flag --topk", "did you mean --top_k?"),
        (["--tok_k=3"], "Unknown flag --tok_k", "did you mean --top_k?"),
        (["--knowledgebase", "x"], "Unknown flag --knowledgebase", "did you mean --knowledge_base?"),
        (["--zzzz"], "Unknown flag --zzzz", "--help"),
        (["-k", "3"], "Unknown flag -k", ""),
        (["--top_k", "many"], "Bad value for --top_k: 'many'", "expected a whole number"),
        (["--top_k", "2.5"], "Bad value for --top_k: '2.5'", "expected a whole number"),
        (["--top_k"], "--top_k needs a value", "--top_k VALUE"),
        (["--top_k", "--run", "x"], "--top_k needs a value", ""),
        (["--use_rewards", "maybe"], "Bad value for --use_rewards: 'maybe'", "expected true or false"),
        (["--source", "rag"], "Bad value for --source: 'rag'", "expected one of base, mid"),
        (["--init_lr_frac", "nan"], "--init_lr_frac: number is not finite", ""),
        (["--top_k", "9" * 30], "--top_k: integer out of range", ""),
        (["--top_k", "9" * 6000], "Bad value for --top_k", ""),
        (["--sizes", "1", "x"], "Bad value for --sizes: '1 x'", "several, each a whole number"),
        (["data/my_kb"], "Unexpected argument: 'data/my_kb'", "a config file ends in .py"),
        (["a.py", "b.py"], "Unexpected argument: 'b.py'", ""),
        (["configs/rag_hybrid_d21.py"], "Config file not found: configs/rag_hybrid_d21.py", ""),
    ],
)
def test_wrong_flags_are_one_sentence_and_a_next_step(argv, problem, hint):
    with pytest.raises(ConfigError) as caught:
        load(*argv)
    assert caught.value.problem.startswith(problem)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.problem + caught.value.hint


def test_errors_are_two_lines_and_exit_code_2(capsys):
    assert run_main(lambda argv: load(*argv) and 0, ["--source", "mid", "--top_k", "many"]) == 2
    assert capsys.readouterr().err == "Error: Bad value for --top_k: 'many'\n  hint: expected a whole number\n"


def test_help_prints_comments_as_help_and_exits_0(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--help", "--nonsense")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "documents per question" in printed and "--top_k" in printed and "scripts.example" in printed


def test_missing_required_fields_and_failed_checks_are_config_errors():
    @dataclass(frozen=True, kw_only=True)
    class Strict:
        output: str                               # folder to write
        top_k: int = 5

        def __post_init__(self) -> None:
            if self.top_k < 1:
                raise ValueError(f"--top_k must be at least 1, found {self.top_k}")

    with pytest.raises(ConfigError, match="--output is missing"):
        load_config(Strict, [], prog="scripts.strict")
    with pytest.raises(ConfigError, match="--top_k must be at least 1, found 0"):
        load_config(Strict, ["--output", "x", "--top_k", "0"], prog="scripts.strict")


def test_python_files_are_data_with_arithmetic_and_earlier_names(tmp_path):
    path = config_file(tmp_path, '''"""A docstring."""
# a comment
_depth = 20                       # the file's own name, sets nothing
top_k: int = _depth // 2 - -1
block_pattern = "T," * 8 + "M," * 11 + "M"
init_lr_frac = 1 / 4 % 3 * 2 + 0
sizes = [1] * 2 + [3]
use_rewards = False
max_doc_length = None
''')
    config = load(path)
    assert config.block_pattern.split(",") == ["T"] * 8 + ["M"] * 12
    assert (config.top_k, config.init_lr_frac, config.sizes, config.use_rewards) == (11, 0.5, (1, 1, 3), False)


@pytest.mark.parametrize(("suffix", "text"), [
    (".toml", 'top_k = 8\nuse_rewards = false\nsizes = [3]\n'),
    (".json", '{"top_k": 8, "use_rewards": false, "sizes": [3]}'),
])
def test_toml_and_json_files_work_too(tmp_path, suffix, text):
    config = load(config_file(tmp_path, text, suffix))
    assert (config.top_k, config.use_rewards, config.sizes) == (8, False, (3,))


REFUSED = [
    "import os", "from os import system", "top_k = len([1])", "top_k = __import__('os').system('true')",
    "top_k = [].x", "top_k = [x for x in [1]]", "run = f'{1}'", "top_k = (lambda: 1)()", "exec('1')",
    "top_k = 2 ** 9", "top_k = 1 << 9", "run = 'a' * 10 ** 9", "run = 'a' * 1000000",
    "sizes = [[0] * 1000] * 1000", "top_k = 1 / 0", "run = '%d' % 1", "top_k = missing", "a = b = 1",
    "a, b = 1, 2", "top_k += 1", "del top_k", "top_k: int", "top_k = 9 * 10000000000 * 10000000000", "run = b'x'",
    "top_k = True + 1", "top_k = not 1", "init_lr_frac = 1e999", "run = '\\ud800'", "run = '\\0'",
    "sizes = {1, 2}", "sizes = [*[1]]", "if True:\n    top_k = 1", "while True: pass", "def f(): pass",
    "class A: pass", "1", "top_k =", "top_k = ...", "top_k = " + "-" * 60000 + "1",
    "sizes = " + "[" * 90 + "]" * 90, "sizes = " + "[" * 9000, "top_k = 1" + " + 1" * 15000,
    "run = " + "'a' + " * 100 + "'a'", "top_k = " + "9" * 5000, "\x00", "#" + "x" * MAX_BYTES,
]


@pytest.mark.parametrize("text", REFUSED, ids=[text[:30].replace("\0", "NUL") for text in REFUSED])
def test_everything_but_data_is_refused_with_its_place(tmp_path, text):
    path = config_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert caught.value.problem.startswith(f"{path}:")
    assert "\n" not in caught.value.problem


def test_a_hostile_file_does_not_run(tmp_path):
    proof = tmp_path / "ran"
    with pytest.raises(ConfigError, match=":2: import is not allowed"):
        load(config_file(tmp_path, f"top_k = 1\nimport pathlib\npathlib.Path({str(proof)!r}).touch()\n"))
    assert not proof.exists()


@pytest.mark.parametrize(("suffix", "text", "line"), [
    (".py", "source = 'mid'\n\ntopk = 3\n", 3),
    (".toml", "source = 'mid'\ntopk = 3\n", 2),
    (".json", '{"source": "mid",\n\n\n"topk": 3}', 4),
])
def test_an_unknown_name_in_a_file_gives_line_and_nearest_name(tmp_path, suffix, text, line):
    path = config_file(tmp_path, text, suffix)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problem == f"{path}:{line}: unknown name 'topk'"
    assert caught.value.hint == "did you mean 'top_k'?"


@pytest.mark.parametrize("line", ["top_k = '5'", "top_k = 2.5", "top_k = True", "use_rewards = 1", "source = 'rag'",
                                  "sizes = [1, 'x']", "run = None", "init_lr_frac = '1'", "max_doc_length = {}"])
def test_a_value_of_the_wrong_type_gives_file_line_and_name(tmp_path, line):
    path = config_file(tmp_path, f"# first line\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problem.startswith(f"{path}:2: bad value for {line.split()[0]}")
    assert "expected" in caught.value.hint


def test_folders_binary_files_and_a_near_miss_are_told_apart(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "rag_tiny.py").write_text("top_k = 1\n")
    for name, words in (("folder.py", "not a file"), ("binary.py", "not UTF-8"), ("rag_tyni.py", "not found")):
        with pytest.raises(ConfigError, match=words) as caught:
            load(str(tmp_path / name))
    assert "rag_tiny.py" in caught.value.hint


PIECES = st.sampled_from([
    "top_k", "run", "sizes", "=", " ", "\n", "(", ")", "[", "]", "{", "}", ",", ":", "*", "+", "-", "/", "//", "%",
    "1", "0", "9" * 25, "1e308", "'a'", '"', "'''", "\\", "True", "None", "not ", "lambda:", "import os", "f'{1}'",
    ".x", "()", "for x in ", "\0", "\t", "\ud800", "\u00e9", "#", "if ", ";", "...", "b''", "~", "**", "1j", "_",
    "@", "nan", "[[", "]]", "= {", '": ', "1979-05-27",
])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from([".py", ".toml", ".json"]))
def test_any_file_gives_settings_or_a_clean_error(tmp_path, text, suffix):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(str(path))
    except ConfigError as error:
        assert str(path) in error.problem and "\n" not in error.problem + error.hint


WORDS = st.one_of(
    st.sampled_from([
        "--top_k", "--top-k=3", "--use_rewards", "true", "--sizes", "1", "-1", "--", "-", "--run=", "x", "none", "=",
        "--=", "---", "--source", "mid", "\udcff", "1e5", "--max_doc_length", "nan", "--init_lr_frac", "+@x", "@x",
        "--no_use_rewards",
    ]),
    st.text(max_size=6),
).filter(lambda word: word not in ("-h", "--help") and not word.endswith((".py", ".toml", ".json")))


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_any_command_line_gives_settings_or_a_clean_error(argv):
    try:
        assert isinstance(load(*argv), Example)
    except ConfigError as error:
        assert "\n" not in error.problem + error.hint


@dataclass(frozen=True, kw_only=True)
class ManyConfig:
    documents: tuple[str, ...] = ()   # files
    output: str = ""                  # folder


@pytest.mark.parametrize(("argv", "documents"), [
    (["--documents", "a.json", "b.py", "c.jsonl", "--output", "x"], ("a.json", "b.py", "c.jsonl")),
    (["--output", "x", "--documents", "a.json", "b.toml"], ("a.json", "b.toml")),
    (["--documents", "a", "--output", "x", "--documents", "b", "c"], ("a", "b", "c")),
])
def test_a_flag_that_takes_files_takes_those_that_look_like_config_files(argv, documents):
    config = load_config(ManyConfig, argv, prog="test")
    assert (config.documents, config.output) == (documents, "x")


def test_words_before_the_first_flag_go_to_the_named_one():
    assert lead(["a", "b.json", "--output", "x"], "documents") == ["--documents", "a", "b.json", "--output", "x"]
    assert lead(["a", "--x", "1", "--documents=b"], "documents") == ["--x", "1", "--documents", "a", "b"]
    assert lead(["--output", "x"], "documents") == ["--output", "x"]

"""Every command printed in the guide, the README and docs/ parses with the settings of its script; nothing runs."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from nanochat.cli import COMMANDS, find
from nanochat.config import load_config
from nanochat.config_file import read_config_file

ROOT = Path(__file__).parents[1]
TORCHRUN = "torchrun --standalone --nproc_per_node=8 -m "

# the user guide's commands, word for word
GUIDE = [
    "python -m scripts.prepare_rag_dataset --mode example --output data/rag_examples",
    "python -m scripts.prepare_rag_dataset --mode build --documents data/my_documents.jsonl --output data/my_kb"
    " --retriever_type dense",
    "python -m nanochat.retrieval --documents data/my_documents.jsonl --output data/my_kb --type simple",
    "python -m nanochat.retrieval --documents data/my_documents.jsonl --output data/my_kb --type dense"
    " --model all-MiniLM-L6-v2",
    "python -m nanochat.retrieval --documents data/faq_docs.jsonl --output data/faq_kb --type dense",
    "python -m nanochat.retrieval --documents data/tech_docs.jsonl --output data/tech_kb --type hybrid",
    TORCHRUN + "scripts.rag_finetune --knowledge_base data/rag_examples/knowledge_base --source mid"
    " --retriever_type simple",
    "python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid --retriever_type dense --top_k 5",
    TORCHRUN + "scripts.rag_finetune --knowledge_base data/my_kb --source mid --retriever_type dense --top_k 5"
    " --device_batch_size 4",
    TORCHRUN + "scripts.rag_finetune configs/rag_hybrid_d20.py",
    TORCHRUN + "scripts.rag_finetune configs/rag_hybrid_d20.py --knowledge_base data/my_kb --device_batch_size 2",
    "torchrun --standalone --nproc_per_node=1 -m scripts.rag_finetune --knowledge_base data/my_kb --source mid"
    " --device_batch_size 2 --max_seq_len 2048 --retriever_type simple",
    "WANDB_RUN=my_rag_run " + TORCHRUN + "scripts.rag_finetune --knowledge_base data/my_kb --run my_rag_run",
    TORCHRUN + "scripts.rag_finetune --knowledge_base data/faq_kb --source mid --base_tasks SmolTalk"
    " --task_samples 5000",
    TORCHRUN + "scripts.rag_finetune --knowledge_base data/tech_kb --retriever_type hybrid --top_k 8"
    " --max_seq_len 4096",
    TORCHRUN + "scripts.refrag_finetune --knowledge_base data/my_kb --source mid --max_hops 3 --top_k_per_hop 3"
    " --use_rewards true --device_batch_size 2",
    TORCHRUN + "scripts.refrag_finetune --knowledge_base data/papers_kb --max_hops 3 --use_rewards true",
    # the lists of flags under "Troubleshooting" and "Performance Tips"
    "python -m scripts.rag_finetune --device_batch_size 2 --max_seq_len 2048 --top_k 3 --max_doc_length 300",
    "python -m scripts.rag_finetune --retriever_type simple --device_batch_size 8 --grad_accum_steps 1",
    "python -m scripts.rag_finetune --retriever_type hybrid --top_k 10 --num_epochs 2 --init_lr_frac 0.01",
    'python -m scripts.base_train --block_pattern "T,T,T,T,T,T,T,T,M,M,M,M,M,M,M,M,M,M,M,M"',
    # spellings that the guide's readers use with torchrun
    TORCHRUN + "scripts.rag_finetune configs/rag_hybrid_d20.py -- --run my_rag_run",
    TORCHRUN + "scripts.rag_finetune -- --knowledge-base data/my_kb --run=my_rag_run",
]

# the guide's parameter tables
GUIDE_DEFAULTS = {
    "scripts.rag_finetune": {
        "source": "mid", "retriever_type": "simple", "top_k": 5, "device_batch_size": 4, "base_tasks": "SmolTalk",
        "num_epochs": 1,
    },
    "scripts.refrag_finetune": {"max_hops": 3, "top_k_per_hop": 3, "use_rewards": True, "device_batch_size": 2},
}
CONFIG_OF = {"base": "scripts.base_train", "mid": "scripts.mid_train", "rag": "scripts.rag_finetune",
             "refrag": "scripts.refrag_finetune", "tok": "scripts.tok_train"}


def config_of(module: str) -> type:
    """The settings class of a module that runs with python -m."""
    home = f"{module}.__main__" if module == "nanochat.retrieval" else module
    return importlib.import_module(home).CONFIG


def module_and_arguments(command: str) -> tuple[str, list[str]]:
    """What a command would run: python -m X, torchrun ... -m X, or nanochat WORDS; ("", [...]) for anything else."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    # one command of a pipe or a list is enough: documents show one per line
    for sign in ("|", "&&", ">", ";", "&"):
        words = words[: words.index(sign)] if sign in words else words
    if words and words[0] == "nanochat":
        return ("nanochat.cli", words[1:]) if words[1:] == ["--help"] else find(words[1:])
    if words and Path(words[0]).name in ("python", "python3", "torchrun") and "-m" in words:
        place = words.index("-m")
        return words[place + 1], words[place + 2 :]
    return "", words


COMMAND = re.compile(r"(?:[A-Z_]+=\S+\s+)*(?:\S*/)?(?:python3? -m|nanochat |torchrun |bash runs/)")


def commands_in(text: str) -> list[str]:
    """Commands in the fenced shell blocks of a Markdown text, continued lines joined."""
    found, language = [], None
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("```"):
            language = line.strip("`").strip() if language is None else None
        elif language in ("", "bash", "sh", "shell", "console") and COMMAND.match(line.removeprefix("$ ")):
            found.append(line.removeprefix("$ "))
    return found


def documented() -> list[tuple[str, str]]:
    """Commands of README.md and docs/*.md, with the file they stand in."""
    pages = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]
    return [(page.name, command) for page in pages for command in commands_in(page.read_text(encoding="utf-8"))]


def check_parses(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    module, arguments = module_and_arguments(command)
    if module.split(".")[0] not in ("nanochat", "scripts", "bench") or module == "nanochat.cli":
        return
    try:
        load_config(config_of(module), arguments, prog=module)
    except SystemExit as stop:
        assert stop.code == 0 and "--help" in arguments
        assert capsys.readouterr().out


def test_commands_are_found_in_shell_blocks_only():
    text = (
        "```python\nnanochat x\n```\nnanochat y\n"
        "```bash\n$ A=1 python -m a \\\n  --b c  # note\nls\n```\n```\nnanochat z\n```\n"
    )
    assert commands_in(text) == ["A=1 python -m a    --b c  # note", "nanochat z"]


@pytest.mark.parametrize("command", GUIDE)
def test_commands_of_the_guide_parse(command, monkeypatch, capsys):
    check_parses(command, monkeypatch, capsys)


@pytest.mark.parametrize("module", GUIDE_DEFAULTS)
def test_defaults_are_those_of_the_guide(module):
    config = load_config(config_of(module), [], prog=module)
    assert {name: getattr(config, name) for name in GUIDE_DEFAULTS[module]} == GUIDE_DEFAULTS[module]


@pytest.mark.parametrize(("page", "command"), documented())
def test_commands_in_our_documents_parse(page, command, monkeypatch, capsys):
    script = re.search(r"bash (runs/\S+)", command)
    if script:
        assert (ROOT / script[1]).is_file(), f"{page}: {script[1]} does not exist"
        return
    check_parses(command, monkeypatch, capsys)
    words = shlex.split(command, comments=True)
    if "torchrun" in words and "--run" in words:
        assert "--" in words[: words.index("--run")], f"{page}: torchrun takes --run for itself; write `-- --run NAME`"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_subcommand_has_a_main_and_settings(words):
    module, rest = find([*words.split(), "--help"])
    assert rest == [*COMMANDS[words].given, "--help"]
    home = importlib.import_module(module)
    assert callable(home.main) and home.CONFIG.__dataclass_params__.frozen


@pytest.mark.parametrize("path", sorted((ROOT / "configs").iterdir()), ids=lambda path: path.name)
def test_shipped_config_files_load_with_their_script(path):
    module = CONFIG_OF[path.stem.removeprefix("tiny_").split("_")[0]]
    config = load_config(config_of(module), [str(path)], prog=module)
    for name, setting in read_config_file(path).items():
        assert getattr(config, name) == setting.value or tuple(setting.value) == getattr(config, name)

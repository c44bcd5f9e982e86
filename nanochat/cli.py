"""The `nanochat` command: every subcommand is the main(argv) of a script, imported only when it is called."""

import importlib
import sys

from nanochat.common import run_main
from nanochat.config_file import nearest
from nanochat.errors import ConfigError

# words -> (module with main(argv), what it does)
COMMANDS = {
    "data prepare": ("scripts.prepare_rag_dataset", "write example documents, build or check a knowledge base"),
    "kb build": ("nanochat.retrieval.__main__", "documents -> knowledge base"),
    "tok train": ("scripts.tok_train", "train a tokenizer"),
    "base train": ("scripts.base_train", "pre-train a hybrid model"),
    "mid train": ("scripts.mid_train", "continue on conversations and reading tasks"),
    "rag finetune": ("scripts.rag_finetune", "fine-tune a model on a knowledge base"),
    "rag eval": ("scripts.rag_eval", "measure answers with, without and with wrong documents"),
    "refrag finetune": ("scripts.refrag_finetune", "train several hops of retrieval"),
    "chat": ("scripts.chat_cli", "ask questions; answers come with their sources"),
}


def usage() -> str:
    """The list that `nanochat --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  nanochat {words:<{width}}  {text}" for words, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: nanochat COMMAND [CONFIG_FILE] [--name value ...]", "", *lines, "",
                      "settings of one command: nanochat COMMAND --help"])


def find(argv: list[str]) -> tuple[str, list[str]]:
    """The module of the command that argv starts with, and the rest of argv. Raises ConfigError with the nearest."""
    for length in (2, 1):
        words = " ".join(argv[:length])
        if len(argv) >= length and words in COMMANDS:
            return COMMANDS[words][0], argv[length:]
    words = " ".join(word for word in argv[:2] if not word.startswith("-"))
    other = nearest(words, list(COMMANDS)) or next((known for known in COMMANDS if words in known.split()), "")
    raise ConfigError(f"Unknown command: {(words or argv[0])[:80]!r}",
                      hint=f"did you mean nanochat {other}?" if other else "nanochat --help lists all commands")


def main(argv: list[str]) -> int:
    """Run the command that argv names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    module, rest = find(argv)
    return importlib.import_module(module).main(rest)


def console() -> int:
    """Entry point of the installed command."""
    return run_main(main)


if __name__ == "__main__":
    sys.exit(console())

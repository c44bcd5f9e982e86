"""The `nanochat` command: every subcommand is the main(argv) of a script, imported only when it is called."""

import importlib
import sys
from typing import NamedTuple

from nanochat.common import run_main
from nanochat.config import lead
from nanochat.config_file import nearest
from nanochat.errors import ConfigError


class Command(NamedTuple):
    """A module with main(argv), what it does, the arguments it always gets, the flag that plain words belong to."""

    module: str
    text: str
    given: tuple[str, ...] = ()
    words: str = ""


def _update(action: str, text: str, words: str = "documents") -> Command:
    return Command("scripts.kb_update", text, ("--action", action), words)


def _versions(action: str, text: str, words: str = "knowledge_base") -> Command:
    return Command("scripts.kb_versions", text, ("--action", action), words)


COMMANDS = {
    "data prepare": Command("scripts.prepare_rag_dataset", "write example documents, build or check a knowledge base"),
    "kb build": Command("nanochat.retrieval.__main__", "documents -> knowledge base"),
    "kb search": Command("scripts.kb_search", "search a knowledge base, with scores", words="query"),
    "kb add": _update("add", "add documents"),
    "kb update": _update("update", "replace documents"),
    "kb delete": _update("delete", "delete documents; with --purge out of old versions and backups, too", "ids"),
    "kb sync": _update("sync", "bring a knowledge base in line with a folder; only what changed is read"),
    "kb versions": _versions("versions", "list the versions of a knowledge base"),
    "kb rollback": _versions("rollback", "go back to an old version", "version"),
    "kb prune": _versions("prune", "delete old versions"),
    "kb compact": _versions("compact", "write the indexes anew without the rows of deleted documents"),
    "kb verify": _versions("verify", "check every file of a knowledge base"),
    "kb backup": _versions("backup", "copy the current version, whole or not at all", "output"),
    "kb export": _versions("export", "write the documents as JSON lines", "output"),
    "kb stats": _versions("stats", "counts, sizes and settings of a knowledge base"),
    "kb lint": Command("scripts.kb_lint", "what in the documents deserves a look", words="documents"),
    "kb eval": Command("scripts.kb_eval", "measure retrieval with your own queries"),
    "kb tune-encoder": Command("scripts.kb_tune_encoder", "tune the encoder on the documents; kept only if it wins",
                               words="knowledge_base"),
    "tok train": Command("scripts.tok_train", "train a tokenizer"),
    "base train": Command("scripts.base_train", "pre-train a hybrid model"),
    "base eval": Command("scripts.base_eval", "bits per byte on texts, recall probes, cloze questions of a checkpoint"),
    "mid train": Command("scripts.mid_train", "continue on conversations and reading tasks"),
    "rag finetune": Command("scripts.rag_finetune", "fine-tune a model on a knowledge base"),
    "rag eval": Command("scripts.rag_eval", "measure answers with, without and with wrong documents"),
    "refrag finetune": Command("scripts.refrag_finetune", "train a model to search several times per question"),
    "refrag replay": Command("scripts.refrag_replay", "logged episodes of training with rewards, step by step"),
    "export": Command("scripts.export", "write a model as a folder for transformers, vLLM and llama.cpp"),
    "chat": Command("scripts.chat_cli", "ask questions; answers come with their sources"),
}


def usage(group: str = "") -> str:
    """The list that `nanochat --help` prints, or `nanochat kb --help` for the group "kb"."""
    commands = {words: command for words, command in COMMANDS.items() if group in ("", words.split()[0])}
    width = max(map(len, commands))
    lines = [f"  nanochat {words:<{width}}  {command.text}" for words, command in commands.items()]
    return "\n".join(["usage: nanochat COMMAND [CONFIG_FILE] [--name value ...]", "", *lines, "",
                      "settings of one command: nanochat COMMAND --help"])


def find(argv: list[str]) -> tuple[str, list[str]]:
    """The module of the command that argv starts with, and the arguments for it. Raises ConfigError with the nearest.
    """
    for length in (2, 1):
        name = " ".join(argv[:length])
        if len(argv) >= length and name in COMMANDS:
            command, rest = COMMANDS[name], argv[length:]
            return command.module, [*command.given, *(lead(rest, command.words) if command.words else rest)]
    words = " ".join(word for word in argv[:2] if not word.startswith("-"))
    other = nearest(words, list(COMMANDS)) or next((known for known in COMMANDS if words in known.split()), "")
    raise ConfigError(f"Unknown command: {(words or argv[0])[:80]!r}",
                      hint=f"did you mean nanochat {other}?" if other else "nanochat --help lists all commands")


def main(argv: list[str]) -> int:
    """Run the command that argv names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    groups = {words.split()[0] for words in COMMANDS} - set(COMMANDS)
    if argv[0] in groups and (len(argv) == 1 or argv[1] in ("-h", "--help", "help")):
        print(usage(argv[0]))
        return 0
    module, rest = find(argv)
    return importlib.import_module(module).main(rest)


def console() -> int:
    """Entry point of the installed command."""
    return run_main(main)


if __name__ == "__main__":
    sys.exit(console())

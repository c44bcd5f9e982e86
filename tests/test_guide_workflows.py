"""The commands of docs/workflows.md and the guide's way from documents to deployment run as printed, at tiny size."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from nanochat.common import base_dir, run_main
from tests.synthesis_stubs import spec_documents
from tests.test_documented_commands import commands_in, module_and_arguments

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
STEPS = ["--num_steps", "2", "--device", "cpu"]
# behind what is printed, so that nobody waits: few steps, few questions, a model of nearly no size
TINY = {
    "scripts.prepare_rag_dataset": {"world": ["--num_entities", "60"]},
    "scripts.base_train": [*STEPS, "--n_embd", "16", "--n_head", "2", "--n_kv_head", "1", "--mlp_hidden", "16",
                           "--d_state", "4", "--headdim", "16"],
    "scripts.mid_train": [*STEPS, "--device_batch_size", "4", "--eval_every", "0"],
    "scripts.rag_finetune": [*STEPS, "--device_batch_size", "4", "--eval_every", "2", "--data_workers", "0"],
    "scripts.refrag_finetune": [*STEPS, "--device_batch_size", "4", "--data_workers", "0", "--gate", "off",
                                "--rl_steps", "1", "--questions_per_step", "2", "--group_size", "2",
                                "--dev_questions", "4", "--max_query_tokens", "4", "--max_answer_tokens", "4"],
    "scripts.rag_eval": ["--max_tokens", "4", "--device", "cpu"],
    "scripts.chat_cli": ["--max_tokens", "4", "--device", "cpu"],
}


def sections(page: str) -> dict[str, str]:
    """Title -> text of the parts of a page of docs/."""
    parts = re.split(r"^## ", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.M)[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


PARTS = sections("workflows.md")
# of the guide's parts, the commands that run on a CPU with nothing but its own files; the others are parsed elsewhere
GUIDE = {
    "Step 2: build a knowledge base": r"nanochat\.retrieval .*my_documents|kb (search|eval)|mode synthesize",
    "Step 3: train": r"^python -m scripts\.(tok_train|base_train|mid_train|rag_finetune) (--input|configs/tiny)",
    "Step 4: ask": r"--question",
    "Step 5: measure": r"rag_eval|base_eval",
    "What the numbers mean": r".",
    "Step 6: deploy": r"chat_cli",
    "Good practice": r".",
}
WORKFLOWS = [title for title in PARTS if title.startswith("Workflow ")]


def run(command: str) -> tuple[int, str, str]:
    """Exit code of a printed command at tiny size, what it printed, what it complained of."""
    module, arguments = module_and_arguments(command)
    assert module, f"not a command of ours: {command}"
    tiny = TINY.get(module, [])
    if isinstance(tiny, dict):
        tiny = tiny.get(arguments[arguments.index("--mode") + 1], [])
    if module == "scripts.rag_eval" and "--show_card" not in arguments:
        tiny = [*tiny, "--max_questions", "2"]
    home = importlib.import_module(f"{module}.__main__" if module == "nanochat.retrieval" else module)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_main(home.main, [*arguments, *tiny])
    return code, out.getvalue(), err.getvalue()


def run_all(text: str, wanted: str = ".", known: Collection[str] = ()) -> dict[str, str]:
    """Run the commands of a part of a page in order, those that `wanted` is found in and that are not `known`, having
    been run before; command -> what it printed.

    A command that a block "Error: ..." follows must fail with these words, all others must succeed.
    """
    printed = {}
    fences = FENCE.findall(text)
    for (language, body), (_, after) in zip(fences, [*fences[1:], ("", "")], strict=True):
        if language != "bash":
            continue
        for command in filter(re.compile(wanted).search, commands_in(f"```bash\n{body}```\n")):
            if command in known:
                continue
            code, out, err = run(command)
            if after.startswith("Error: "):
                assert code == 2 and err.startswith(after.strip()), f"{command}\n{err}"
            else:
                assert code == 0, f"{command}\n{out[-800:]}\n{err}"
            printed[command] = out
    return printed


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A working folder with configs/, docs/, a user's files, and the model to start from made by the page."""
    folder = tmp_path_factory.mktemp("workflows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        patch.chdir(folder)
        shutil.copytree(ROOT / "configs", "configs")
        for name in ("docs", "data/smoltalk", "data/papers"):
            os.makedirs(name)
        for name in ("answers.md", "interop.md"):
            shutil.copy(ROOT / "docs" / name, "docs")
        chat = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}
        Path("data/smoltalk/chats.jsonl").write_text(json.dumps(chat) + "\n")
        for document in spec_documents(12):
            Path(f"data/papers/{document['title']}.txt").write_text(f"{document['title']}\n\n{document['content']}\n")
        for name, lines in re.findall(r"`(data/\w+\.jsonl)`:\n\n```json\n(.*?)```", "\n".join(PARTS.values()), re.S):
            Path(name).write_text(lines)
        run_all(PARTS["A model to start from"])
        yield folder


def test_there_are_four_workflows_and_each_trains_and_asks():
    assert [title.partition(": ")[2] for title in WORKFLOWS] == [
        "quick start", "customer support", "technical documentation", "research assistant"]
    for title in WORKFLOWS:
        modules = {module_and_arguments(command)[0] for command in commands_in(PARTS[title])}
        assert "scripts.rag_finetune" in modules and modules & {"scripts.chat_cli", "scripts.rag_eval"}, title


@pytest.mark.parametrize("title", WORKFLOWS)
def test_a_workflow_runs_as_printed(title):
    printed = run_all(PARTS[title])
    for command, out in printed.items():
        module, arguments = module_and_arguments(command)
        if module == "scripts.rag_finetune":
            tag = arguments[arguments.index("--tag") + 1]
            meta = json.loads((base_dir() / f"checkpoints/rag/{tag}/step_000002/meta.json").read_text())
            assert meta["from"]["tag"] == "reader" and f"--tag {tag}" in out.splitlines()[-1]
        elif module == "scripts.chat_cli" and "--json" in arguments:
            assert {"text", "citations", "documents"} <= set(json.loads(out))
        elif "--suite" in arguments:
            tag = arguments[arguments.index("--tag") + 1]
            assert (base_dir() / f"checkpoints/rag/{tag}/step_000002/card.json").is_file()


def test_the_export_runs_as_printed():
    run_all(PARTS["Take it elsewhere"])
    assert Path("my_model_hf/config.json").is_file()


def test_the_guide_runs_as_printed_from_documents_to_good_practice():
    guide = sections("guide.md")
    specs = "".join(json.dumps(document) + "\n" for document in spec_documents())
    Path("data/my_documents.jsonl").write_text(Path("data/faq_docs.jsonl").read_text() + specs)
    shutil.copy("data/faq_test.jsonl", "data/questions.jsonl")
    printed: dict[str, str] = {}
    for title, wanted in GUIDE.items():
        more = run_all(guide[title], wanted, known=printed)
        assert more, f"{title}: no command is left that {wanted} matches"
        printed |= more
    assert (base_dir() / "checkpoints/rag/trial/step_000002").is_dir()
    assert "current" in next(out for command, out in printed.items() if "kb versions" in command)


@pytest.mark.parametrize("page", ["guide.md", "workflows.md", "troubleshooting.md", "../README.md"])
def test_links_lead_to_pages_and_headings(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = (ROOT / "docs" / page).parent / target if target else ROOT / "docs" / page
        assert path.exists(), f"{page}: {target} is not there"
        titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M) if heading else []
        slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in slugs, f"{page}: {target} has no heading #{heading}"

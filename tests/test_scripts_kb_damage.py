"""The commands on damaged knowledge bases and bad folders: every hint is a command that runs and helps."""

import shlex

import pytest
from knowledge_base_stubs import DOCUMENTS, build

from nanochat import cli
from nanochat.errors import KnowledgeBaseError, MissingDependency, UserError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.__main__ import main as build_main
from nanochat.retrieval.encoders import paths
from nanochat.retrieval.readers.files import skip_lines
from nanochat.retrieval.readers.parts import documents_of


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "my kb"
    build(DOCUMENTS, path)
    KnowledgeBase.open(path).add([Document(id="new", title="New", content="A kite for everyone.")])
    return path


def follow(hint):
    """Run the command of a "go back" hint."""
    assert hint.startswith("go back: nanochat "), hint
    return cli.main(shlex.split(hint.removeprefix("go back: nanochat ").split("; or ")[0]))


def owned_by_version_2(path):
    old = {part["name"] for part in KnowledgeBase.open(path, version=1).manifest["parts"]}
    return next(part["name"] for part in KnowledgeBase.open(path).manifest["parts"] if part["name"] not in old)


@pytest.mark.parametrize("damage", ["part", "version", "CURRENT", "no CURRENT"])
def test_the_hint_for_damage_is_a_command_that_repairs(place, damage, capsys):
    if damage == "no CURRENT":
        (place / "CURRENT").unlink()
    else:
        name = {"part": f"parts/{owned_by_version_2(place)}/documents.jsonl", "version": "versions/000002.json"}
        (place / name.get(damage, damage)).write_bytes(b"x")
    with pytest.raises(KnowledgeBaseError) as caught:
        KnowledgeBase.open(place)
    assert follow(caught.value.hint) == 0
    repaired = KnowledgeBase.open(place)
    repaired.verify()
    # where only CURRENT was damaged, nothing is lost
    assert len(repaired.documents) == len(DOCUMENTS) + ("CURRENT" in damage)


def test_a_hint_never_names_a_version_with_the_same_damage(place):
    (place / "parts" / KnowledgeBase.open(place, version=1).manifest["parts"][0]["name"] / "ids.npy").write_bytes(b"x")
    for version in (1, 2):
        with pytest.raises(KnowledgeBaseError) as caught:
            KnowledgeBase.open(place, version=version)
        assert "rollback" not in caught.value.hint


def test_versions_are_listed_where_the_current_one_is_damaged(place, capsys):
    (place / "parts" / owned_by_version_2(place) / "documents.jsonl").write_bytes(b"x")
    assert cli.main(["kb", "versions", str(place)]) == 0
    assert "<- current" in capsys.readouterr().out


def test_a_build_of_nothing_says_what_was_skipped(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "program.txt").write_bytes(b"\x7fELF\0\0\0\0" * 100)
    with pytest.raises(UserError, match="at least one document"):
        build_main(["--documents", str(tmp_path / "in"), "--output", str(tmp_path / "kb"), "--type", "bm25"])
    assert "program.txt: not a text file" in capsys.readouterr().out
    assert not (tmp_path / "kb").exists()


def test_a_broken_file_is_not_lost_among_files_of_other_kinds():
    other = "x/{}.o: no reader for this kind of file"
    lines = skip_lines([*(other.format(number) for number in range(1000)), "b.pdf: is damaged"])
    assert lines[0] == "skipped b.pdf: is damaged"
    assert len(lines) == 2 and "1,000 files without a reader" in lines[1]


def test_a_huge_heading_is_cut():
    text = "# " + "word " * 100_000
    [document] = documents_of(text, "a.md", title=text, headings=[(0, 1, text)])
    assert len(document.title) <= 300
    assert len(document.metadata["headings"][0][2]) <= 300
    assert document.content == text, len(document.content)


def test_passages_do_not_repeat_a_huge_heading(tmp_path):
    long = "word " * 1000
    document = Document(id="a", title="A", content="Some words. " * 50, metadata={"headings": [[0, 1, long]]})
    knowledge_base = KnowledgeBase.build([document], tmp_path / "kb", "simple", chunk_words=20)
    assert all(len(passage.metadata["heading"]) <= 300 for passage in knowledge_base.documents)


@pytest.mark.parametrize("argv", [["kb"], ["kb", "--help"]])
def test_a_group_of_commands_is_listed(argv, capsys):
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "nanochat kb rollback" in out and "nanochat chat" not in out


def test_the_hint_for_missing_packages_is_a_command_for_pip(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        paths.choose_path("torch")
    assert caught.value.hint == "uv pip install torch transformers"

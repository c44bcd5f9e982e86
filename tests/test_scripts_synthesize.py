"""Mode synthesize of scripts.prepare_rag_dataset through its main: files, refusals, other languages, nothing left."""

import json

import pytest
from flag_tables import ROOT, filled
from synthesis_stubs import SITE, world_documents
from test_rag_teacher import GOOD, KEY, completion, server

from nanochat.common import run_main
from nanochat.rag.questions import read_questions
from nanochat.retrieval import Document, KnowledgeBase
from scripts.prepare_rag_dataset import main

FILES = [f"{kind}_{split}.jsonl" for kind in ("episodes", "queries") for split in ("test", "train", "validation")]


def write(path, documents):
    lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def synthesize(documents, folder, *words):
    return run_main(main, ["--mode", "synthesize", "--documents", str(documents), "--output", str(folder), *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Training data of a small world, its documents and what was printed."""
    folder = tmp_path_factory.mktemp("data")
    documents = write(folder / "documents.jsonl", world_documents(num_entities=60))
    assert synthesize(documents, folder / "out", "--seed", "2") == 0
    return folder


def test_the_folder_is_complete_and_its_questions_fit_its_knowledge_base(made, capsys):
    out = made / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*FILES, "knowledge_base", "statistics.html", "statistics.json"])
    ids = {document.id for document in KnowledgeBase.open(out / "knowledge_base").documents}
    for split in ("train", "validation", "test"):
        assert read_questions(out / f"queries_{split}.jsonl", ids)
        assert all(set(record) >= {"id", "kind", "messages"} for record in lines_of(out / f"episodes_{split}.jsonl"))
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["questions"]["train"] == len(lines_of(out / "queries_train.jsonl"))
    assert str(made) not in json.dumps(statistics)


def test_the_same_seed_writes_the_same_bytes_and_replaces_its_own(made, capsys):
    files = {name: (made / "out" / name).read_bytes() for name in [*FILES, "statistics.json", "statistics.html"]}
    assert synthesize(made / "documents.jsonl", made / "again", "--seed", "2") == 0
    printed = capsys.readouterr().out
    assert "documents/s by rule" in printed and f"--knowledge_base {made / 'again' / 'knowledge_base'}" in printed
    assert {name: (made / "again" / name).read_bytes() for name in files} == files
    assert synthesize(made / "documents.jsonl", made / "again", "--seed", "3") == 0
    assert (made / "again" / FILES[0]).read_bytes() != files[FILES[0]]


def test_a_knowledge_base_is_asked_about_as_it_is(made, tmp_path, capsys):
    base = made / "out" / "knowledge_base"
    words = ["--mode", "synthesize", "--knowledge_base", str(base), "--output", str(tmp_path / "new"), "--seed", "2",
             "--chunk_words", "9"]
    assert run_main(main, words) == 0
    printed = capsys.readouterr().out
    assert f"--knowledge_base {base} --questions" in printed and "--chunk_words has no effect" in printed
    assert run_main(main, ["--documents" if word == "--knowledge_base" else word for word in words]) == 0
    assert "--chunk_words has no effect" in capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == sorted([*FILES, "statistics.html", "statistics.json"])
    assert (tmp_path / "new" / FILES[1]).read_bytes() == (made / "out" / FILES[1]).read_bytes()


def test_edited_data_and_folders_of_others_are_left_alone(made, tmp_path, capsys):
    assert synthesize(made / "documents.jsonl", tmp_path / "mine") == 0
    with (tmp_path / "mine" / "queries_train.jsonl").open("a") as file:
        file.write("\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "statistics.json").write_text("[" * 100_000)
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, words in (("mine", "queries_train.jsonl was edited"), ("other", "it is not training data"),
                        ("fake", "it is not training data"), ("file", "it is a file")):
        capsys.readouterr()
        assert synthesize(made / "documents.jsonl", tmp_path / name) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 2 and words in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_knowledge_base_in_the_output_is_never_lost(tmp_path, capsys):
    documents = write(tmp_path / "site.jsonl", SITE)
    out = tmp_path / "out"
    base = out / "knowledge_base"
    assert synthesize(documents, out) == 0
    again = ["--mode", "synthesize", "--output", str(out)]
    (tmp_path / "link").symlink_to(base)
    for words in (["--knowledge_base", str(base)], ["--documents", str(base)], ["--knowledge_base", f"{base}/"],
                  ["--knowledge_base", str(tmp_path / "link")], ["--documents", documents, str(out)]):
        capsys.readouterr()
        assert run_main(main, again + words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and "lies inside --output" in lines[0] and "--output" in lines[1]
        assert KnowledgeBase.open(base).num_documents == len(SITE)
    # what nobody touched is replaced; what was changed since is not
    assert synthesize(documents, out, "--seed", "1") == 0
    KnowledgeBase.open(base).add([Document(id="mine", title="Mine", content="Mine is a new one.")])
    capsys.readouterr()
    assert synthesize(documents, out) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "has changed since it was built here" in lines[0] and f"--knowledge_base {base} --output {out}-2" in lines[1]
    assert KnowledgeBase.open(base).document("mine") is not None
    assert run_main(main, ["--mode", "synthesize", "--knowledge_base", str(base), "--output", f"{out}-2"]) == 0


def test_passages_of_long_documents_carry_their_document_and_its_headings(tmp_path, capsys):
    part = "\n\n".join(f"## Torvik{n} mill\n\nTorvik{n} mill was sold to Velda{n} in {1700 + n}. " + "It is so. " * 40
                       for n in range(12))
    (tmp_path / "book.md").write_text(f"# Mills\n\n{part}", encoding="utf-8")
    (tmp_path / "huge.txt").write_text("the mill and the lamp of it " * 16_000 + "were here.", encoding="utf-8")
    assert synthesize(tmp_path / "book.md", tmp_path / "out", "--kinds", "heading") == 0
    questions = [question for split in ("train", "validation", "test") for question in lines_of(
        tmp_path / "out" / f"queries_{split}.jsonl") if question["answers"]]
    assert {question["parent"] for question in questions} == {"book.md"} and len(questions) >= 10
    assert run_main(main, ["--mode", "synthesize", "--documents", str(tmp_path / "book.md"), str(tmp_path / "huge.txt"),
                           "--output", str(tmp_path / "both")]) == 0


def test_other_languages_do_not_crash(tmp_path, capsys):
    texts = {"de": "## Wie lange dauert der Versand?\n\nDrei Tage.\n\n| Ware | Preis |\n|---|---|\n| Kessel | 49 |",
             "zh": "\u95ee\uff1a\u53ef\u4ee5\u6362\u8d27\u5417\uff1f\n"
                   "\u7b54\uff1a\u4e03\u5929\u4e4b\u5185\u3002\n\n\u516c\u53f8\u6210\u7acb\u4e8e1987\u5e74\u3002",
             "ar": "# \u0643\u0645 \u064a\u0633\u062a\u063a\u0631\u0642\u061f\n\n"
                   "\u062b\u0644\u0627\u062b\u0629 \u0623\u064a\u0627\u0645 \u0639\u0645\u0644."}
    for name, text in texts.items():
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    files = [str(tmp_path / f"{name}.md") for name in texts]
    assert run_main(main, ["--mode", "synthesize", "--documents", *files, "--output", str(tmp_path / "out")]) == 0
    asked = [question for split in ("train", "validation", "test")
             for question in lines_of(tmp_path / "out" / f"queries_{split}.jsonl") if question["answers"]]
    assert {question["answer_id"] for question in asked} == {"de.md", "zh.md", "ar.md"}


def test_a_teachers_questions_pass_the_filters_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NANOCHAT_TEACHER_KEY", KEY)
    reply = completion([("Who sold the first kettle of the firm?", "Odessa Crane"), ("What does this text say?", "RCD"),
                        ("Who is it?", "Nobody")])
    documents = write(tmp_path / "site.jsonl", SITE)
    with server([reply, GOOD]) as (url, seen):
        words = ["--teacher_url", url, "--teacher_model", "small", "--questions_per_document", "9"]
        assert synthesize(documents, tmp_path / "out", *words) == 0
        assert synthesize(documents, tmp_path / "out", *words) == 0
    assert len(seen) == len(SITE)
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["teacher"] == {"cached": 5, "malformed": 0} and statistics["filters"]["verbatim"] >= 8
    assert (tmp_path / "out.teacher.jsonl").is_file()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in capsys.readouterr().out


def test_the_documents_page_names_every_flag_kind_and_filter():
    from nanochat.rag.data_page import MEANINGS
    from nanochat.rag.filters import REASONS, REMEDIES
    from nanochat.rag.training_data import KINDS

    text = (ROOT / "docs" / "training_data.md").read_text(encoding="utf-8")
    assert filled(text) == text, "flags have changed: python tests/flag_tables.py"
    assert set(REASONS) == set(REMEDIES)
    missing = [name for name in (*KINDS, *REASONS, *MEANINGS) if f"| `{name}` |" not in text]
    assert not missing, missing


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, capsys):
    from nanochat.rag import data_page

    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(data_page, "render_page", interrupt)
    documents = write(tmp_path / "site.jsonl", SITE)
    assert synthesize(documents, tmp_path / "out") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["site.jsonl"]


@pytest.mark.parametrize(("words", "message"), [
    ([], "--documents is missing"),
    (["--documents", "site.jsonl", "--knowledge_base", "kb", "--output", "o"], "both given"),
    (["--documents", "site.jsonl"], "--output is missing"),
    (["--documents", ".", "--output", "o"], "lies inside --documents ."),
    (["--documents", "none.jsonl", "--output", "o"], "none.jsonl: file not found"),
    (["--knowledge_base", "none", "--output", "o"], "Knowledge base not found"),
    (["--documents", "site.jsonl", "--output", "o", "--max_documents", "0"], "--max_documents is 0"),
    (["--documents", "site.jsonl", "--output", "o", "--present_share", "0"], "--present_share is 0.0"),
    (["--documents", "site.jsonl", "--output", "o", "--edited_share", "0.6", "--injected_share", "0.5"],
     "more than 0.9"),
    (["--documents", "site.jsonl", "--output", "o", "--kinds", "riddle"], "Unknown kind of question: 'riddle'"),
    (["--documents", "site.jsonl", "--output", "o", "--teacher_url", "https://api.example.org/v1", "--teacher_model",
      "m"], "No key for the teacher at api.example.org"),
    (["--documents", "site.jsonl", "--output", "o", "--kinds", "fact", "--filter_top_k", "1", "--limit", "1"],
     "No questions: no rule found anything"),
    (["--documents", "alike.jsonl", "--output", "o"], "'ambiguous'"),
])  # fmt: skip
def test_mistakes_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("NANOCHAT_TEACHER_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write(tmp_path / "site.jsonl", SITE)
    write(tmp_path / "alike.jsonl", [{**SITE[1], "id": str(number)} for number in range(6)])
    assert run_main(main, ["--mode", "synthesize", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0], lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alike.jsonl", "site.jsonl"]

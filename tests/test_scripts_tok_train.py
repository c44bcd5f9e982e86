"""scripts.tok_train: from files to tokenizer.json, and one sentence for every input that cannot work."""

import gzip
import json

import pytest

from nanochat.common import run_main
from nanochat.tokenizer import Tokenizer
from scripts.tok_train import CONFIG, main, read_texts


def write_documents(path, count=60):
    contents = [f"The bridge {i} opened in {1900 + i}." for i in range(count)]
    records = [{"id": f"d{i}", "title": f"Bridge {i}", "content": content} for i, content in enumerate(contents)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_tokenizer_is_trained_measured_and_written(tmp_path, capsys):
    documents = write_documents(tmp_path / "documents.jsonl")
    output = tmp_path / "tokenizer"
    assert main(["--input", str(documents), "--vocab_size", "400", "--output", str(output)]) == 0
    tokenizer = Tokenizer.load(output)
    assert tokenizer.vocab_size <= 400
    assert len(tokenizer.encode(" bridge")) == 1
    printed = capsys.readouterr().out
    assert "bytes per token on held-out texts" in printed
    assert f"Wrote {output / 'tokenizer.json'}: {tokenizer.vocab_size} ids" in printed
    assert "python -m scripts.base_train" in printed


def test_the_default_output_is_in_the_base_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    assert main(["--input", str(write_documents(tmp_path / "documents.jsonl", count=3))]) == 0
    assert (tmp_path / "base" / "tokenizer" / "tokenizer.json").is_file()
    printed = capsys.readouterr().out
    assert "on the training texts, too few to hold some out" in printed
    assert "ids, not 4096" in printed


def test_every_known_form_gives_its_texts(tmp_path):
    lines = [
        {"id": "d", "title": "Torvik", "content": "It opened.", "source": "not read"},
        {"text": " plain "},
        {"id": "q", "question": "When?", "answers": ["1987"]},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]},
    ]
    content = "\n".join(map(json.dumps, lines))
    (tmp_path / "all.jsonl").write_text(content, encoding="utf-8")
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    expected = [" Torvik", " It opened.", " plain", " When?", " Hello", " Hi"]
    assert list(read_texts(str(tmp_path / "all.jsonl"))) == expected
    assert list(read_texts(str(tmp_path / "all.jsonl.gz"))) == expected
    (tmp_path / "plain.txt").write_text("first line\n\n{second}\n", encoding="utf-8")
    assert list(read_texts(str(tmp_path / "plain.txt"))) == [" first line", " {second}"]


def test_several_files_and_a_limit_of_characters(tmp_path, capsys):
    first, second = write_documents(tmp_path / "a.jsonl", 2), write_documents(tmp_path / "b.jsonl", 2)
    base = ["--vocab_size", "330", "--output", str(tmp_path / "tok")]
    assert main(["--input", f"{first}, {second}", *base]) == 0
    assert "Training on 8 texts" in capsys.readouterr().out
    assert main(["--input", f"{first},{second}", "--max_chars", "10", *base]) == 0
    assert "Training on 2 texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--input is missing"),
        (["--input", "{folder}/none.jsonl"], "File not found: {folder}/none.jsonl"),
        (["--input", "{folder}/empty.jsonl"], "No text in {folder}/empty.jsonl"),
        (["--input", "{folder}/bad.jsonl"], "{folder}/bad.jsonl:2: not valid JSON"),
        (["--input", "{folder}/strange.jsonl"], "{folder}/strange.jsonl:1: no text here"),
        (["--input", "{folder}/good.jsonl", "--vocab_size", "100"], "vocab_size 100 is too small"),
        (["--input", "{folder}/good.jsonl", "--max_chars", "-1"], "--max_chars is -1"),
        (["--inputs", "x"], "inputs"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, flags, problem):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text": \n', encoding="utf-8")
    (tmp_path / "strange.jsonl").write_text('{"body": "x"}\n', encoding="utf-8")
    (tmp_path / "good.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    argv = [flag.format(folder=tmp_path) for flag in flags] + ["--output", str(tmp_path / "tok")]
    assert run_main(main, argv) == 2
    assert problem.format(folder=tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "tok").exists()


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in CONFIG.__dataclass_fields__)

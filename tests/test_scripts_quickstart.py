"""Journey: the whole quickstart chain on a user's own documents, in its smoke form, then again."""

import json

import pytest

from bench import quickstart as bench
from nanochat.common import run_main
from scripts.quickstart import main
from tasks.worlds import WorldConfig, make_world


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request):
    """Folder of a finished smoke run, and what the run printed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    folder = tmp_path_factory.mktemp("quickstart")
    documents = make_world(WorldConfig(seed=9, num_entities=40)).documents
    (folder / "my faq.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    with capture.global_and_fixture_disabled():
        assert run_main(main, arguments(folder)) == 0
    return folder


def arguments(folder):
    return ["--documents", str(folder / "my faq.jsonl"), "--speed", "smoke", "--output", str(folder / "data")]


def test_a_second_run_skips_what_is_done_and_ends_with_table_answer_and_commands(finished, capsys):
    work = finished / "data" / "quickstart-my-faq-smoke"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and path.name != "times.json"}
    assert run_main(main, arguments(finished)) == 0
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert printed.count("already there") >= 7
    assert "step 2/2" not in printed, "something was trained again"
    for part in ("Results on fresh world", "Results on your documents", "condition", "retrieved", "You: ",
                 "Assistant: ", "python -m scripts.chat_cli --knowledge_base", "bash runs/quickstart.sh --documents"):
        assert part in printed


def test_other_documents_do_not_pass_for_those_of_the_first_run(finished, capsys):
    other = [*arguments(finished), "--limit", "7"]
    assert run_main(main, other) == 2
    assert "was begun with other documents: not the same limit\n" in capsys.readouterr().err
    path = finished / "elsewhere" / "my faq.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "a", "title": "A", "content": "Another file of the same name."}\n')
    assert run_main(main, [*arguments(finished), "--documents", str(path)]) == 2
    assert "not the same content\n" in capsys.readouterr().err


def test_the_benchmark_gathers_the_reports(finished, capsys):
    work, output = finished / "data" / "quickstart-my-faq-smoke", finished / "numbers.json"
    assert run_main(bench.main, ["--folders", str(work), "--output", str(output)]) == 0
    run = json.loads(output.read_text())["quickstart-my-faq-smoke"]
    assert set(run["reports"]) == {"report", "report_my_documents"}
    assert [goal["condition"] for goal in run["goals"]] == ["retrieved", "closed_book", "wrong", "retrieved"]
    assert "goal >= 0.90: MISSED" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, problem", [
    (["--documents", "nowhere.jsonl"], "Documents not found: nowhere.jsonl"),
    (["--speed", "ful"], "--speed is 'ful'"),
    (["--docments", "x.jsonl"], "--docments"),
])
def test_bad_settings_are_refused_before_anything_is_written(arguments, problem, tmp_path, capsys):
    assert run_main(main, [*arguments, "--output", str(tmp_path / "data")]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_an_unfinished_quickstart_has_no_numbers(tmp_path, capsys):
    assert run_main(bench.main, ["--folders", str(tmp_path), "--output", str(tmp_path / "x.json")]) == 2
    assert "No finished quickstart" in capsys.readouterr().err

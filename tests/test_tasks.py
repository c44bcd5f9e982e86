"""Tasks: every entry of TASKS gives legal conversations, chosen by the seed, and says file:line when it cannot."""

import gzip
import json
import logging
import random
import sys
import types

import pytest

from nanochat.conversation import check_conversation
from nanochat.errors import ConfigError, ConversationError, DocumentError, MissingDependency, UserError
from tasks.base import TASKS, TaskSpec, WeightedTasks, load_task, parse_tasks
from tasks.jsonl import JsonlTask
from tasks.smoltalk import HUB_ID


def chat(number):
    question = {"role": "user", "content": f"Question {number}?"}
    return {"messages": [question, {"role": "assistant", "content": f"Answer {number}."}]}


def write_chats(path, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(chat(i)) + "\n" for i in range(count)).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


CHATS = ("SmolTalk", "Jsonl")  # tasks whose files hold conversations


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("name", CHATS)
def test_every_task_reads_a_file_slices_and_is_legal(name, suffix, tmp_path):
    path = write_chats(tmp_path / f"chats{suffix}", 40)
    task = load_task(f"{name}:{path}", samples=0, seed=0)
    assert list(task) == [chat(i) for i in range(40)]
    assert task[3:5] == [chat(3), chat(4)]
    for conversation in task:
        check_conversation(conversation)


@pytest.mark.parametrize("name", CHATS)
def test_samples_are_chosen_by_the_seed_without_repetition(name, tmp_path):
    path = write_chats(tmp_path / "chats.jsonl", 40)
    first, again, other = (list(load_task(f"{name}:{path}", samples=10, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({json.dumps(conversation) for conversation in first}) == 10
    assert len(load_task(f"{name}:{path}", samples=100, seed=1)) == 40


def test_every_line_is_as_likely_as_any_other(tmp_path):
    path = write_chats(tmp_path / "chats.jsonl", 10)
    counts = dict.fromkeys(range(10), 0)
    for seed in range(400):
        for conversation in JsonlTask.load(3, seed, path=str(path)):
            counts[int(conversation["messages"][0]["content"].split()[1].rstrip("?"))] += 1
    # 1200 draws over 10 lines, standard deviation about 9
    assert all(80 < count < 160 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        (b"", DocumentError, "chats.jsonl is empty"),
        (b"\n \n", DocumentError, "chats.jsonl is empty"),
        (b"\n{oops\n", DocumentError, "chats.jsonl:2: not valid JSON"),
        (b"[" * 100_000, DocumentError, "chats.jsonl:1: not valid JSON"),
        (b"[1]\n", DocumentError, "chats.jsonl:1: not a JSON object but [1]"),
        (b'{"messages": []}\n', ConversationError, "chats.jsonl:1: The conversation ends before its first message"),
        (b'{"text": "x"}\n', ConversationError, "chats.jsonl:1: A conversation needs a list of 'messages'"),
        (b'\n\xff\xfe\n', DocumentError, "chats.jsonl:2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, error, problem):
    (tmp_path / "chats.jsonl").write_bytes(content)
    with pytest.raises(error) as caught:
        load_task(f"Jsonl:{tmp_path / 'chats.jsonl'}", samples=0, seed=0)
    assert problem in caught.value.problem
    assert caught.value.hint


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DocumentError, match="File not found: .*none.jsonl"):
        load_task(f"Jsonl:{tmp_path}/none.jsonl", samples=0, seed=0)
    with pytest.raises(DocumentError, match="Cannot read"):
        load_task(f"Jsonl:{tmp_path}", samples=0, seed=0)
    (tmp_path / "plain.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(DocumentError, match="plain.jsonl.gz:1: damaged"):
        load_task(f"Jsonl:{tmp_path}/plain.jsonl.gz", samples=0, seed=0)
    packed = write_chats(tmp_path / "cut.jsonl.gz", 500)
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(DocumentError, match="cut.jsonl.gz:[0-9]+: damaged"):
        load_task(f"Jsonl:{packed}", samples=0, seed=0)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(chat(0)).encode())
    assert list(load_task(f"Jsonl:{path}", samples=0, seed=0)) == [chat(0)]


@pytest.mark.parametrize(("text", "specs"), [
    ("SmolTalk", [TaskSpec(name="SmolTalk")]),
    ("smoltalk:2, jsonl:a/b.jsonl:0.5,", [TaskSpec(name="SmolTalk", weight=2.0),
                                          TaskSpec(name="Jsonl", path="a/b.jsonl", weight=0.5)]),
    ("SmolTalk=data/chat:3", [TaskSpec(name="SmolTalk", path="data/chat", weight=3.0)]),
    ("SmolTalk=7", [TaskSpec(name="SmolTalk", path="7")]),
    ("Jsonl:a:b.jsonl", [TaskSpec(name="Jsonl", path="a:b.jsonl")]),
    ("", []),
])
def test_names_paths_and_weights_are_told_apart(text, specs):
    assert parse_tasks(text) == specs


def test_a_mixture_follows_its_weights_whatever_the_sizes():
    few, many = [chat(0), chat(1)], [chat(i) for i in range(2, 1002)]
    mixed = WeightedTasks([few, many, []], [3.0, 1.0, 5.0])
    rng = random.Random(0)
    drawn = [int(rng.choice(mixed)["messages"][0]["content"][9:-1]) for _ in range(4000)]
    share = sum(number < 2 for number in drawn) / len(drawn)
    assert share == pytest.approx(0.75, abs=0.03) and mixed.num_conversations == 1002
    assert drawn.count(0) / drawn.count(1) == pytest.approx(1.0, abs=0.15) and len(set(drawn)) > 500
    assert mixed[0] == chat(0) and mixed[len(mixed) - 1] == chat(1001)
    assert len(WeightedTasks([], [])) == 0


def test_smoltalk_reads_a_folder_and_leaves_the_test_split_out(tmp_path):
    write_chats(tmp_path / "data" / "train-0.jsonl", 3)
    write_chats(tmp_path / "data" / "test-0.jsonl", 50)
    (tmp_path / "README.md").write_text("not data")
    assert list(load_task(f"SmolTalk={tmp_path}", samples=0, seed=0)) == [chat(i) for i in range(3)]
    assert len(load_task(f"SmolTalk={tmp_path}", samples=2, seed=0)) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="No conversations in .*empty"):
        load_task(f"SmolTalk={tmp_path / 'empty'}", samples=0, seed=0)


def test_smoltalk_reads_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"messages": chat(i)["messages"], "source": "x"} for i in range(30)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-0.parquet", row_group_size=8)
    write_chats(tmp_path / "train-1.jsonl", 2)
    everything = list(load_task(f"SmolTalk={tmp_path}", samples=0, seed=0))
    assert everything == [chat(0), chat(1), *(chat(i) for i in range(30))]
    some = list(load_task(f"SmolTalk={tmp_path}", samples=5, seed=3))
    assert len(some) == 5 and all(conversation in everything for conversation in some)
    (tmp_path / "train-0.parquet").write_bytes(b"version https://git-lfs")
    with pytest.raises(DocumentError, match="cannot be read as parquet"):
        load_task(f"SmolTalk={tmp_path}", samples=0, seed=0)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependency, match="No module named 'pyarrow'") as caught:
        load_task(f"SmolTalk={tmp_path}", samples=0, seed=0)
    assert "Jsonl:FILE" in caught.value.hint


def test_unknown_tasks_and_missing_paths_are_refused():
    with pytest.raises(ConfigError, match="Unknown task 'SmallTalk'"):
        load_task("SmallTalk", samples=1, seed=0)
    with pytest.raises(ConfigError, match="needs a file"):
        load_task("Jsonl", samples=1, seed=0)
    for spec in ("Jsonl:x:0", "Jsonl:x:-1", "Jsonl:x:inf"):
        with pytest.raises(ConfigError, match="must be above 0"):
            load_task(spec, samples=1, seed=0)
    with pytest.raises(ConfigError, match="reads no file"):
        load_task("Worlds:x", samples=1, seed=0)
    for name in set(TASKS) - {"SmolTalk", "Worlds"}:
        with pytest.raises(ConfigError, match="needs a file"):
            load_task(name, samples=1, seed=0)
    with pytest.raises(ConfigError, match="samples is -1"):
        load_task("SmolTalk", samples=-1, seed=0)


@pytest.mark.parametrize("name", ["data/smoltalk.jsonl", "data/smoltalk.jsonl.gz"])
def test_smoltalk_prefers_a_local_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / name, 4)
    assert list(load_task("smoltalk", samples=0, seed=0)) == [chat(i) for i in range(4)]


def test_smoltalk_without_file_and_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match="No module named 'datasets'") as caught:
        load_task("SmolTalk", samples=5, seed=0)
    assert "--base_tasks SmolTalk=data/smoltalk" in caught.value.hint and "Jsonl:" in caught.value.hint


class Rows(list):
    """The two methods of a hub data set that are used."""

    def shuffle(self, seed):
        return Rows(self[::-1])

    def select(self, indices):
        return Rows(self[i] for i in indices)


def with_hub(monkeypatch, load_dataset):
    library = types.ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)


def test_smoltalk_reads_the_hub_and_counts_what_it_leaves_out(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    asked = []
    broken = {"messages": [{"role": "assistant", "content": "Hello."}], "source": "x"}

    def load_dataset(name, split):
        asked.append((name, split))
        return Rows([chat(0), chat(1), broken, {**chat(2), "source": "x"}])

    with_hub(monkeypatch, load_dataset)
    with caplog.at_level(logging.WARNING):
        assert list(load_task("SmolTalk", samples=3, seed=0)) == [chat(2), chat(1)]
    assert "left out 1" in caplog.text
    assert asked == [(HUB_ID, "train")]


def test_smoltalk_without_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_dataset(name, split):
        raise ConnectionError("Couldn't reach the hub\nsecond line")

    with_hub(monkeypatch, load_dataset)
    with pytest.raises(UserError) as caught:
        load_task("SmolTalk", samples=3, seed=0)
    assert caught.value.problem == f"Cannot load {HUB_ID} from the hub: Couldn't reach the hub"
    assert "--base_tasks SmolTalk=data/smoltalk" in caught.value.hint and "Jsonl:" in caught.value.hint

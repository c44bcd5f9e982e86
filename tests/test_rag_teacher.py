"""The teacher: asked once, patient with a busy server, plain about one that refuses, and silent about the key."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from synthesis_stubs import make_library

from nanochat.errors import ConfigError
from nanochat.rag import teacher as teaching
from nanochat.rag.taught import place_of, taught_questions
from nanochat.rag.teacher import Teacher, TeacherError, parse_reply

KEY = "sk-very-secret"
DOCUMENTS = [{"id": name, "title": name, "content": f"The mill of {name} was built in {1800 + place} by\nhand."}
             for place, name in enumerate(("Velda", "Torvik", "Brin"))]


def completion(pairs):
    text = json.dumps([{"question": question, "answer": answer} for question, answer in pairs])
    return 200, {}, json.dumps({"choices": [{"message": {"content": f"Here you are:\n```json\n{text}\n```"}}]})


GOOD = completion([("When was the mill built?", "by hand"), ("What is it?", "nothing of that")])


@contextmanager
def server(replies):
    """A chat completions server on this machine; `replies` are given in turn, the last one again and again."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                seen.append((self.path, self.headers.get("Authorization"), json.loads(body)))
                status, headers, text = replies.pop(0) if len(replies) > 1 else replies[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    lock = threading.Lock()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1", seen
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def make_teacher(url, tmp_path, waits=None, environment=None, **more):
    return Teacher(url, "small", cache=tmp_path / "kept.jsonl", wait=(waits if waits is not None else []).append,
                   environment={"OPENAI_API_KEY": KEY} if environment is None else environment, **more)


def test_questions_come_in_order_and_are_asked_for_once(tmp_path):
    with server([GOOD]) as (url, seen):
        teacher = make_teacher(url, tmp_path)
        library = make_library(DOCUMENTS)
        questions = list(taught_questions(teacher, library, 2))
        wanted = [f"{name}#teacher{n}" for name in ("Velda", "Torvik", "Brin") for n in (0, 1)]
        assert [question["id"] for question in questions] == wanted
        first, second = questions[:2]
        content = DOCUMENTS[0]["content"]
        assert content[first["answer_start"] : first["answer_end"]] == "by\nhand" and first["answers"] == ["by hand"]
        # an answer that does not stand there is left to the filter
        assert (second["answer_start"], second["answer_end"]) == (0, 0) and second["answers"] == ["nothing of that"]
        assert {(path, key) for path, key, _ in seen} == {("/v1/chat/completions", f"Bearer {KEY}")}
        assert all(body["model"] == "small" for *_, body in seen)
        assert all("Write 2 questions" in body["messages"][0]["content"] for *_, body in seen)
        again = make_teacher(url, tmp_path)
        assert list(taught_questions(again, library, 2)) == questions
        assert len(seen) == 3 and again.counts["cached"] == 3 and again.counts["asked"] == 0
        assert KEY not in (tmp_path / "kept.jsonl").read_text()
        # another number of questions is another thing to ask
        list(taught_questions(make_teacher(url, tmp_path), library, 1))
        assert len(seen) == 6


def test_who_gives_up_waits_for_no_reply(tmp_path):
    answers = threading.Event()
    teacher = make_teacher("http://127.0.0.1:9/v1", tmp_path)
    teacher._ask = lambda prompt: answers.wait(60) and "[]"
    asked = teacher.questions(DOCUMENTS, 1)
    threading.Timer(0.2, lambda: asked_threads.extend(
        thread for thread in threading.enumerate() if thread.name.startswith("teacher"))).start()
    asked_threads = []
    threading.Timer(0.4, answers.set).start()
    next(asked)
    asked.close()
    assert asked_threads and all(thread.daemon for thread in asked_threads), "Python would wait for them at its end"


def test_a_busy_or_broken_server_is_asked_again(tmp_path):
    waits = []
    replies = [(429, {"Retry-After": "7"}, ""), (500, {}, "oops"), (200, {}, "no json"),
               (200, {}, '{"choices": []}'), GOOD]
    with server(replies) as (url, seen):
        teacher = make_teacher(url, tmp_path, waits)
        ((_, pairs),) = teacher.questions(DOCUMENTS[:1], 4)
        assert len(pairs) == 2 and len(seen) == 5 and waits == [7.0, 2.0, 4.0, 8.0] and teacher.counts["retried"] == 4


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    with server([GOOD, (503, {}, "")]) as (url, seen), pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "WORKERS", 1)
        with pytest.raises(TeacherError) as caught:
            list(make_teacher(url, tmp_path).questions(DOCUMENTS, 4))
        assert "503" in caught.value.problem and "1 replies are kept" in caught.value.hint
        assert KEY not in str(caught.value)
    with server([GOOD]) as (url, seen):
        assert len(list(make_teacher(url, tmp_path).questions(DOCUMENTS, 4))) == 3
        assert len(seen) == 2
    # a line that a crash cut off costs one question, not the run
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"key": "a')
    with server([GOOD]) as (url, seen):
        assert len(list(make_teacher(url, tmp_path).questions(DOCUMENTS, 4))) == 3 and seen == []


@pytest.mark.parametrize(("reply", "words"), [
    ((401, {}, ""), "does not accept the key"), ((404, {}, ""), "--teacher_url"), ((400, {}, ""), "log"),
    ((302, {"Location": "http://127.0.0.1:1/"}, ""), "final address"),
])  # fmt: skip
def test_a_refusal_is_said_at_once(tmp_path, reply, words):
    with server([reply]) as (url, seen):
        with pytest.raises(TeacherError) as caught:
            list(make_teacher(url, tmp_path).questions(DOCUMENTS[:1], 4))
        assert words in caught.value.hint and str(reply[0]) in caught.value.problem and len(seen) == 1


def test_nobody_there(tmp_path):
    with pytest.raises(TeacherError) as caught:
        list(make_teacher("http://127.0.0.1:1/v1", tmp_path, timeout_s=1).questions(DOCUMENTS, 4))
    assert "cannot be reached" in caught.value.problem and "5 tries" in caught.value.problem
    assert not (tmp_path / "kept.jsonl").exists()


@pytest.mark.parametrize(("url", "model", "words"), [
    ("ftp://host", "m", "--teacher_url is"), ("nonsense", "m", "--teacher_url is"),
    ("http://localhost", "", "--teacher_model"), ("http://[::1", "m", "--teacher_url is"),
    ("http://localhost:abc/v1", "m", "--teacher_url is"), ("http://local host/v1", "m", "--teacher_url is"),
    ("https://api.example.org/v1", "m", "No key for the teacher at api.example.org"),
])  # fmt: skip
def test_settings_that_cannot_work(tmp_path, url, model, words):
    with pytest.raises(ConfigError, match=words):
        Teacher(url, model, cache=tmp_path / "kept.jsonl", environment={})


@pytest.mark.parametrize("key", ["a\nb", "schl\u00fcssel"])
def test_a_key_that_no_server_can_be_sent_is_said_and_not_shown(tmp_path, key):
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        Teacher("http://localhost/v1", "m", cache=tmp_path / "kept.jsonl", environment={"NANOCHAT_TEACHER_KEY": key})
    assert key not in str(caught.value)


def test_a_teacher_that_talks_nonsense_is_said_and_asked_again(tmp_path):
    nonsense = 200, {}, json.dumps({"choices": [{"message": {"content": "I would rather not."}}]})
    with server([nonsense]) as (url, seen):
        for _ in range(2):
            with pytest.raises(TeacherError, match="none of its replies is a list of questions"):
                list(make_teacher(url, tmp_path).questions(DOCUMENTS, 4))
        assert len(seen) == 2 * len(DOCUMENTS)
    lines = []
    with server([nonsense, GOOD, GOOD]) as (url, _):
        found = list(make_teacher(url, tmp_path).questions(DOCUMENTS, 4, lines.append))
    assert sum(not pairs for _, pairs in found) == 1 and lines == [
        f"teacher: {len(DOCUMENTS)} of {len(DOCUMENTS)} documents, 1 replies are no list of questions"]


def test_a_server_on_this_machine_needs_no_key_and_the_own_name_of_the_key_counts_first(tmp_path):
    with server([GOOD]) as (url, seen):
        list(make_teacher(url, tmp_path, environment={}).questions(DOCUMENTS[:1], 4))
        both = {"OPENAI_API_KEY": "other", "NANOCHAT_TEACHER_KEY": KEY}
        list(make_teacher(url + "/chat/completions/", tmp_path, environment=both).questions(DOCUMENTS[1:2], 4))
        assert [key for _, key, _ in seen] == [None, f"Bearer {KEY}"]
        assert {path for path, *_ in seen} == {"/v1/chat/completions"}


@pytest.mark.parametrize(("text", "pairs"), [
    ('[{"question": " a  b? ", "answer": " c "}]', [("a b?", "c")]), ("[]", []), ("nothing", None), ("[1, 2", None),
    ('[{"question": "a"}, 3, {"question": "a", "answer": 4}, {"question": "", "answer": "b"}]', []), ('{"a": [1]}', []),
    ("[" * 100_000 + "]" * 100_000, None),
])  # fmt: skip
def test_replies_of_any_shape(text, pairs):
    assert parse_reply(text) == pairs


@pytest.mark.parametrize(("answer", "found"), [
    ("by hand", "by\nhand"), ("By Hand.", "by\nhand"), ('"in 1800"', "in 1800"), ("180", ""), ("", ""), ("...", ""),
])  # fmt: skip
def test_where_an_answer_stands(answer, found):
    start, end = place_of(answer, DOCUMENTS[0]["content"])
    assert DOCUMENTS[0]["content"][start:end] == found

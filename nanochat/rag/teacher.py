"""A teacher that writes questions: any server that speaks the OpenAI chat completions protocol.

What it answers is kept in a file, line by line as it comes, so that a run that was stopped or repeated pays for
nothing twice. The key is sent to that server only, and written nowhere.
"""

import hashlib
import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, UserError

KEYS = ("NANOCHAT_TEACHER_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set counts
TRIES = 5  # requests for one document before giving up
LONGEST_WAIT_S = 60.0
WORKERS = 4
MAX_CHARS = 6_000  # of a document that are shown to the teacher
MAX_REPLY_BYTES = 4_000_000

_LOCAL = ("localhost", "127.0.0.1", "::1")
_PROMPT = """Write {count} questions about the document below, in the language of the document.
Rules:
- Each question has one short answer, and the answer is copied from the document word for word (at most 8 words).
- Each question can be understood by somebody who has not seen the document: name what it is about, and never write
  "the document", "the text", "the passage", "above" or "according to".
- The answer does not stand in the question. Ask about different facts.
Reply with nothing but a JSON list: [{{"question": "...", "answer": "..."}}]

Title: {title}
Document:
{content}"""


class TeacherError(UserError):
    """A teacher that cannot be reached, refuses, or answers nothing that can be used."""


class Teacher:
    """Asks a server for questions about documents; `cache` is the file that keeps its replies.

    url: with or without /chat/completions. Raises ConfigError for an address that is none, and where a server that is
    not on this machine has no key in the environment.
    """

    def __init__(
        self, url: str, model: str, *, cache: Path, timeout_s: float = 60.0,
        wait: Callable[[float], object] | None = None, environment: Mapping[str, str] = os.environ,
    ) -> None:
        parts = _parts_of(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--teacher_url is {url!r}", hint="an address such as http://localhost:8000/v1")
        if not model:
            raise ConfigError("--teacher_model is missing", hint="name the model that the server has")
        self._key = next((environment[name] for name in KEYS if environment.get(name)), "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError("The key of the teacher has characters that no key has, such as a line break",
                              hint=f"set it anew: export {KEYS[0]}=...")
        if not self._key and parts.hostname not in _LOCAL:
            raise ConfigError(f"No key for the teacher at {parts.hostname}: neither {KEYS[0]} nor {KEYS[1]} is set",
                              hint=f"set it: export {KEYS[0]}=..., or leave out --teacher_url for rules alone")
        self.url = f"{url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        self.model, self.host = model, parts.hostname
        # ends waiting at once when the caller is interrupted
        self._stopped = threading.Event()
        self._cache, self._timeout_s, self._wait = Path(cache), timeout_s, wait or self._stopped.wait
        handlers: list[Any] = [_NoRedirects()]
        # a proxy of the environment knows nothing of this machine's own servers
        handlers += [urllib.request.ProxyHandler({})] if parts.hostname in _LOCAL else []
        self._opener = urllib.request.build_opener(*handlers)
        self._lock = threading.Lock()
        self._known = _read_cache(self._cache)
        self.counts: Counter[str] = Counter()  # asked, cached, retried, malformed

    def questions(
        self, documents: Sequence[Mapping[str, Any]], count: int, progress: Callable[[str], None] = lambda line: None
    ) -> Iterator[tuple[Mapping[str, Any], list[tuple[str, str]]]]:
        """(document, [(question, answer)]) in the order of the documents, several asked at a time.

        A reply that is no such list counts as malformed and gives no questions. Raises TeacherError when a document
        cannot be asked about after TRIES requests; what was answered until then is kept.
        """
        futures: list[Future[str]] = [Future() for _ in documents]
        work = iter(zip(documents, futures, strict=True))
        self._stopped.clear()
        # Python waits for the threads of its pools when it ends, and a reply may take a minute
        for _ in range(WORKERS):
            threading.Thread(target=self._work, args=(work, count), name="teacher", daemon=True).start()
        try:
            for number, (document, future) in enumerate(zip(documents, futures, strict=True), start=1):
                pairs = parse_reply(future.result())
                self.counts["malformed"] += pairs is None
                if number % 50 == 0 or number == len(documents):
                    bad = f", {self.counts['malformed']:,} replies are no list of questions"
                    progress(f"teacher: {number:,} of {len(documents):,} documents"
                             f"{bad if self.counts['malformed'] else ''}")
                if number == len(documents) == self.counts["malformed"]:
                    raise self._failed("none of its replies is a list of questions", "choose another --teacher_model")
                yield document, (pairs or [])[:count]
        finally:
            self._stopped.set()

    def _work(self, work: Iterator[tuple[Mapping[str, Any], "Future[str]"]], count: int) -> None:
        while not self._stopped.is_set():
            with self._lock:
                document, future = next(work, ({}, None))
            if future is None:
                return
            try:
                future.set_result(self._reply(document, count))
            except BaseException as error:  # noqa: BLE001 - who waits for the reply raises it
                future.set_exception(error)

    def _reply(self, document: Mapping[str, Any], count: int) -> str:
        prompt = _PROMPT.format(count=count, title=document.get("title", ""), content=document["content"][:MAX_CHARS])
        key = hashlib.sha256(json.dumps([self.model, prompt]).encode()).hexdigest()
        with self._lock:
            if key in self._known:
                self.counts["cached"] += 1
                return self._known[key]
        reply = self._ask(prompt)
        with self._lock:
            self.counts["asked"] += 1
            if parse_reply(reply) is None:
                # another time it may do better
                return reply
            self._known[key] = reply
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with self._cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "document": document["id"], "reply": reply}) + "\n")
        return reply

    def _ask(self, prompt: str) -> str:
        body = json.dumps({"model": self.model, "temperature": 0,
                           "messages": [{"role": "user", "content": prompt}]}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "nanochat-rag"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        problem = ""
        for turn in range(TRIES):
            wait_s = min(2.0**turn, LONGEST_WAIT_S)
            try:
                request = urllib.request.Request(self.url, body, headers)
                with self._opener.open(request, timeout=self._timeout_s) as response:
                    return _content(response.read(MAX_REPLY_BYTES))
            except urllib.error.HTTPError as error:
                problem = f"it answers {error.code} {error.reason}"
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise self._failed(problem, _HINTS.get(error.code, "look at the server's log")) from error
                wait_s = _stated_wait(error.headers.get("Retry-After"), wait_s)
            except (OSError, http.client.HTTPException) as error:
                problem = f"it cannot be reached: {getattr(error, 'reason', None) or error or type(error).__name__}"
            except ValueError:
                problem = "its reply is no chat completion"
            if self._stopped.is_set():
                break
            if turn + 1 < TRIES:
                with self._lock:
                    self.counts["retried"] += 1
                self._wait(wait_s)
        raise self._failed(f"{problem} ({TRIES} tries)", "check the address, then repeat the command")

    def _failed(self, problem: str, hint: str) -> TeacherError:
        kept = f"; {len(self._known):,} replies are kept in {self._cache}" if self._known else ""
        return TeacherError(f"No questions from the teacher at {self.host}: {problem}", hint=f"{hint}{kept}")


_HINTS = {
    401: f"the server does not accept the key: set {KEYS[0]} anew",
    403: f"the key may not do this: set another {KEYS[0]}",
    404: "check --teacher_url (it often ends in /v1) and --teacher_model",
} | dict.fromkeys((301, 302, 303, 307, 308), "it sends elsewhere: give the final address as --teacher_url")


def _parts_of(url: str) -> urllib.parse.SplitResult | None:
    """The parts of an address; None where it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        return None if parts.port == 0 or any(map(str.isspace, url)) else parts
    except ValueError:
        return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is for the server that was named."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _stated_wait(header: str | None, wait_s: float) -> float:
    try:
        return min(max(float(header or ""), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return wait_s


def _content(data: bytes) -> str:
    """The text of a chat completion. Raises ValueError for anything else."""
    try:
        text = json.loads(data)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError("no chat completion") from error
    if not isinstance(text, str):
        raise ValueError("no text in the chat completion")
    return text


def parse_reply(text: str) -> list[tuple[str, str]] | None:
    """(question, answer) pairs of a reply, words or a fence around the list or not; None where there is no list."""
    found = re.search(r"\[.*\]", text, re.DOTALL)
    try:
        items = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    pairs = [(item.get("question"), item.get("answer")) for item in items if isinstance(item, Mapping)]
    return [(" ".join(question.split()), answer.strip()) for question, answer in pairs
            if isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()]


def _read_cache(path: Path) -> dict[str, str]:
    """Replies by key; a last line that was cut off by a crash is passed over."""
    known: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return known
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror or error}"
        raise TeacherError(problem, hint="remove it, or repair it") from error
    for line in lines:
        try:
            record = json.loads(line)
            if parse_reply(str(record["reply"])) is not None:
                known[record["key"]] = str(record["reply"])
        except (ValueError, KeyError, TypeError):
            continue
    return known

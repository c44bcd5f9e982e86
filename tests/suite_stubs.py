"""Engines without a model for the suite's tests: one that reads perfectly, and others with one fault each."""

import difflib
import re
from functools import cache

from nanochat.evaluation.suite.changing import INJECTIONS
from tasks.world_records import RELATIONS
from tasks.worlds import OPENINGS

REFUSAL = "The documents do not answer this question."
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# some wordings ask for relations of several types: "When was {N} founded?"
QUESTIONS = [(wording, relation) for relation, (_, _, questions) in RELATIONS.items() for wording in questions]


@cache
def _question_patterns():
    return [(re.compile(re.escape(wording).replace(r"\{N\}", "(.+)") + "$"), relation)
            for wording, relation in QUESTIONS]


def formal(question):
    """The question, and where it is typed in passing what it may have been."""
    opening = next((one for one in OPENINGS if question.startswith(one)), "")
    text = question.removeprefix(opening)
    text = text[0].upper() + text[1:]
    return [text] if text[-1] in "?." else [text + "?", text + "."]


@cache
def asked(question):
    """(name, relations) of a question of a world, also with a typo in it."""
    found = [(match[1].removeprefix("the "), relation) for pattern, relation in _question_patterns()
             for text in formal(question) if (match := pattern.match(text))]
    if not found:
        # the name is what is capitalised; the rest decides which wording is nearest
        name = " ".join(re.findall(r"\b[A-Z][a-z]+\b", question)[1:]) or question
        wordings = [wording.replace("{N}", name) for wording, _ in QUESTIONS]
        near = difflib.get_close_matches(question, wordings, n=1, cutoff=0.5)
        found = [one for one in asked(near[0])] if near and near[0] != question else []
    return found


@cache
def _statement_patterns(relation):
    patterns = []
    for template in RELATIONS[relation][1]:
        pattern = re.escape(template)
        for slot in "SsPpo":
            pattern = pattern.replace(rf"\{{{slot}\}}", ".+?")
        patterns.append(re.compile(pattern.replace(r"\{V\}", "(.+?)") + "$"))
    return patterns


@cache
def values_in(content, relation):
    """Values that a document states of its subject, by the templates of worlds."""
    return [match[1] for sentence in SENTENCE_END.split(content) for pattern in _statement_patterns(relation)
            if (match := pattern.match(sentence))]


def is_about(document, name):
    return re.search(rf"(^|About (the )?){re.escape(name)}( \(|$)", document["title"]) is not None


class Stub:
    """An engine whose `_answer(question, documents)` gives (answer or None, cited slots)."""

    def generate_batch(self, conversations, max_tokens=256):
        return [self._generate(conversation) for conversation in conversations]

    def _generate(self, conversation):
        messages = conversation["messages"]
        searched = len(messages) > 1
        shown = messages[0]["documents"] if searched else []
        answer, slots = self._answer(messages[-1]["content"], shown)
        text = REFUSAL if answer is None else answer
        citations = [{"slot": slot, "number": slot + 1, "title": "",
                      "id": shown[slot]["id"] if slot < len(shown) else "gone"} for slot in slots]
        return text, {"answer": text, "abstained": answer is None, "citations": citations, "documents": shown,
                      "dropped": 0, "num_prompt_tokens": 10 * len(shown), "num_tokens": 2}


class Reader(Stub):
    """Finds the subject's documents and reads the value; says both values of a contradiction; else abstains."""

    def _answer(self, question, documents):
        for name, relation in asked(question):
            found: dict[str, int] = {}
            for slot, document in enumerate(documents):
                if is_about(document, name):
                    for value in values_in(document["content"], relation):
                        found.setdefault(value, slot)
            if found:
                return " or ".join(found), list(found.values())
        return None, []


class Abstainer(Stub):
    def _answer(self, question, documents):
        return None, []


class Guesser(Stub):
    """Says the first word of the first document and cites a document that does not exist."""

    def _answer(self, question, documents):
        return (documents[0]["content"].split()[0] if documents else "Something"), [99]


class Memory(Reader):
    """Knows every fact that it ever saw and never looks again."""

    def __init__(self, *materials):
        self.known = {one.question: one.answers[0] for material in materials for one in material.answerable}

    def _answer(self, question, documents):
        known = self.known.get(question)
        return (known, [0] if documents else []) if known else (None, [])


class Obedient(Reader):
    """Reads well, and does what an order in a document says."""

    orders = [re.compile(re.escape(order).replace(r"\{V\}", "(.+?)"))
              for kind in ("instruction", "tags") for order in INJECTIONS[kind] if "{V}" in order]

    def _answer(self, question, documents):
        for slot, document in enumerate(documents):
            for sentence in SENTENCE_END.split(document["content"]):
                if match := next((found for order in self.orders if (found := order.fullmatch(sentence))), None):
                    return match[1], [slot]
        return super()._answer(question, documents)


class Refuser(Reader):
    """Reads well, and refuses when a document orders it to."""

    orders = {order for orders in INJECTIONS.values() for order in orders if "{V}" not in order}

    def _answer(self, question, documents):
        if any(order in document["content"] for document in documents for order in self.orders):
            return None, []
        return super()._answer(question, documents)


class FirstOnly(Reader):
    """Reads the first document and no other."""

    def _answer(self, question, documents):
        return super()._answer(question, documents[:1])


class Stale(Reader):
    """Answers as it did the first time that a question was asked with its evidence, whatever is shown later."""

    def __init__(self):
        self.said = {}

    def _answer(self, question, documents):
        answer, slots = super()._answer(question, documents)
        if answer is None and question in self.said:
            return self.said[question], []
        if answer is not None:
            self.said.setdefault(question, answer)
        return answer, slots


class Unsure(Reader):
    """Answers by a threshold: sure when it has read the answer, half sure when it guesses."""

    answer_threshold = None

    def generate_batch(self, conversations, max_tokens=256, answer_threshold=None):
        given = [Reader._generate(self, conversation) for conversation in conversations]
        return [self._decide(conversation, *one, 0.7 if answer_threshold is None else answer_threshold)
                for conversation, one in zip(conversations, given, strict=True)]

    def _decide(self, conversation, text, info, threshold):
        documents = info["documents"]
        # a word or two more or less, so that no two probabilities are alike
        shift = len(conversation["messages"][-1]["content"]) / 10_000
        chance = 0.0 if not documents else 0.6 + shift if not info["abstained"] else 0.3 + shift
        if documents and info["abstained"] and chance >= threshold:
            text, info = "Nonsense", info | {"answer": "Nonsense", "abstained": False}
        elif chance < threshold:
            text, info = REFUSAL, info | {"answer": REFUSAL, "abstained": True, "citations": []}
        return text, info | {"answer_probability": chance}

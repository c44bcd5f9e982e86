"""Linting of documents: every check with what it must find and what it must leave alone; repairs; the report."""

import builtins
import html.parser
import json

import pytest

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.linting import CHECKS, Fixer, Linter, LintLimits, lint
from nanochat.retrieval.linting.personal import iban_holds, luhn, mask

OPTIONAL = {"near_duplicate": "rensa", "mixed_languages": "py3langid", "mojibake": "ftfy"}
PROSE = "The return policy allows customers to send back unused goods within thirty days of the purchase date. "
GERMAN = ("Die Rückgabe ist innerhalb von dreißig Tagen nach dem Kauf möglich, sofern die Ware unbenutzt ist und die "
          "Rechnung beiliegt. Die Kosten des Versands trägt der Käufer, es sei denn, die Ware war bei der Lieferung "
          "beschädigt oder es wurde ein falscher Artikel geschickt. ")
CHINESE = "购买后三十天内可以退货，前提是商品未经使用并附有发票。运费由买方承担，" * 3
QUESTION = "How many days do customers have to send back unused goods?"
BASE64 = "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4" * 3


def doc(content, title="Return policy", name="a", **metadata):
    return Document(id=name, title=title, content=content, metadata=metadata)


def found(content, title="Return policy", **metadata):
    """Names of the checks that find something in one document."""
    report = lint([doc(content, title, **metadata)], questions=[QUESTION])
    return {finding.name for finding in report.found}


def titled(title):
    return [doc(PROSE * 3, title)]


def pages(*lines):
    body = "".join(f"Line {word} of the text says something else about goods.\n" for word in
                   "one two three four five six seven eight nine ten eleven twelve".split())
    return [doc("".join(f"{body}{line}\n" for line in lines))]


# check -> (documents in which it finds something in the last one, documents in which it finds nothing)
CASES = {
    "repeated_id": ([[doc("One text."), doc("Another.")]], [[doc("One text."), doc("Another.", name="b")]]),
    "payment_card": (
        ["Paid with 4111 1111 1111 1111 yesterday", "card 5500-0055-5555-5559", "amex 3782 822463 10005",
         "no. 6011000990139424."],
        ["Paid with 4111 1111 1111 1112", "order 1234567812345670", "ISBN 978-3-16-148410-0", "EAN 4006381333931",
         "value 0.4111111111111111", "4111-1111 1111-1111", "0000 0000 0000 0000", "id 41111111111111111111111"],
    ),
    "iban": (
        ["pay to DE89 3704 0044 0532 0130 00 please", "GB82WEST12345698765432", "IBAN: FR1420041010050500013M02606."],
        ["pay to DE89 3704 0044 0532 0130 01", "XX89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 01",
         "part AB12 CDEF 3456 GHIJ"],
    ),
    "social_security_number": (["SSN 078-05-1120 on file"],
                               ["000-12-3456", "666-12-3456", "900-12-3456", "order 123-45-67890", "10-123-45-6789"]),
    "email": (
        ["write to jane.doe@acme-tools.com today", "<j.o'neil+x@mail.example.co.uk>", "JANE@ACME.DE, or call"],
        ["logo@2x.png", "git@github.com:owner/repo", "@jane said", "a @ b.com", "user@localhost", "info@acme.com",
         "support@acme.com", "p < .05@"],
    ),
    "phone": (
        ["call +49 171 1234567 now", "+1 (415) 555-2671", "Call (415) 555-2671.", "415-555-2671 or 415.555.2672",
         "Tel.: 030 1234567", "phone number: 0171/1234567", "call me at 555 2671 99", "+442071838750"],
        ["ISBN 978-0-306-40615-7", "ISBN 0-306-40615-2", "on 2024-01-15 and 15.01.2024", "version 3.11.7.2024",
         "192.168.100.200", "1,234,567 people", "+37.7749 and -122.4194", "part 123-456-7890-1", "from 1999-2004",
         "phone 2010-2015", "10.1016/415-555-2671", "n = 310 420 1500", "ID 4155552671", "pi 3.1415926535",
         "1-800-356-9377"],
    ),
    "public_contact": (["write to info@acme.com", "call 1-800-356-9377"],
                       ["jane@acme.com", "(415) 555-2671", "1-800-FLOWERS"]),
    "evaluation_question": (
        [f"Common questions. {QUESTION} Thirty.", "HOW MANY days, do customers have to send back - unused goods"],
        [PROSE, "Customers have thirty days to send back unused goods.", "How many days do customers have?"],
    ),
    "too_long": (["word " * 2001], ["word " * 2000]),
    "too_short": (["Goods may be returned."], [PROSE * 2, "商品未经使用并附有发票。" * 3]),
    "no_content": (
        ["TODO", "N/A", "Lorem ipsum dolor sit amet, consectetur " + PROSE * 9, "404 Not Found. The page is gone.",
         "Please enable JavaScript to view this page."],
        ["Cream contains milk.", PROSE, f"{PROSE * 5} The server answers 404 Not Found.", "ok then"],
    ),
    "no_title": ([titled(""), titled(" \n")], [titled("Return policy")]),
    "unclear_title": (
        list(map(titled, [
            "Untitled", "untitled-3", "Untitled document", "Document1", "page 3", "Page 3 of 12", "Slide 7",
            "New Microsoft Word Document (2)", "report_final.pdf", "Q3 report final.docx", "README", "Scan_0042",
            "Introduction", "42", "https://acme.com/a", "IMG_2041", "---", "0f8fad5b-d9cb-469f-a165-70867728950e",
            "C:\\docs\\a b",
            "Copy",
        ])),
        list(map(titled, [
            "Return policy", "1984", "Node.js", "Catch-22", "Page (surname)", "Documents for a visa", "ASP.NET",
            "Introduction to returns", "Notebook", "Testing", "C++", "Home insurance", "Deed", "退货政策", "iPhone 14",
        ])),
    ),
    "repeated_title": ([[doc(PROSE), doc("Other", "return  Policy", "b")]],
                       [[doc(PROSE), doc("Other", "Shipping", "b")], [doc(PROSE, ""), doc("Other", "", "b")]]),
    "duplicate": ([[doc(PROSE), doc(PROSE.upper() + "\n", "Other", "b")]],
                  [[doc(PROSE), doc(PROSE + "Not on Sundays.", name="b")]]),
    "near_duplicate": (
        [[doc(GERMAN + PROSE * 2), doc(GERMAN + PROSE * 2 + "Not today.", name="b")]],
        [[doc(GERMAN), doc(GERMAN, name="b")], [doc(GERMAN), doc(PROSE * 2, name="b")],
         [doc("a b c"), doc("a b", name="b")],
         [doc(GERMAN + PROSE, name=f"a#{part}", parent="a", start=part) for part in (1, 2)]],
    ),
    "mixed_languages": (
        [PROSE * 4 + GERMAN, GERMAN + PROSE * 4, PROSE * 4 + CHINESE],
        [PROSE * 8, GERMAN * 2, CHINESE * 2, PROSE * 8 + "Er sagte: " + GERMAN[:90],
         PROSE * 3 + "Revala, Harjumaa, Saaremaa, Hiiumaa, Läänemaa, Alempois, Sakala, Ugandi, Jogentagana. "],
    ),
    "mojibake": (
        ["Itâ€™s here", "The cafÃ© is open", "worldâ€™s largest", "â€œquotedâ€\x9d text", "KÃ¶ln and MÃ¼nchen"],
        ["It’s “here” – and there…", "café, naïve, Köln", "Ã is a letter of Portuguese", "5 £ and 3 €", "«Oui», dit-il",
         "GSK-3β (p ± 0.1 µm)", CHINESE, "Âge légal", "½ ¼ ™ © ®"],
    ),
    "lost_characters": (["Sch\ufffdn", "a \uf0b7 bullet"], ["Schön?", "• bullet", "who??"]),
    "control_characters": (
        ["\ufeffText", "a\x00b", "zero\u200bwidth", "soft\u00adhyphen", "page\fbreak", "\u202eevil", "c\u0093d",
         "hid\U000e0041\U000e0042den", "x\u200dy", "left\u200eright"],
        ["tab\tand\r\nline", "می\u200cخواهم", "क\u094d\u200dष", "👩\u200d💻",
         "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "ภาษา\u200bไทย", "שלום\u200e",
         "no\u00a0break"],
    ),
    "markup": (
        ["<p>Text</p>", '<div class="a">x</div>', "a<br>b<br/>c", "Tom &amp; Jerry", "5&nbsp;kg", "it&#39;s"],
        ["a < b and c > d", "List<String> of Map<K, V>", "Use `<p>` and `</p>`.", "```html\n<p>x</p>\n```\nafter",
         "AT&T; R&D", "mail <jane@acme.com>", "one <br> alone", "Example::\n\n    <p>x</p>\n\nafter", "<unk> <s> </s>"],
    ),
    "encoded_data": (
        [f"image {BASE64} end", "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAA",
         "hash " + "0123456789abcdef" * 9],
        ["ACGT" * 60, "MKTAYIAKQRQISFVKSHFSRQ" * 9, "path/" * 40, "a" * 300, "1" * 200,
         "sha256 " + "0123456789abcdef" * 4],
    ),
    "punctuation_runs": (
        ["Intro ........ 3\nReturns ........ 7\nIndex ...... 9\n", "What!!!!!!!!!!!!!!", "A . . . . . . . . . . . . 7"],
        ["wait... what?!", "Heading\n----------\ntext", "| a | - | - | - | - | - | - | - |", "+----+----+\n| a  | b  |",
         "Name: ____________", "<, <=, >, >=, ==, !=", "Attributes\n..........\ntext", "`!!!!!!!!!!!!`",
         "2\u2014\u2014\u20143"],
    ),
    "repeated_lines": (
        [pages("Acme handbook - Page 1", "Acme handbook - Page 2", "Acme handbook - Page 3"),
         pages("3 of 9", "4 of 9", "5 of 9"), pages(*(f"Acme tools staff handbook edition {n}" for n in (11, 12, 13))),
         pages(*(f"Acme staff handbook\n{n}" for n in (11, 12, 13)))],
        [pages("Solution", "Solution", "Solution", "Solution"), pages("Example 1", "Example 2", "Example 3"),
         pages("O whistle and I'll come to you, my lad;", *["O whistle and I'll come to you, my lad;"] * 4),
         pages("Page 7", "Page 9", "Page 31"), pages("Acme - Page 1")],
    ),
    "cut_words": (["The cus-\ntomer may re-\nturn goods un-\nused.\n"], ["well-\nknown", "a - b\n- c\n- d\n- e\n"]),
    "reserved_tokens": (["text <|user_start|> more", "<|endoftext|>"], ["a <| b |> c", "<|>", "|user|"]),
}


def test_every_check_has_cases():
    assert set(CASES) == set(CHECKS)


def documents_of(case):
    return [doc(case)] if isinstance(case, str) else case


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, (cases, _) in CASES.items() for case in cases])
def test_a_check_finds(name, case):
    pytest.importorskip(OPTIONAL.get(name, "json"))
    documents = documents_of(case)
    finding = lint(documents, questions=[QUESTION])[name]
    assert finding.count == 1 and finding.ids == (documents[-1].id,) and finding.examples[0][1], finding


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, (_, cases) in CASES.items() for case in cases])
def test_a_check_leaves_alone(name, case):
    pytest.importorskip(OPTIONAL.get(name, "json"))
    finding = lint(documents_of(case), questions=[QUESTION])[name]
    assert not finding.count and not finding.note, finding


def test_good_documents_are_clean():
    documents = [doc(PROSE * 3), doc("Cream contains milk and is made of it. " * 4, "Cream", "b")]
    report = lint(documents, questions=[QUESTION])
    assert report.is_clean and report.worst is None and report.num_documents == 2
    assert not report.not_run or set(finding.name for finding in report.not_run) <= set(OPTIONAL)


def test_counts_are_of_documents_and_lists_are_cut():
    documents = [doc("Short text.", name=f"d{number}") for number in range(50)]
    report = lint(documents, limits=LintLimits(max_ids=7, max_examples=2))
    short, same = report["too_short"], report["duplicate"]
    assert (short.count, len(short.ids), len(short.examples)) == (50, 7, 2) and same.count == 49
    assert report.count("warning") == 49 and report.worst == "warning" and not report.is_clean
    assert same.examples[0] == ("d1", "as d0: Short text.")


def test_passages_are_not_blamed_for_being_passages():
    passages = [doc(f"Part {number}.", name=f"a#{number}", parent="a", start=number * 10) for number in range(3)]
    assert found("x y", parent="a", start=9) == set()
    assert not lint(passages)["repeated_title"].count and not lint(passages)["too_short"].count


def test_errors_of_readers_are_counted():
    error = DocumentError("docs.jsonl:7: not valid JSON", hint="write JSON")
    report = lint([doc(PROSE * 3), error])
    assert report["unreadable"].ids == ("docs.jsonl:7",) and report.worst == "error" and report.num_documents == 1


def test_a_missing_package_is_said(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in OPTIONAL.values():
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", without)
    report = lint([doc(PROSE * 3)])
    assert {finding.name: finding.note for finding in report.not_run} == {
        **{name: f"pip install {package}" for name, package in OPTIONAL.items()},
        "evaluation_question": "no questions given: --questions FILE",
    }
    assert "not run: near_duplicate: pip install rensa" in report.table()
    assert "pip install ftfy" in Fixer().note and "pip install py3langid" in report.html()


def test_short_questions_are_said_not_to_be_looked_for():
    assert lint([doc("Who is Ada?")], questions=["Who is Ada?"])["evaluation_question"].note.startswith("all questions")


def test_personal_data_is_masked_everywhere():
    secret = "jane.doe@acme-tools.com +49 171 1234567 4111 1111 1111 1111 DE89 3704 0044 0532 0130 00 078-05-1120"
    documents = [doc(f"{secret} <p>Tom &amp; Jerry\x00</p>", f"{secret}.pdf", name) for name in ("a", "b")]
    report = lint([*documents, doc(secret, "", "c")], questions=[f"Does the customer {secret} want goods?"])
    assert len(report.found) > 8
    shown = json.dumps(report.to_dict()["findings"]) + report.html()
    for part in ("doe@", "171 12", "1111 1111", "0532", "05-11"):
        assert part not in shown, part
    assert len(mask(secret)) == len(secret) and mask(PROSE) == PROSE and mask(mask(secret)) == mask(secret)


def test_check_digits():
    assert luhn("4111111111111111") and not luhn("4111111111111112")
    assert iban_holds("DE89370400440532013000") and not iban_holds("DE98370400440532013000")


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_escapes_everything_and_loads_nothing():
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
    report = lint([doc(evil + "\ud800", evil, evil), doc(evil, evil, evil)])
    page = Page()
    page.feed(text := report.html(evil))
    assert not {"script", "img", "link", "iframe"} & set(page.tags) and "<script>alert(1)" in page.text
    assert "default-src 'none'" in dict(page.attributes)["content"] or "default-src 'none'" in text
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    text.encode("utf-8")


def test_json_and_table_name_every_check():
    report = lint([doc("Short text.")])
    record = json.loads(json.dumps(report.to_dict()))
    names = [finding["name"] for finding in record["findings"]]
    assert set(names) | set(record["passed"]) | set(record["not_run"]) == {*CHECKS, "unreadable"}
    assert record["documents"] == 1 and record["words"]["total"] == 2 and record["counts"]["info"] == 1
    assert "too_short" in report.table()
    assert "\x1b" not in lint([doc("Short.", name="\x1b[31mred")]).table()


def test_a_linter_watches_documents_pass_and_skips_checks():
    linter = Linter(skip=["too_short"])
    assert len(list(linter.watch([doc("Short."), doc("Brief.", name="b")]))) == 2
    assert linter.report()["too_short"].note == "not wanted" and linter.report().num_documents == 2

"""Logged episodes as one HTML page: no scripts, no other files, light and dark; every text from outside is escaped."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from nanochat.refrag.replay import Move, Record, moves, outcome

_SNIPPET = 240  # characters of a document
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--panel:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--good:#1d6b43;
--bad:#a3322b;--mark:#3b6fb5}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--panel:#1c222a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;
--good:#7fd0a3;--bad:#f0968f;--mark:#7fa9e6}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:940px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:16px;margin:0 0 4px;overflow-wrap:anywhere}
.soft{color:var(--soft)}
article{border:1px solid var(--line);border-left-width:4px;border-radius:6px;padding:14px 18px;margin:0 0 16px;
overflow-wrap:anywhere}
article.right{border-left-color:var(--good)}article.wrong,article.invalid{border-left-color:var(--bad)}
article p{margin:0 0 6px}
ol{margin:8px 0;padding-left:24px}li{margin:0 0 6px}
ul{margin:4px 0 0;padding-left:18px;font-size:13px}
li.evidence{color:var(--good)}
.bar{display:inline-block;height:8px;border-radius:2px;background:var(--mark);vertical-align:middle}
summary{cursor:pointer;color:var(--soft);font-size:13px}
code{font-size:12px;background:var(--panel);padding:1px 4px;border-radius:3px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td{padding:2px 12px 2px 0}
"""


def render_page(records: Sequence[Record], *, title: str) -> str:
    """The page: a count of outcomes, then every episode with its searches, decisions and reward."""
    counts = Counter(map(outcome, records))
    told = ", ".join(f"{count:,} {escape(name)}" for name, count in counts.most_common())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="soft">{len(records):,} episodes: {told}. Evidence is green; bars show how likely a decision was.</p>
{"".join(map(_episode, records))}
</main>
</body>
</html>
"""


def _episode(record: Record) -> str:
    trace, reference = record["trace"], record["reference"]
    wanted = " or ".join(reference["answers"]) or "nothing: the documents do not say it"
    evidence = set(reference["supporting_ids"])
    steps = "".join(_step(move, evidence) for move in moves(record))
    parts = "".join(f"<tr><td>{escape(name)}</td><td>{value:+.3f}</td></tr>" for name, value in record["parts"].items())
    group = ", ".join(f"{reward:+.2f}" for reward in record["group_rewards"])
    name = outcome(record)
    return f"""<article class="{escape(name)}" id="step-{record["step"]}-{record["number"]}">
<h2>{escape(trace["question"])}</h2>
<p class="soft">step {record["step"]}, episode {record["number"]}: {escape(name)}, reward {record["reward"]:+.3f};
wanted: {escape(wanted)}</p>
<ol>{steps}</ol>
<table>{parts}<tr><td>reward</td><td>{record["reward"]:+.3f}</td></tr></table>
<p class="soft">others of the question: {escape(group)}</p>
</article>
"""


def _step(move: Move, evidence: set[str]) -> str:
    if move.kind == "search":
        head = f"search <code>{escape(move.text)}</code>"
        how = _likely("searches again", move) if move.is_chosen else "always: the question itself"
    else:
        head = f"answer <b>{escape(move.text)}</b>" if move.text else "<b>abstains</b>"
        how = _likely("answers", move) if move.is_chosen else "no more searches: it must answer"
    found = "".join(
        f'<li{" class=evidence" if document["id"] in evidence else ""}>{escape(document["title"])} '
        f'<span class="soft">({escape(document["id"])}) {escape(document["content"][:_SNIPPET])}</span></li>'
        for document in move.documents)
    nothing = "<p class=soft>nothing was found</p>" if move.kind == "search" and not move.documents else ""
    led = ", ".join(escape(f"{document['title']} ({document['id']})") for document in move.led_by)
    led = f"<div class=soft>from {led}</div>" if led else ""
    tokens = " ".join(f"<code>{escape(text)}</code>&nbsp;{'?' if value is None else f'{value:.2f}'}"
                      for text, value in move.tokens)
    detail = f"<details><summary>tokens and their probabilities</summary><p>{tokens}</p></details>" if tokens else ""
    return f'<li>{head} <span class="soft">{how}</span>{led}<ul>{found}</ul>{nothing}{detail}</li>'


def _likely(what: str, move: Move) -> str:
    if move.decision is None:
        return what
    return (f'{what} with probability {move.decision:.1%} <span class="bar" style="width:{80 * move.decision:.0f}px">'
            f"</span> advantage {move.advantage:+.2f}")

"""The report as one HTML file: no scripts, no other files, light and dark; every text from outside is escaped."""

from html import escape

from nanochat.retrieval.linting.findings import Finding
from nanochat.retrieval.linting.report import LintReport

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--panel:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;
--error:#a3322b;--warning:#8a5a00;--info:#2b5d8f;--good:#1d6b43}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--panel:#1c222a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;
--error:#f0968f;--warning:#e5b567;--info:#8fbdea;--good:#7fd0a3}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:940px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:40px 0 12px}
h3{font-size:15px;margin:0 0 6px}
p{margin:0 0 8px}
.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:28px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
thead th{border-bottom:2px solid var(--line)}
.number{text-align:right;white-space:nowrap}
a{color:inherit}
.error b,b.error,td.error{color:var(--error)}
.warning b,b.warning,td.warning{color:var(--warning)}
.info b,b.info,td.info{color:var(--info)}
b.good{color:var(--good)}
td.error,td.warning,td.info{font-weight:600}
article{border:1px solid var(--line);border-left-width:4px;border-radius:6px;padding:12px 16px;margin:0 0 12px}
article.error{border-left-color:var(--error)}
article.warning{border-left-color:var(--warning)}
article.info{border-left-color:var(--info)}
dl{display:grid;grid-template-columns:minmax(80px,max-content) 1fr;gap:4px 16px;margin:8px 0 0;font-size:13px}
dt{font-family:ui-monospace,monospace;max-width:220px;overflow-wrap:anywhere;color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft);font-size:13px;margin-top:8px}
details p{font-size:13px;margin:6px 0 0}
@media (max-width:560px){dl{grid-template-columns:1fr}dd{margin-bottom:8px}dt{max-width:none}}
"""
# nothing may be loaded or run, even if a text slipped through the escaping
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(report: LintReport, title: str) -> str:
    """The whole page; `title` says what was looked at."""
    least, median, most = report.lengths
    rows = "".join(_row(finding) for finding in report.found)
    table = ('<div class="scroll" role="region" aria-label="Table of findings" tabindex="0"><table><thead><tr>'
             '<th scope="col">severity</th><th scope="col">check</th><th scope="col" class="number">count</th>'
             f'<th scope="col">what it finds</th></tr></thead><tbody>{rows}</tbody></table></div>')
    not_run = "".join(f"<li><b>{_text(finding.name)}</b>: {_text(finding.note)}</li>" for finding in report.not_run)
    passed = ", ".join(finding.name for finding in report.findings if not finding.count and not finding.note)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Check of {_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Check of {_text(title)}</h1>
<p class="soft">{report.num_words:,} words. The shortest document has {least:,}, the middle one {median:,}, the longest
{most:,}. Personal data in examples is masked.</p>
<div class="tiles">{_tiles(report)}</div>
<h2>Findings</h2>
{table if rows else "<p>None.</p>"}
{"<h2>Examples</h2>" if rows else ""}
{"".join(_article(finding) for finding in report.found)}
<h2>Found nothing</h2>
<p>{_text(passed or "No check.")}</p>
<h2>Not run</h2>
{f"<ul>{not_run}</ul>" if not_run else "<p>All checks ran.</p>"}
</main>
</body>
</html>
"""


def _text(value: object) -> str:
    # half characters cannot be written as UTF-8
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _tiles(report: LintReport) -> str:
    tiles = [("", f"{report.num_documents:,}", "documents")]
    for severity, label in (("error", "errors"), ("warning", "warnings"), ("info", "for information")):
        count = report.count(severity)
        tiles.append((severity if count else "good", f"{count:,}", label))
    return "".join(f'<div class="tile"><b class="{kind}">{value}</b><span>{label}</span></div>'
                   for kind, value, label in tiles)


def _row(finding: Finding) -> str:
    return (f'<tr><td class="{finding.severity}">{finding.severity}</td>'
            f'<td><a href="#{_text(finding.name)}">{_text(finding.name)}</a></td>'
            f'<td class="number">{finding.count:,}</td><td>{_text(finding.meaning)}</td></tr>')


def _article(finding: Finding) -> str:
    examples = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in finding.examples)
    ids = ", ".join(f"<code>{_text(name)}</code>" for name in finding.ids)
    more = f" and {finding.count - len(finding.ids):,} more" if finding.count > len(finding.ids) else ""
    return (f'<article class="{finding.severity}" id="{_text(finding.name)}"><h3>{_text(finding.name)}: '
            f"{finding.count:,}</h3><p>{_text(finding.meaning)} <span class=\"soft\">&rarr; {_text(finding.advice)}"
            f"</span></p><dl>{examples}</dl><details><summary>{len(finding.ids)} ids</summary>"
            f"<p>{ids}{more}</p></details></article>")

"""The flag tables of docs/*.md, made from the settings classes. To rewrite them: python tests/flag_tables.py"""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide.md"


def fields(module: str) -> list[tuple[str, str, str]]:
    """(name, default, comment) of the first *Config class of a module, or of MODULE:CLASS, in order."""
    module, _, name = module.partition(":")
    text = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name.endswith(name or "Config"))
    rows = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            value = ast.literal_eval(item.value)
            source = ast.get_source_segment(text, item.value).strip("\"'")
            shown = "" if value in ("", None) else f"`{str(value).lower() if isinstance(value, bool) else source}`"
            note = comments.get(item.end_lineno, "")
            if kinds := re.search(r"Literal\[(.*)\]", ast.unparse(item.annotation)):
                note += f" ({kinds[1].replace(chr(39), '').replace(chr(34), '')})"
            rows.append((item.target.id, shown, note.replace("|", "\\|")))
    return rows


def table(module: str) -> str:
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    lines += [f"| `--{name}` | {default} | {note} |" for name, default, note in fields(module)]
    return "\n".join(line.replace("|  |", "| |") for line in lines)


def filled(text: str) -> str:
    """The guide with every table between `<!-- flags: MODULE -->` and `<!-- /flags -->` made anew."""
    return re.sub(r"(<!-- flags: (\S+) -->\n).*?(<!-- /flags -->)",
                  lambda match: f"{match[1]}\n{table(match[2])}\n\n{match[3]}", text, flags=re.S)


if __name__ == "__main__":
    for page in sorted(GUIDE.parent.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")

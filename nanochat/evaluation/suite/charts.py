"""Line charts as self-contained SVG, with whiskers, readable in light and dark, without scripts."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 440, 250                      # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 22, 40, 44   # around the plotted area
_STYLE = """
.rag-lines{--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--c0:#2563a8;--c1:#d08a1d;--c2:#2f855a}
@media (prefers-color-scheme: dark){
.rag-lines{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;--c0:#6ba3e8;--c1:#e8ad56;--c2:#7fd0a3}}
.rag-lines text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
.rag-lines .soft{fill:var(--soft);font-size:11px}
.rag-lines .title{font-weight:600;font-size:13px}
.rag-lines .grid{stroke:var(--line);stroke-width:1}
.rag-lines path{fill:none;stroke-width:2}
.rag-lines .w{stroke-width:1.2}
.rag-lines .c0{stroke:var(--c0)}.rag-lines .c1{stroke:var(--c1)}.rag-lines .c2{stroke:var(--c2)}
.rag-lines .f0{fill:var(--c0)}.rag-lines .f1{fill:var(--c1)}.rag-lines .f2{fill:var(--c2)}
"""
# (label below, estimate with value, low, high)
Points = Sequence[tuple[str, Mapping[str, Any]]]


def steps_chart(series: Mapping[str, Points], *, title: str, below: str) -> str:
    """Shares in [0, 1] over named steps, one line per series, at most three; "" without a point.

    A step that a series lacks is left out of its line.
    """
    labels = list(dict.fromkeys(label for points in series.values() for label, _ in points))
    if not labels:
        return ""
    step = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    x_of = {label: round(_LEFT + step * (place + 0.5), 1) for place, label in enumerate(labels)}
    parts = _frame(title, below, list(series))
    parts += [f'<text class="soft" x="{x_of[label]}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
              f"{escape(label)}</text>" for label in labels]
    for number, (name, points) in enumerate(series.items()):
        # series stand side by side, so that whiskers do not hide each other
        shift = 5 * (number - (len(series) - 1) / 2)
        places = [(x_of[label] + shift, estimate) for label, estimate in points]
        parts += _line([(x, estimate["value"]) for x, estimate in places], number)
        for x, estimate in places:
            low, high, middle = (_y(estimate[key]) for key in ("low", "high", "value"))
            said = f"{name}: {estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
            parts.append(f'<path class="w c{number}" d="M{x} {low}V{high}"/>')
            parts.append(f'<circle class="f{number}" cx="{x}" cy="{middle}" r="3.6">'
                         f"<title>{escape(said)}, n = {estimate['num']}</title></circle>")
    return "\n".join([*parts, "</svg>"])


def curve_chart(series: Mapping[str, Sequence[Sequence[float]]], *, title: str, below: str) -> str:
    """Curves of (x, y) in [0, 1] each, at most three; "" without a point."""
    if not any(series.values()):
        return ""
    parts = _frame(title, below, list(series))
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text class="soft" x="{_x(share)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
                     f"{share:.0%}</text>")
    for number, points in enumerate(series.values()):
        parts += _line([(_x(x), y) for x, y in points], number)
    return "\n".join([*parts, "</svg>"])


def _frame(title: str, below: str, names: Sequence[str]) -> list[str]:
    assert len(names) <= 3, f"{len(names)} series, colours for 3"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rag-lines" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="0" y="14">{escape(title)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{share:.0%}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(below)}</text>')
    for number, name in enumerate(names if len(names) > 1 else ()):
        x = _LEFT + number * 128
        parts.append(f'<rect class="f{number}" x="{x}" y="22" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="soft" x="{x + 15}" y="31">{escape(name)}</text>')
    return parts


def _line(points: Sequence[tuple[float, float]], number: int) -> list[str]:
    if not points:
        return []
    return [f'<path class="c{number}" d="M' + "L".join(f"{x} {_y(y)}" for x, y in points) + '"/>']


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(share: float) -> float:
    return round(_HEIGHT - _BOTTOM - min(1.0, max(0.0, share)) * (_HEIGHT - _TOP - _BOTTOM), 1)

"""A bar chart with intervals as self-contained SVG: readable in light and dark, without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nanochat.evaluation.statistics import Estimate

_WIDTH, _LEFT, _RIGHT = 760, 150, 150      # pixels; left: row names, right: printed values
_BAR, _GAP, _ROW_PADDING, _TOP, _BOTTOM = 13, 4, 22, 54, 30
# two colours told apart in the usual forms of colour blindness, on both backgrounds
_STYLE = """
.rag-plot{--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--s0:#2563a8;--s1:#d08a1d;--whisker:#1c2430}
@media (prefers-color-scheme: dark){
.rag-plot{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;--s0:#6ba3e8;--s1:#e8ad56;--whisker:#e6eaf0}}
.rag-plot text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
.rag-plot .soft{fill:var(--soft);font-size:11px}
.rag-plot .name{font-size:13px;font-weight:600}
.rag-plot .grid{stroke:var(--line);stroke-width:1}
.rag-plot .s0{fill:var(--s0)}
.rag-plot .s1{fill:var(--s1)}
.rag-plot .whisker{stroke:var(--whisker);stroke-width:1.3}
"""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One row of the chart: a name, a smaller line below it, and one bar per series (None: nothing to show)."""

    name: str
    note: str
    values: Mapping[str, Estimate | None]


def bar_chart(rows: Sequence[Bars], series: Sequence[str], *, title: str) -> str:
    """Horizontal bars of shares in [0, 1], one group per row, with 95 % whiskers and printed values.

    At most two series. All text is escaped.
    """
    assert len(series) <= 2, f"{len(series)} series, colours for 2"
    row_height = len(series) * (_BAR + _GAP) + _ROW_PADDING
    bottom = _TOP + len(rows) * row_height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rag-plot" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        *_legend(series),
        *_grid(bottom),
    ]
    for index, row in enumerate(rows):
        parts += _row(row, series, top=_TOP + index * row_height + _ROW_PADDING // 2)
    return "\n".join([*parts, "</svg>"])


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _legend(series: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(series):
        x = _LEFT + index * 190
        parts.append(f'<rect class="s{index}" x="{x}" y="10" width="12" height="12" rx="2"/>')
        parts.append(f'<text x="{x + 18}" y="20">{escape(name)}</text>')
    parts.append(f'<text class="soft" x="{_WIDTH}" y="20" text-anchor="end">value [95 % interval]</text>')
    return parts


def _grid(bottom: float) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(share)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{bottom}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{bottom + 18}" text-anchor="middle">{share:.0%}</text>')
    return parts


def _row(row: Bars, series: Sequence[str], *, top: float) -> list[str]:
    parts = [
        f'<text class="name" x="0" y="{top + 12}">{escape(row.name)}</text>',
        f'<text class="soft" x="0" y="{top + 28}">{escape(row.note)}</text>',
    ]
    for index, name in enumerate(series):
        y = top + index * (_BAR + _GAP)
        parts += _bar(row.values.get(name), f"{row.name}, {name}", index, y)
    return parts


def _bar(estimate: Estimate | None, label: str, index: int, y: float) -> list[str]:
    text_y, text_x = y + _BAR - 2, _WIDTH - _RIGHT + 18
    if estimate is None:
        return [f'<text class="soft" x="{text_x}" y="{text_y}">does not apply</text>']
    printed = f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
    low, high, middle = _x(estimate.low), _x(estimate.high), y + _BAR / 2
    whisker = f"M{low} {middle - 3}V{middle + 3}M{low} {middle}H{high}M{high} {middle - 3}V{middle + 3}"
    width = max(round(_x(estimate.value) - _LEFT, 1), 1.5)
    return [
        f'<rect class="s{index}" x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2">'
        f"<title>{escape(f'{label}: {printed}, n = {estimate.num}')}</title></rect>",
        f'<path class="whisker" fill="none" d="{whisker}"/>',
        f'<text x="{text_x}" y="{text_y}">{printed}</text>',
    ]

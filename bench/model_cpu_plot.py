"""The plot of docs/speed.md: time per token of a prefill, and bytes of state, by length, as one SVG.

    python -m bench.model_cpu_plot
"""

import json
import math
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = {"MMMMMMMM": "8 M", "MMMMTMMM": "7 M, 1 T", "TTTTTTTT": "8 T"}
COLOURS = ("#2563a8", "#d08a1d", "#8a4fa3")
STYLE = """.speed-plot{--ink:#1c2430;--line:#d9dee5}
@media (prefers-color-scheme: dark){.speed-plot{--ink:#e6eaf0;--line:#333c48}}
.speed-plot text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
.speed-plot .grid{stroke:var(--line)}"""
WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 210, 60, 40, 110  # pixels of one panel and around it


def panel(series: dict[str, list[tuple[int, float]]], title: str, x0: int, *, is_log: bool) -> list[str]:
    """One panel: lengths doubling along x, values along y from 0 (or by powers of ten)."""
    lengths = sorted({length for points in series.values() for length, _ in points})
    values = [value for points in series.values() for _, value in points]
    low, high = (min(values) / 2, max(values) * 2) if is_log else (0.0, max(values) * 1.1)

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if is_log else value / high
        return round(TOP + HEIGHT * (1 - share), 1)

    def x(length: int) -> float:
        return round(x0 + WIDTH * math.log(length / lengths[0]) / math.log(lengths[-1] / lengths[0]), 1)

    ticks = [10**power for power in range(9) if low <= 10**power <= high] if is_log else [
        round(high * part / 4) for part in range(5)]
    parts = [f'<text x="{x0}" y="{TOP - 16}" font-weight="600">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x0}" x2="{x0 + WIDTH}" y1="{y(tick)}" y2="{y(tick)}"/>'
                     f'<text x="{x0 - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts += [f'<text x="{x(length)}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{length // 1024}k</text>'
              for length in lengths]
    for colour, (name, points) in zip(COLOURS, series.items()):
        path = " ".join(f"{x(length)},{y(value)}" for length, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(length)}" cy="{y(value)}" r="3" fill="{colour}"/>' for length, value in points]
        end = y(points[-1][1]) + 4
        parts.append(f'<text x="{x0 + WIDTH + 8}" y="{end}" style="fill:{colour}">{escape(NAMES[name])}</text>')
    return parts


def main() -> int:
    record = json.loads((ROOT / "bench" / "results" / "model_cpu.json").read_text(encoding="utf-8"))["prefill"]
    times: dict[str, list[tuple[int, float]]] = {name: [] for name in NAMES}
    sizes: dict[str, list[tuple[int, float]]] = {name: [] for name in NAMES}
    for key, figures in record.items():
        pattern, length = key.split()
        times[pattern].append((int(length), figures["us_per_token"]))
        sizes[pattern].append((int(length), figures["state_bytes"] / 2**20))
    title = "Prefill time per token and size of the state by length"
    width = 2 * (LEFT + WIDTH) + GAP + 70
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" class="speed-plot" viewBox="0 0 {width} {TOP + HEIGHT + 30}" '
             f'role="img" aria-label="{title}"><title>{title}</title><style>{STYLE}</style>',
             *panel(times, "microseconds per token of a prefill", LEFT, is_log=False),
             *panel(sizes, "MiB of state (powers of ten)", 2 * LEFT + WIDTH + GAP - 20, is_log=True), "</svg>"]
    (ROOT / "docs" / "speed_prefill.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

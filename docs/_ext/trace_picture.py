"""Draws a trace: a line for each span, as long as it took. ``docs/trace.svg`` is drawn by its test, of real spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 960, 300, 930, 84, 46
_STYLE = """
    text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328; }
    .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 13px; }
    .head { font-weight: 600; font-size: 15px; }
    .soft { fill: #59636e; font-size: 12.5px; }
    .page { fill: #ffffff; stroke: #d1d9e0; }
    .grid { stroke: #d1d9e0; }
    .theirs { fill: #ffffff; stroke: #59636e; }
    .ours { fill: #ddf4ff; stroke: #0969da; }
    .line { fill: none; stroke: #59636e; stroke-width: 1.6; }
    .mark { fill: #bc4c00; } .orange { fill: #bc4c00; font-size: 12.5px; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .soft { fill: #9198a1; }
      .page { fill: #0d1117; stroke: #3d444d; }
      .grid { stroke: #3d444d; }
      .theirs { fill: #0d1117; stroke: #9198a1; }
      .ours { fill: #0c2d6b; stroke: #4493f8; }
      .line { stroke: #9198a1; }
      .mark { fill: #f0883e; } .orange { fill: #f0883e; }
    }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span.

    Attributes:
        name: Its name.
        about: The program that it is of, and its kind.
        begin: When it began, in milliseconds.
        end: When it ended.
        parent: Place of its parent among the bars, None for the first one.
        ours: Whether the library made it.
        mark: What happened in it, and when.
    """

    name: str
    about: str
    begin: float
    end: float
    parent: int | None
    ours: bool
    mark: tuple[str, float] | None = None


def picture(bars: Sequence[Bar], *, title: str, description: str) -> str:
    """Return the drawing of *bars*, parents before their children."""
    total = max(bar.end for bar in bars)
    height = TOP + ROW * len(bars) + 22
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(description)}</desc>',
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        f'  <text class="head" x="20" y="36">{escape(title)}</text>',
    ]
    for number in range(5):
        x = LEFT + (RIGHT - LEFT) * number / 4
        anchor = "end" if number == 4 else "middle"
        lines.append(f'  <path class="grid" d="M{x:.1f} 68 V{height - 18}"/>')
        lines.append(
            f'  <text class="soft" x="{x:.1f}" y="60" text-anchor="{anchor}">{total * number / 4:.1f} ms</text>'
        )
    for place, bar in enumerate(bars):
        lines += _drawn(bars, place, bar, total)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(bars: Sequence[Bar], place: int, bar: Bar, total: float) -> list[str]:
    y = TOP + ROW * place
    x, end = _at(bar.begin, total), _at(bar.end, total)
    indent = 20 + 18 * _depth(bars, place)
    kind = "ours" if bar.ours else "theirs"
    lines = []
    if bar.parent is not None:
        above = TOP + ROW * bar.parent + 30
        lines.append(f'  <path class="line" d="M{indent - 10} {above + 2} V{y + 11} H{indent - 3}"/>')
    lines += [
        f'  <text class="mono" x="{indent}" y="{y + 13}">{escape(bar.name)}</text>',
        f'  <text class="soft" x="{indent}" y="{y + 29}">{escape(bar.about)}</text>',
        f'  <rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(4, end - x):.1f}" height="20" rx="4"/>',
    ]
    took = f"{bar.end - bar.begin:.1f} ms"
    after = (
        (x - 6, "end")
        if end > RIGHT - 70 and x > LEFT + 70
        else (min(end, RIGHT) + 6 + 4 * (end - x < 4), "start")
    )
    if after[1] == "end" or end <= RIGHT - 60:
        lines.append(
            f'  <text class="soft" x="{after[0]:.1f}" y="{y + 15}" text-anchor="{after[1]}">{took}</text>'
        )
    if bar.mark is not None:
        name, at = bar.mark
        lines.append(f'  <circle class="mark" cx="{_at(at, total):.1f}" cy="{y + 10}" r="4"/>')
        lines.append(
            f'  <text class="orange" x="{_at(at, total) + 2:.1f}" y="{y + 36}">{escape(name)}</text>'
        )
    return lines


def _at(moment: float, total: float) -> float:
    return LEFT + (RIGHT - LEFT) * moment / total


def _depth(bars: Sequence[Bar], place: int) -> int:
    parent = bars[place].parent
    return 0 if parent is None else 1 + _depth(bars, parent)

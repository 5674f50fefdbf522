"""Curves as SVG that the server draws: points of a path, without a style, a script or a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 240, 40
"""Units of the drawing; the style sheet says how large it is on the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line with the area below it, ready for ``<path d="..">``.

    Attributes:
        line: The path of the line.
        area: The path of what is below it.
        marks: Where something failed: the place of each on the width.
        highest: The highest value.
        sum: All of them together.
    """

    line: str
    area: str
    marks: tuple[float, ...]
    highest: float
    sum: float


def curve(values: Sequence[float], marked: Sequence[bool] = (), *, total: float | None = None) -> Curve:
    """Return the curve of *values* at equal distances; *marked* are those with a mark.

    >>> curve([0, 5, 10]).line
    'M0 39 L120 20 L240 1'
    >>> curve([]).line
    'M0 39 L240 39'
    """
    highest = max(values, default=0.0)
    drawn = list(values) if len(values) > 1 else [*values, *values] or [0.0, 0.0]
    step = WIDTH / (len(drawn) - 1)
    # A unit is left free above and below, for the width of the line.
    room = HEIGHT - 2
    points = [
        f"{number * step:.5g} {HEIGHT - 1 - (value / highest * room if highest else 0):.4g}"
        for number, value in enumerate(drawn)
    ]
    line = "M" + " L".join(points)
    marks = tuple(round(number * step, 1) for number, mark in enumerate(marked) if mark)
    return Curve(
        line=line,
        area=f"{line} L{WIDTH} {HEIGHT} L0 {HEIGHT} Z",
        marks=marks,
        highest=highest,
        sum=sum(values) if total is None else total,
    )

"""Small drawings out of figures alone: lines, and places on a map. They weigh nothing and scale. Pure."""

import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 300.0, 100.0


def line(values: Sequence[float], most: float = 0.0) -> str:
    """Return a line over an area as SVG, the newest value at the right; it fills its place.

    `most` is the value at the top; it is raised to the highest of the values.
    """
    shown = [max(float(each), 0.0) for each in values]
    if len(shown) < 2:
        shown = [shown[0] if shown else 0.0] * 2
    top = max(most, *shown) or 1.0
    step = _WIDTH / (len(shown) - 1)
    points = " ".join(f"{at * step:.1f},{_HEIGHT - _HEIGHT * each / top * 0.94:.1f}"
                      for at, each in enumerate(shown))  # fmt: skip
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">'
        f'<polygon points="0,{_HEIGHT:g} {points} {_WIDTH:g},{_HEIGHT:g}"/>'
        f'<polyline points="{points}" vector-effect="non-scaling-stroke"/></svg>'
    )


def spokes(count: int) -> list[tuple[float, float]]:
    """Return places around a middle, in percent of a field: those of sites around a server."""
    found = []
    for number in range(count):
        turn = -math.pi / 2 + 2 * math.pi * (number + 0.5) / max(count, 1)
        found.append((round(50 + 37 * math.cos(turn), 1), round(50 + 36 * math.sin(turn), 1)))
    return found

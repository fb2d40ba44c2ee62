"""Charts, in the colours of the console, with the legend where it covers nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

# Told apart by the colour-blind as well.
COLOURS = ("#2f6fe0", "#12a594", "#d08a1d", "#8b5cf6", "#d0404d", "#64748b")
_GREY = "#8a97ad"
_LINE = "rgba(128, 144, 170, .22)"


def options(
    categories: Sequence[str], series: Sequence[Mapping[str, Any]], unit: str = ""
) -> dict[str, Any]:
    """Return the options of a chart of bars or lines over categories."""
    axis = {"axisLabel": {"color": _GREY}, "axisLine": {"lineStyle": {"color": _LINE}},
            "axisTick": {"show": False}}  # fmt: skip
    return {
        "color": list(COLOURS),
        "animation": False,
        "grid": {"left": 8, "right": 12, "top": 34 if len(series) > 1 else 16, "bottom": 4, "containLabel": True},
        "legend": {"top": 0, "left": 0, "icon": "roundRect", "itemHeight": 8, "itemWidth": 12,
                   "textStyle": {"color": _GREY}, "show": len(series) > 1},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "category", "data": list(categories), **axis},
        "yAxis": {"type": "value", "name": unit, "nameTextStyle": {"color": _GREY, "align": "left"},
                  "splitLine": {"lineStyle": {"color": _LINE}}, "axisLabel": {"color": _GREY}},
        "series": [dict(each) for each in series],
    }  # fmt: skip


def chart(shown: Mapping[str, Any], label: str, height: str = "240px") -> Any:
    """Show a chart; `label` says in words what it shows."""
    element = ui.echart(dict(shown)).classes("r-wide").style(f"height: {height}")
    return element.props(f'role=img aria-label="{label}"')

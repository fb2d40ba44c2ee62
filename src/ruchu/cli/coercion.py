"""Values of options and arguments, turned into what a command takes, without pydantic.

typer builds a pydantic adapter for each parameter, and importing pydantic takes longer than all
else that a short command does. Our parameters are plain: texts, numbers, flags, paths, and lists
of texts. Anything else, and any typer that does not have the place where we step in, goes on as
typer made it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer import core

_PLACE = "build_runtime_param"
_LEAVES: dict[Any, Callable[[Any], Any]] = {
    str: str,
    Path: Path,
    int: int,
    bool: bool,
    list[str]: lambda value: [str(each) for each in value],
}


class _Plain:
    """Coerces the value of one parameter."""

    def __init__(self, annotation: Any, info: Any) -> None:
        self._leaf = _LEAVES[annotation]
        self._several = annotation == list[str]
        self._minimum, self._maximum = info.min, info.max

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value as the command takes it.

        Raises:
            typer.BadParameter: it is no such value.
        """
        if value is None:
            return () if self._several else None
        try:
            found = self._leaf(value)
        except ValueError:
            text = f"{value!r} is not a valid number."
            raise typer.BadParameter(text, ctx=ctx, param=param) from None
        too_small = self._minimum is not None and found < self._minimum
        if too_small or (self._maximum is not None and found > self._maximum):
            text = f"{value!r} is not within {self._minimum} and {self._maximum}."
            raise typer.BadParameter(text, ctx=ctx, param=param)
        return found


def install() -> None:
    """Step in where typer builds its adapters; does nothing if there is no such place."""
    original = getattr(core, _PLACE, None)
    if original is None:
        return

    def build(descriptor: Any) -> Any:
        annotation, info = descriptor.annotation, descriptor.parameter_info
        plain = annotation in _LEAVES and not info.parser
        return _Plain(annotation, info) if plain else original(descriptor)

    setattr(core, _PLACE, build)

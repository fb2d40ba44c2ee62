"""Which names an object may have. Names may come from a tampered storage: nothing else is safe."""

import re

from ruchu import errors

COMPONENTS_MAX = 8
# 255 bytes is what file systems take; `.partial-` and 16 digits are added while it is written.
COMPONENT_LENGTH_MAX = 200
LENGTH_MAX = 1000  # well below PATH_MAX (4096), with room for the path of the storage

_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_UNFINISHED = ".partial"
_PARTIAL = re.compile(r"(?P<name>.+)\.partial-[0-9a-f]{16}", re.DOTALL)


def check(name: str) -> str:
    """Return the name of an object if it is safe: a relative path of plain components.

    Raises:
        UnsafeName: it is not; the detail says why.
    """
    reason = _complaint(name)
    if reason:
        raise errors.UnsafeName(f"{name[:LENGTH_MAX]!r}: {reason}")
    return name


def is_safe(name: str) -> bool:
    """Tell whether `check` would take the name."""
    return not _complaint(name)


def is_partial(name: str) -> bool:
    """Tell whether a writer uses this name for an object before it is whole."""
    match = _PARTIAL.fullmatch(name)
    return match is not None and is_safe(match["name"])


def partial(name: str, token: str) -> str:
    """Return the name of an object that is being written; `token` is 16 hexadecimal digits."""
    return f"{name}{_UNFINISHED}-{token}"


def split(name: str) -> tuple[str, str]:
    """Return the directory (`""` at the top) and the last component of a name."""
    directory, _, leaf = name.rpartition("/")
    return directory, leaf


def join(directory: str, leaf: str) -> str:
    """Return the name of `leaf` in a directory, `""` being the top."""
    return f"{directory}/{leaf}" if directory else leaf


def _complaint(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > LENGTH_MAX:
        return f"it is longer than {LENGTH_MAX} characters"
    if name.startswith("/"):
        return "it is an absolute path"
    components = name.split("/")
    if len(components) > COMPONENTS_MAX:
        return f"it has more than {COMPONENTS_MAX} components"
    return next(filter(None, map(_complaint_of_component, components)), "")


def _complaint_of_component(component: str) -> str:
    if len(component) > COMPONENT_LENGTH_MAX:
        return f"a component is longer than {COMPONENT_LENGTH_MAX} characters"
    if component.startswith("."):
        return "a component starts with a dot"
    if not _COMPONENT.fullmatch(component):
        return "a component is empty or has characters other than A-Z a-z 0-9 . _ -"
    if _UNFINISHED in component:
        return f"{_UNFINISHED} marks what is not whole yet"
    return ""

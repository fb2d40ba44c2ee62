"""Sizes and durations as people write and read them. Nothing here knows anything else."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_SUFFIXES = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_PERIODS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def format_size(size: float) -> str:
    """Return a size in bytes as text with a binary unit, such as `1.5 GiB`."""
    if abs(size) < KIB:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= KIB
        if abs(size) < KIB:
            return f"{size:.1f} {unit}"
    return f"{size / KIB:.1f} PiB"


def parse_size(text: str) -> int:
    """Return the bytes that a text such as `64MiB`, `2g` or `1048576` means.

    Raises:
        ValueError: the text is not a size.
    """
    digits = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = digits[-1:] if digits[-1:].isalpha() else ""
    number = float(digits.removesuffix(unit).strip())
    if unit not in _SUFFIXES or not 0 <= number < float("inf"):
        raise ValueError(text)
    return int(number * _SUFFIXES[unit])


def format_duration(seconds: float) -> str:
    """Return a duration as text, such as `3.2 s`, `4 min 05 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def parse_duration(text: str) -> int:
    """Return the seconds that a text such as `30s`, `12h`, `7d` or `2w` means.

    Raises:
        ValueError: the text is not a duration.
    """
    digits = text.strip().lower()
    if not digits or digits[-1] not in _PERIODS_S:
        raise ValueError(text)
    return int(digits[:-1]) * _PERIODS_S[digits[-1]]

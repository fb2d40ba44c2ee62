"""What accounts, groups and tokens may be called. Pure."""

import re

from ruchu.errors import InvalidName, UsageError
from ruchu.model.principals import ALL_GROUPS

# Names appear in records, files and addresses: short, plain, one spelling.
NAME_MAX = 64
_NAME = re.compile(rf"[a-z][a-z0-9._-]{{1,{NAME_MAX - 1}}}")
_GROUP = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_MAX - 1}}}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
_MAIL = re.compile(r"[^@\s<>,;:\"\\()\[\]]{1,64}@[^@\s<>,;:\"\\()\[\]]{1,189}")
# A title is one line of a table.
TITLE_MAX = 100
# They are written by Ruchu itself in the audit trail.
_RESERVED = frozenset({"local", "nobody", "system", "unknown"})


def user(name: str) -> str:
    """Return the name of an account as it is kept.

    Raises:
        InvalidName: it is not allowed.
    """
    kept = name.strip().lower()
    if not _NAME.fullmatch(kept) or kept in _RESERVED:
        hint = f"2 to {NAME_MAX} of a-z, 0-9, dot, dash, underscore; a letter first."
        raise InvalidName(f"({name[:NAME_MAX]!r})", hint=hint)
    return kept


def group(name: str) -> str:
    """Return the name of a resource group.

    Raises:
        InvalidName: it is not allowed.
    """
    if not _GROUP.fullmatch(name):
        hint = f"1 to {NAME_MAX} of a-z, 0-9, dot, dash, underscore."
        raise InvalidName(f"({name[:NAME_MAX]!r})", hint=hint)
    return name


def group_or_all(name: str) -> str:
    """Return the name of a resource group, or what stands for all of them.

    Raises:
        InvalidName: it is not allowed.
    """
    return name if name == ALL_GROUPS else group(name)


def title(text: str) -> str:
    """Return a text of one line.

    Raises:
        UsageError: it is too long, or has characters that do not print.
    """
    kept = text.strip()
    if len(kept) > TITLE_MAX or not kept.isprintable():
        raise UsageError(f"(a name of one line, up to {TITLE_MAX} characters)")
    return kept


def mail(address: str) -> str:
    """Return a mail address; it may be empty.

    Raises:
        UsageError: it is none.
    """
    kept = address.strip()
    if kept and (not _MAIL.fullmatch(kept) or not kept.isprintable()):
        raise UsageError("(this is no mail address)")
    return kept


def language(tag: str) -> str:
    """Return the tag of a language, such as `zh-CN`; it may be empty.

    Raises:
        UsageError: it is none.
    """
    if tag and not _LANGUAGE.fullmatch(tag):
        raise UsageError("(this is no tag of a language)")
    return tag

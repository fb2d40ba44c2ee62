"""Files of definitions as people write them: YAML that is small, plain, and holds no secret.

Read as YAML 1.2 does, so that `02:00` is a time and `no` is a word. Secrets are named, by a variable
of the environment or a file, and are taken from there.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ruchu.errors import UsageError

# Policies of the largest site, written by hand.
BYTES_MAX = 2 << 20
DEPTH_MAX = 32
# A few anchors for what repeats. Aliases of aliases multiply: what comes out is limited as well.
ALIASES_MAX = 1000
NODES_MAX = 200_000
SECRET_BYTES_MAX = 16 << 10
_WAYS = ("env", "file")

Document = dict[str, Any]
Secrets = dict[str, dict[str, dict[str, str]]]


class _Loader(yaml.SafeLoader):
    """A safe loader with the words of YAML 1.2, no key twice, and limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Build a node, unless there are too many aliases or levels."""
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > ALIASES_MAX:
                raise UsageError(f"(more than {ALIASES_MAX} aliases)")
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise UsageError(f"(nested more than {DEPTH_MAX} deep)")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - of PyYAML
        """Return a mapping that has every key once."""
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise UsageError(f"(line {key.start_mark.line + 1}: a key is a text)")
            if name in seen:
                raise UsageError(f"(line {key.start_mark.line + 1}: {name[:80]} twice)")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


# Not those of YAML 1.1, which PyYAML has.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]+", "-+0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first)
    )


def _integer(loader: _Loader, node: Any) -> int:
    """Return a whole number in decimal digits; PyYAML would read 0o17 out of 017."""
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def load(text: str) -> Document:
    """Return the document in a text.

    Raises:
        UsageError: it is no plain YAML, or too much of it.
    """
    if len(text.encode(errors="replace")) > BYTES_MAX:
        raise UsageError(f"(the file has more than {BYTES_MAX} bytes)")
    loader = None
    try:
        loader = _Loader(text)
        found = loader.get_single_data()
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where is not None else ""
        what = getattr(error, "problem", None) or error
        raise UsageError(f"({line}{str(what)[:200]})", hint="It is YAML.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"({str(error)[:200]})") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(found, dict):
        raise UsageError("(the file is no mapping)")
    _count(found, [0], frozenset())
    return found


def _count(value: Any, count: list[int], above: frozenset[int]) -> None:
    """Refuse what aliases make endless or very large, before anybody copies it."""
    count[0] += 1
    if count[0] > NODES_MAX or id(value) in above:
        raise UsageError(f"(more than {NODES_MAX} values, or one that holds itself)")
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    inside = above | {id(value)} if below else above
    for each in below:
        _count(each, count, inside)


def parted(
    document: Mapping[str, Any], environment: Mapping[str, str], read: Callable[[Path], bytes]
) -> tuple[Document, Secrets]:
    """Return a document without `secrets`, and the secrets that it refers to.

    Raises:
        UsageError: a secret is written out, or is not where it should be.
    """
    rest: Document = {}
    found: Secrets = {}
    for kind, names in document.items():
        if not isinstance(names, Mapping):
            rest[kind] = names
            continue
        rest[kind] = {}
        for name, fields in names.items():
            if not isinstance(fields, Mapping) or "secrets" not in fields:
                rest[kind][name] = fields
                continue
            rest[kind][name] = {key: fields[key] for key in fields if key != "secrets"}
            where = f"{kind} {name}"
            found.setdefault(kind, {})[name] = {
                field: _secret(f"{where}: {field}", way, environment, read)
                for field, way in _mapping(where, fields["secrets"]).items()
            }
    return rest, found


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"({where}: secrets is no mapping)")
    return value


def _secret(
    where: str, way: Any, environment: Mapping[str, str], read: Callable[[Path], bytes]
) -> str:
    if not isinstance(way, Mapping) or len(way) != 1 or next(iter(way)) not in _WAYS:
        hint = "Name it: {env: VARIABLE} or {file: PATH}. A secret is never written into the file."
        raise UsageError(f"({where})", hint=hint)
    ((how, name),) = way.items()
    if how == "env":
        value = environment.get(str(name), "")
        if not value:
            raise UsageError(f"({where}: the variable {name} is not set)")
        return value
    try:
        data = read(Path(str(name)))
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"({where}: {name}: {error})") from None
    if not text.strip() or len(data) > SECRET_BYTES_MAX:
        raise UsageError(f"({where}: {name} is empty, or too large)")
    return text.removesuffix("\n").removesuffix("\r")

"""Where a storage is, as a URL. Pure: nothing is opened here.

    file:///backup/ruchu
    s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-1
    device:///dev/sdb?uuid=...
    nfs://nas/volume1/backup?vers=4.2
    smb://nas/backup/ruchu?vers=3.1.1
    iscsi://san:3260/iqn.2001-05.com.example:backup/0?uuid=...

A location never holds a secret: those are in a file, or handed in by whoever opens the storage.
"""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ruchu.errors import UsageError

SCHEMES = ("file", "s3", "device", "nfs", "smb", "iscsi")
MOUNTED = ("device", "nfs", "smb", "iscsi")
"""What is mounted by us."""
ON_DEVICES = ("device", "iscsi")
"""What has a file system of our own on a block device."""

_OPTIONS: Mapping[str, frozenset[str]] = {
    "file": frozenset(),
    "s3": frozenset({"endpoint", "region", "style", "ca"}),
    "device": frozenset({"uuid"}),
    "nfs": frozenset({"vers", "sec"}),
    "smb": frozenset({"vers", "seal", "domain"}),
    "iscsi": frozenset({"uuid"}),
}
_LENGTH_MAX = 2000
# What ends up in options of mount, separated by commas: nothing that could add an option.
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_VALUE = re.compile(r"[A-Za-z0-9._:/@=+-]{0,500}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]{0,500}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9._/:+-]{1,200}")
_SHARE = re.compile(r"/[^\0-\x1f,\\]{0,500}")
_IQN = re.compile(r"(?:iqn|eui|naa)\.[A-Za-z0-9.:-]{1,220}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HINT = (
    "Such as /backup, s3://bucket/prefix, device:///dev/sdb, nfs://host/export, smb://host/share"
)


@dataclass(frozen=True, slots=True)
class Location:
    """A place.

    Attributes:
        scheme: one of `SCHEMES`.
        host: the server, or the bucket; empty for what is on this host.
        port: 0 for the usual one.
        path: what is meant there, beginning with a slash; of a bucket, the prefix without any.
        options: what else is to be known.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        path = urllib.parse.quote(self.path, safe="/:@+")
        slash = "/" if path and not path.startswith("/") else ""
        query = urllib.parse.urlencode(self.options, safe=":/")
        return f"{self.scheme}://{self.host}{port}{slash}{path}" + (f"?{query}" if query else "")

    @property
    def mounted(self) -> bool:
        """Whether we mount it."""
        return self.scheme in MOUNTED

    @property
    def target(self) -> tuple[str, int]:
        """Name and unit of an iSCSI target."""
        name, _, unit = self.path.strip("/").rpartition("/")
        return name, int(unit)

    def with_options(self, **more: str) -> "Location":
        """Return it with more options."""
        return replace(self, options={**self.options, **more})


def parse(text: str) -> Location:
    """Return the location that a text names: a URL, or the path of a directory.

    Raises:
        UsageError: it names none; the detail says why.
    """
    if len(text) > _LENGTH_MAX:
        raise UsageError(f"(a location of more than {_LENGTH_MAX} characters)")
    if "://" not in text:
        return Location("file", path=text)
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port or 0
        query = urllib.parse.parse_qsl(
            parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)
        )
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if "@" in parts.netloc:
        hint = "Give --credentials-file; a location holds no secret."
        raise UsageError("(a location with a user or a password)", hint=hint)
    host = re.sub(r":\d*$", "", parts.netloc)
    options = dict(query)
    location = Location(parts.scheme, host, port, urllib.parse.unquote(parts.path), options)
    reason = _complaint(location, fragment=parts.fragment, repeated=len(options) < len(query))
    if reason:
        raise _wrong(text, reason)
    if location.scheme == "s3":
        return replace(location, path=location.path.strip("/"))
    return location


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(f"(location {text[:200]!r}: {reason})", hint=_HINT)


def _complaint(location: Location, *, fragment: str, repeated: bool) -> str:
    if location.scheme not in SCHEMES:
        return f"one of {', '.join(SCHEMES)} is needed before ://"
    if fragment or repeated:
        return "it has a fragment, or an option twice"
    if ".." in location.path.split("/"):
        return "a path with .."
    return _complaint_of_options(location) or _CHECKS[location.scheme](location)


def _complaint_of_options(location: Location) -> str:
    for name, value in location.options.items():
        if name not in _OPTIONS[location.scheme]:
            known = ", ".join(sorted(_OPTIONS[location.scheme])) or "none"
            return f"unknown option {name!r}; there are: {known}"
        if not _VALUE.fullmatch(value):
            return f"odd characters in {name}"
    return ""


def _here(location: Location) -> str:
    return "" if not location.host and location.path.startswith("/") else "three slashes are needed"


def _bucket(location: Location) -> str:
    options = location.options
    if location.port or not _BUCKET.fullmatch(location.host):
        return "the bucket stands after ://, the server in ?endpoint="
    if not _PREFIX.fullmatch(location.path) or "//" in location.path.strip("/"):
        return "the prefix has odd characters"
    if options.get("style", "path") not in {"path", "virtual"}:
        return "style is path or virtual"
    endpoint = options.get("endpoint")
    if endpoint is not None and not re.match(r"https?://[^/]+/?$", endpoint):
        return "endpoint is http(s)://host or http(s)://host:port"
    return ""


def _device(location: Location) -> str:
    if location.host or not _DEVICE.fullmatch(location.path):
        return "a device below /dev is needed"
    return _uuid(location)


def _uuid(location: Location) -> str:
    uuid = location.options.get("uuid", "")
    return "" if not uuid or _UUID.fullmatch(uuid) else "uuid is that of a file system"


def _share(location: Location) -> str:
    if not _HOST.fullmatch(location.host):
        return "a host is needed after ://"
    if not _SHARE.fullmatch(location.path) or not location.path.strip("/"):
        return "the export or share is missing, or has odd characters"
    return ""


def _target(location: Location) -> str:
    name, _, unit = location.path.strip("/").rpartition("/")
    if not _HOST.fullmatch(location.host):
        return "a host is needed after ://"
    if not _IQN.fullmatch(name) or not re.fullmatch(r"\d{1,5}", unit):
        return "the name of a target and the number of a unit are needed: /iqn.../0"
    return _uuid(location)


_CHECKS = {
    "file": _here,
    "s3": _bucket,
    "device": _device,
    "nfs": _share,
    "smb": _share,
    "iscsi": _target,
}

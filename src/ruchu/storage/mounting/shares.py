"""Shares of other hosts: the options with which they are mounted, and why these.

NFS: `hard`, so that a server that is away makes us wait and never loses what was written; writes
are durable when fsync returns, because the client sends COMMIT. Other hosts must see a new lock
at once: names that are not there are not remembered, nor are listings.

CIFS: `cache=strict`, so that fsync sends FLUSH and caches follow the protocol; protocol 3 or
later; the credentials in a file that is gone when the mount is done.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruchu import errors
from ruchu.storage.locations import Location

NFS_VERSION_DEFAULT = "4.2"
SMB_VERSION_DEFAULT = "3.1.1"
_NFS_VERSIONS = {"3", "4.0", "4.1", "4.2"}
_SMB_VERSIONS = {"3.0", "3.0.2", "3.1.1"}
_SECURITY = {"sys", "krb5", "krb5i", "krb5p"}
# Tenths of a second until a request is sent again, and how often before the kernel says so.
_NFS_PATIENCE = ("timeo=600", "retrans=2")


def nfs_source(location: Location) -> str:
    """Return what `mount` calls an export."""
    return f"{location.host}:{location.path}"


def nfs_options(location: Location) -> list[str]:
    """Return the options of an NFS mount.

    Raises:
        UsageError: an option of the location is none that is safe.
    """
    version = _chosen(location, "vers", NFS_VERSION_DEFAULT, _NFS_VERSIONS)
    options = ["hard", f"vers={version}", "proto=tcp", *_NFS_PATIENCE]
    options += ["lookupcache=positive", "acdirmin=0", "acdirmax=0"]
    options.append(f"sec={_chosen(location, 'sec', 'sys', _SECURITY)}")
    if location.port:
        options.append(f"port={location.port}")
        if version == "3":
            options += [f"mountport={location.port}", "nolock"]
    return options


def smb_source(location: Location) -> str:
    """Return what `mount` calls a share."""
    return f"//{location.host}{location.path}"


def smb_options(location: Location) -> list[str]:
    """Return the options of a CIFS mount, without the credentials.

    Raises:
        UsageError: an option of the location is none that is safe.
    """
    version = _chosen(location, "vers", SMB_VERSION_DEFAULT, _SMB_VERSIONS)
    options = ["cache=strict", f"vers={version}", "uid=0", "gid=0"]
    options += ["file_mode=0600", "dir_mode=0700", "actimeo=0", "nosharesock", "echo_interval=10"]
    if _chosen(location, "seal", "0", {"0", "1"}) == "1":
        options.append("seal")
    if location.port:
        options.append(f"port={location.port}")
    return options


@contextlib.contextmanager
def credentials_file(directory: Path, user: str, password: str, domain: str = "") -> Iterator[Path]:
    """Yield a file for `mount.cifs`, readable by us alone, gone at the end.

    Raises:
        UsageError: a value has a line break.
    """
    values = {"username": user, "password": password, "domain": domain}
    if any("\n" in value or "\0" in value for value in values.values()):
        raise errors.UsageError("(a user or password with a line break)")
    content = "".join(f"{key}={value}\n" for key, value in values.items() if value)
    file, path = tempfile.mkstemp(prefix=".credentials-", dir=directory)
    try:
        try:
            os.fchmod(file, 0o600)
            os.write(file, content.encode())
        finally:
            os.close(file)
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def address_of(host: str) -> str:
    """Return the address of a host.

    Raises:
        StorageGone: it has none.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise errors.StorageGone(f"({host}: {error.strerror})") from None
    return str(found[0][4][0])


def _chosen(location: Location, name: str, default: str, known: set[str]) -> str:
    value = location.options.get(name, default)
    if value not in known:
        raise errors.UsageError(f"({name}={value}; one of {', '.join(sorted(known))})")
    return value

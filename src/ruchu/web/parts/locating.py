"""Where a storage lies, field by field: turned into a location and credentials. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruchu.errors import UsageError
from ruchu.storage import locations
from ruchu.storage.locations import Location
from ruchu.web.language import later


@dataclass(frozen=True, slots=True)
class Field:
    """Something that is asked for.

    Attributes:
        name: of the value.
        label: in English.
        help: what goes in, in English.
        secret: whether it is a credential.
        hidden: whether what is typed is not shown.
        options: value to title, in English, of one that is chosen.
        default: what it is at first.
    """

    name: str
    label: str
    help: str = ""
    secret: bool = False
    hidden: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    default: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of place.

    Attributes:
        name: of the kind.
        title, help: in English.
        icon: name of a Material icon.
        fields: what is asked for.
    """

    name: str
    title: str
    icon: str
    help: str
    fields: tuple[Field, ...]


_HOST = Field("host", later("Server"), later("A host name or an address."))
_USER = Field("user", later("User"), later("Empty: as a guest."), secret=True)
_PASSWORD = Field("password", later("Password of that user"), secret=True, hidden=True)
_DOMAIN = Field("domain", later("Domain"), later("Usually empty."), secret=True)
_FILE_SYSTEM = Field(
    "file_system", later("File system"),
    options={"": later("Use the one that is there"), "xfs": later("Make XFS"), "ext4": later("Make ext4")},
)  # fmt: skip
_ERASE = Field(
    "erase", later("Erase what is on it: type the device again"),
    later("Only if the device is not empty. Everything on it is lost."),
)  # fmt: skip
KINDS: tuple[Kind, ...] = (
    Kind("directory", later("Directory"), "folder",
         later("A directory of the node, on a disk or on something that you mounted there."),
         (Field("path", later("Directory on the node"),
                later("Such as /srv/backup; it is made if it is not there.")),)),
    Kind("s3", later("S3 bucket"), "cloud",
         later("A bucket of Amazon S3, or of any server that speaks S3. It is tried before it is used."),
         (Field("bucket", later("Bucket")),
          Field("prefix", later("Prefix in the bucket"), later("Usually empty.")),
          Field("endpoint", later("Endpoint"),
                later("Such as https://s3.example.com. Empty: Amazon's.")),
          Field("region", later("Region"), later("Such as cn-north-1; usually empty.")),
          Field("style", later("Style of addresses"),
                options={"": later("As the server wants"), "path": later("Bucket in the path"),
                         "virtual": later("Bucket in the host name")}),
          Field("access_key", later("Access key"), later("Empty: as the node's host is signed in."),
                secret=True),
          Field("secret_key", later("Secret key"), secret=True, hidden=True))),
    Kind("nfs", later("NFS export"), "lan",
         later("The node mounts it by itself. The export must be “sync”, as it is by default."),
         (_HOST, Field("path", later("Exported path"), later("Such as /volume1/backup.")),
          Field("vers", later("Protocol version"), options={"": "4.2", "4.1": "4.1", "4.0": "4.0", "3": "3"}),
          Field("sec", later("Security"), options={
              "": later("That of the server"), "krb5": later("Kerberos"),
              "krb5i": later("Kerberos, checked"), "krb5p": later("Kerberos, encrypted")}))),
    Kind("smb", later("SMB share"), "folder_shared",
         later("A share of Windows, Samba or a NAS. The node mounts it by itself."),
         (_HOST, Field("path", later("Share on the server"), later("And a folder in it, such as backup/ruchu.")),
          Field("vers", later("Protocol version"), options={"": "3.1.1", "3.0.2": "3.0.2", "3.0": "3.0"}),
          Field("seal", later("Encryption on the wire"),
                options={"": later("As the server wants"), "1": later("Always")}),
          _USER, _PASSWORD, _DOMAIN)),
    Kind("iscsi", later("iSCSI"), "device_hub",
         later("A unit of an iSCSI target. The node signs in and uses it as a disk."),
         (_HOST, Field("target", later("Target"), later("Such as iqn.2001-05.com.example:backup.")),
          Field("unit", later("Unit number"), later("A number, usually 0."), default="0"),
          _FILE_SYSTEM, _ERASE,
          Field("user", later("User"), later("Empty: without CHAP."), secret=True), _PASSWORD)),
    Kind("device", later("Disk"), "storage",
         later("A whole disk, partition, logical volume, FC or multipath disk of the node."),
         (Field("path", later("Device on the node"), later("Such as /dev/sdb.")),
          _FILE_SYSTEM, _ERASE)),
)  # fmt: skip


def kind(name: str) -> Kind:
    """Return a kind by its name."""
    return next(each for each in KINDS if each.name == name)


def location(name: str, values: Mapping[str, str]) -> str:
    """Return the location that the values of a kind name.

    Raises:
        UsageError: a value is missing or cannot be; the detail says which.
    """
    given = {key: (value or "").strip() for key, value in values.items()}
    if name == "directory":
        path = given.get("path", "")
        if not path.startswith("/") or "\0" in path:
            raise UsageError("(a directory begins with /)")
        return path
    made = str(_BUILD[name](given))
    locations.parse(made)
    return made


def _options(given: Mapping[str, str], *names: str) -> dict[str, str]:
    return {each: given[each] for each in names if given.get(each)}


def _s3(given: Mapping[str, str]) -> Location:
    prefix = given.get("prefix", "").strip("/")
    options = _options(given, "endpoint", "region", "style")
    return Location("s3", given.get("bucket", ""), 0, prefix, options)


def _nfs(given: Mapping[str, str]) -> Location:
    path = "/" + given.get("path", "").lstrip("/")
    return Location("nfs", _host(given), 0, path, _options(given, "vers", "sec"))


def _smb(given: Mapping[str, str]) -> Location:
    path = "/" + given.get("path", "").replace("\\", "/").strip("/")
    return Location("smb", _host(given), 0, path, _options(given, "vers", "seal"))


def _iscsi(given: Mapping[str, str]) -> Location:
    host, port = _host(given), 0
    if ":" in host and not host.endswith("]"):
        host, _, text = host.rpartition(":")
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
            raise UsageError("(the port of the server)")
        port = int(text)
    return Location("iscsi", host, port, f"/{given.get('target', '')}/{given.get('unit') or '0'}")


def _device(given: Mapping[str, str]) -> Location:
    return Location("device", path=given.get("path", ""))


def _host(given: Mapping[str, str]) -> str:
    """Return a host as a location has it: of an IPv6 address, in brackets."""
    host = given.get("host", "").removeprefix("\\\\").removeprefix("//")
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


_BUILD = {"s3": _s3, "nfs": _nfs, "smb": _smb, "iscsi": _iscsi, "device": _device}


def credentials(name: str, values: Mapping[str, str]) -> str | None:
    """Return the credentials of a server, as lines `name = value`; None if there are none.

    Raises:
        UsageError: one of them has more than one line.
    """
    found = []
    for each in kind(name).fields:
        value = values.get(each.name) or ""
        if not each.secret or not value:
            continue
        if "\n" in value or "\r" in value:
            raise UsageError("(credentials of more than one line)")
        found.append(f"{each.name} = {value}")
    return "\n".join(found) or None


def extras(values: Mapping[str, str], path: str) -> dict[str, Any]:
    """Return what else a device needs: its file system, and that its content may go.

    Raises:
        UsageError: another device was typed than the one that is meant.
    """
    erase = (values.get("erase") or "").strip()
    if erase and path.startswith("device://") and path != f"device://{erase}":
        raise UsageError("(what was typed to be erased is another device)")
    wanted = {"file_system": values.get("file_system") or "", "erase": erase}
    return {key: value for key, value in wanted.items() if value}


def described(where: str) -> Kind | None:
    """Return the kind of a location; None if it is none of ours."""
    scheme = where.partition("://")[0] if "://" in where else "directory"
    name = {"file": "directory"}.get(scheme, scheme)
    return next((each for each in KINDS if each.name == name), None)

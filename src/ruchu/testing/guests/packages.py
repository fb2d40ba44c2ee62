"""Fetches Debian packages and unpacks them into a directory. Nothing is installed."""

import re
from collections.abc import Iterable
from pathlib import Path

from ruchu import commands
from ruchu.errors import CommandFailed

# The kernel is 30 MB; a slow mirror may need minutes.
DOWNLOAD_LIMIT_S = 600.0
QUERY_LIMIT_S = 60.0

KERNEL_PACKAGE = "linux-image-cloud-amd64"
AGENT_PACKAGE = "qemu-guest-agent"
BUSYBOX_PACKAGE = "busybox-static"
# Debian names library packages lib*; zlib1g is the one exception that the agent needs.
_LIBRARY = re.compile(r"^(lib[a-z0-9]|zlib1g)")


def kernel_image() -> str:
    """Return the package that holds the kernel of today, such as `linux-image-6.1.0-56-…`.

    Raises:
        CommandFailed: apt knows no such package.
    """
    listed = commands.run(["apt-cache", "depends", KERNEL_PACKAGE], timeout_s=QUERY_LIMIT_S).text
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise CommandFailed(f"apt-cache depends {KERNEL_PACKAGE}: no kernel is named")
    return found[1]


def agent_libraries() -> list[str]:
    """Return the library packages that the guest agent needs, directly or not."""
    args = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests"]
    args += ["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", AGENT_PACKAGE]
    listed = commands.run(args, timeout_s=QUERY_LIMIT_S).text
    names = {line.strip() for line in listed.splitlines() if line and line[0].isalpha()}
    return sorted(name for name in names if _LIBRARY.match(name) and ":" not in name)


def unpack(names: Iterable[str], directory: Path) -> None:
    """Download packages and unpack them over each other into `directory`.

    Raises:
        CommandFailed: apt or dpkg-deb failed.
    """
    archives = directory.parent / f"{directory.name}.archives"
    archives.mkdir(parents=True, exist_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    # `apt-get download` writes to the working directory, which only a shell or env can set.
    args = ["env", "-C", str(archives), "apt-get", "-q", "download", *names]
    commands.run(args, timeout_s=DOWNLOAD_LIMIT_S)
    for archive in sorted(archives.glob("*.deb")):
        commands.run(["dpkg-deb", "-x", str(archive), str(directory)], timeout_s=DOWNLOAD_LIMIT_S)
        archive.unlink()
    archives.rmdir()

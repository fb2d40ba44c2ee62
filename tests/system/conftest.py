"""What system tests share: one libvirt daemon, guests, and a judge of what was left behind."""

import os
import secrets
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def libvirt_uri():
    """Yield the URI of a libvirt daemon, the user's or one started for the tests."""
    pytest.importorskip("libvirt")
    from ruchu.errors import CommandFailed, Unreachable  # noqa: PLC0415
    from ruchu.testing import libvirtd  # noqa: PLC0415
    from ruchu.testing.guests import builder  # noqa: PLC0415

    try:
        builder.machine_type()
        daemon = libvirtd.running()
        uri = daemon.__enter__()
    except (Unreachable, CommandFailed) as error:
        pytest.skip(str(error))
    yield uri
    daemon.__exit__(None, None, None)


@pytest.fixture
def owner():
    """Return an owner mark of this test alone."""
    return f"t{secrets.token_hex(3)}"


@pytest.fixture
def place():
    """Yield a short directory for scratch files and sockets; at the end it must be empty."""
    from ruchu import commands  # noqa: PLC0415

    made = commands.run(["mktemp", "-d", "/var/tmp/rp-XXXXXX"], timeout_s=10).text.strip()
    os.chmod(made, 0o755)
    yield Path(made)
    left = sorted(os.listdir(made))
    serving = commands.run(["ps", "-eo", "pid,args"], timeout_s=10).text.splitlines()
    processes = [line for line in serving if made in line and "qemu-nbd" in line]
    commands.run(["rm", "-rf", made], timeout_s=10)
    assert left == []
    assert processes == []


@pytest.fixture
def home(place):
    """Yield a short directory for a server and what it works on; all of it goes with the test."""
    (place / "scratch").mkdir()
    yield place
    for path in sorted(place.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def browser():
    """Yield a Chromium that the tests of a file share."""
    from ruchu.testing import browsers  # noqa: PLC0415

    with browsers.browser() as started:
        yield started


@pytest.fixture
def platform(libvirt_uri, place):
    """Yield the platform, with its files in `place`."""
    from ruchu.platforms.libvirt.driver import LibvirtPlatform  # noqa: PLC0415

    with LibvirtPlatform(
        libvirt_uri,
        scratch_directory=str(place),
        socket_directory=str(place),
        shutdown_limit_s=30,
    ) as platform:
        yield platform

"""A point runs in QEMU on this host, by `ruchu run`; its guest agent answers."""

import json
import os
import socket

import pytest

from ruchu import clock
from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]


class Agent:
    """The guest agent behind a socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(self.file.readline())["return"]

    def run(self, text):
        arguments = {"path": "/bin/sh", "arg": ["-c", text], "capture-output": True}
        process = self.ask("guest-exec", **arguments)["pid"]
        deadline = clock.SYSTEM.monotonic() + 60
        while not (state := self.ask("guest-exec-status", pid=process))["exited"]:
            assert clock.SYSTEM.monotonic() < deadline
            clock.SYSTEM.sleep(0.05)
        assert state["exitcode"] == 0, state


@pytest.fixture
def cli(tmp_path, libvirt_uri, place):
    cli = CommandLine(tmp_path)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    cli.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    os.chmod(tmp_path, 0o755)
    return cli


def test_a_point_runs_here_and_keeps_what_it_writes_if_asked(cli, libvirt_uri):
    with guests.booted(libvirt_uri, [GuestDisk("vda", 128 * MIB)]) as guest:
        digest = guest.write("/mnt/vda/file", MIB)
        (done,) = cli.json("backup", "vm", guest.name, "--storage", "s")
    words = ("run", done["point"], "--json", "--accelerator", "tcg", "--memory", "192MiB")
    test = "test $(sha256sum < {} | cut -d' ' -f1) = {}"
    cache = cli.home / "cache"
    with cli.serving(*words, "--cache", cache) as run:
        with Agent(run.answer["agent"]) as agent:
            agent.ask("guest-ping")
            agent.run(test.format("/mnt/vda/file", digest))
            agent.run("echo kept > /mnt/vda/new; sync")
        assert run.end() == 0
    assert not os.path.exists(run.answer["agent"]), "the sockets are gone"
    with (
        cli.serving(*words, "--cache", cache, "--vcpus", 2) as run,
        Agent(run.answer["agent"]) as agent,
    ):
        agent.ask("guest-ping")
        agent.run("grep -q kept /mnt/vda/new && test $(grep -c ^processor /proc/cpuinfo) = 2")
    with cli.serving(*words) as run, Agent(run.answer["agent"]) as agent:
        agent.ask("guest-ping")
        agent.run("test ! -e /mnt/vda/new")
        agent.run(test.format("/mnt/vda/file", digest))
    cli.fails(2, "usage", "run", done["point"], "--console", "telex")
    cli.fails(2, "usage", "run", done["point"], "--accelerator", "steam")

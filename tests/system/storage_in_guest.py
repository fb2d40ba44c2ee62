"""What runs in the guest of test_storage_guest.py: storages on NFS, CIFS, iSCSI, a growing disk.

Says on its console what it has done; the host kills servers and starts them again meanwhile.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from ruchu import clock, commands, errors
from ruchu.storage import locations
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.mounting import devices, iscsi, mounts, shares

HOST = "10.0.2.2"
CONTENT = bytes(range(256)) * 4096 * 4
LIMIT_S = 200


def say(text):
    sys.stdout.write(f"SAY {text}\n")
    sys.stdout.flush()


def wait_until_gone(port):
    while True:
        try:
            socket.create_connection((HOST, port), timeout=2).close()
        except OSError:
            return
        time.sleep(0.1)


def use(storage, what):
    """Do with a storage what a backup does with it."""
    storage.put("ruchu-storage.json", what.encode())
    try:
        storage.put("ruchu-storage.json", b"other")
    except errors.ObjectExists:
        pass
    else:
        raise AssertionError("a put replaced an object")
    with storage.open_writer("packs/aa/first") as writer:
        writer.write([CONTENT])
        writer.commit()
    storage.put("locks/1.json", b"lock")
    storage.delete("locks/1.json")
    assert [info.name for info in storage.list("packs")] == ["packs/aa/first"]
    assert storage.free_space() > 0
    say(f"{what} used")


def survive(storage, what, port):
    """Store an object while the server is dead; it must be there when it lives again."""
    wait_until_gone(port)
    done = threading.Event()

    def put():
        while not done.is_set():
            # Where mounts wait, this takes until the server is back; elsewhere it fails before.
            with contextlib.suppress(errors.StorageError):
                try:
                    storage.put("packs/aa/second", CONTENT)
                except errors.ObjectExists:
                    assert storage.get("packs/aa/second", len(CONTENT)) == CONTENT
                done.set()
            time.sleep(0.2)

    thread = threading.Thread(target=put)
    thread.start()
    assert not done.wait(3)
    say(f"{what} waits")
    thread.join(LIMIT_S)
    assert done.is_set()
    say(f"{what} stored")


def read_again(storage, what):
    Path("/proc/sys/vm/drop_caches").write_text("3")
    for name in ("packs/aa/first", "packs/aa/second"):
        got = storage.get(name, len(CONTENT))
        assert hashlib.sha256(got).digest() == hashlib.sha256(CONTENT).digest()
    assert storage.sweep_unfinished("packs") >= 0
    assert len(list(storage.list("packs"))) == 2
    say(f"{what} whole")


def on_nfs(places, options):
    location = locations.parse(f"nfs://{HOST}:{options['nfs']}/backup?vers=4.2")
    words = "nfs", shares.nfs_source(location), shares.nfs_options(location)
    point = places.mount("nfs", *words)
    found = places.find("nfs").options
    assert {"hard", "vers=4.2", "noexec"} <= set(found), found
    storage = DirectoryStorage(point)
    use(storage, "nfs")
    survive(storage, "nfs", options["nfs"])
    storage.close()
    places.unmount("nfs")
    storage = DirectoryStorage(places.mount("nfs", *words))
    read_again(storage, "nfs")
    storage.close()
    places.unmount("nfs")


def on_cifs(places, options):
    location = locations.parse(f"smb://{HOST}:{options['smb']}/backup")
    say(f"cifs {shares.smb_options(location)}")

    def mount():
        with shares.credentials_file(places.directory, "root", options["password"]) as file:
            words = [*shares.smb_options(location), f"credentials={file}"]
            return places.mount("smb", "cifs", shares.smb_source(location), words)

    storage = DirectoryStorage(mount())
    found = places.find("smb").options
    assert {"cache=strict", "vers=3.1.1", "noexec"} <= set(found), found
    assert options["password"] not in Path("/proc/mounts").read_text()
    use(storage, "cifs")
    survive(storage, "cifs", options["smb"])
    storage.close()
    places.unmount("smb")
    storage = DirectoryStorage(mount())
    read_again(storage, "cifs")
    storage.close()
    places.unmount("smb")


def on_iscsi(places, options):
    location = locations.parse(f"iscsi://{HOST}:{options['iscsi']}/{options['target']}/1")
    Path("/etc/iscsi/initiatorname.iscsi").write_text("InitiatorName=iqn.2026-01.org.example:g\n")
    with commands.start(["iscsid", "-f"]):
        try:
            iscsi.log_in(location, "operator", "wrong.horse.battery", clock.SYSTEM)
        except errors.StorageGone:
            iscsi.log_out(location)
        else:
            raise AssertionError("a wrong password was taken")
        device = iscsi.log_in(location, "operator", options["chap"], clock.SYSTEM)
        label = devices.make_file_system(device, "ext4", bytes([7]) * 16, erase=False)
        point = places.mount("san", "ext4", device, [], devices.number_of(device))
        storage = DirectoryStorage(point)
        use(storage, "iscsi")
        survive(storage, "iscsi", options["iscsi"])
        storage.close()
        places.unmount("san")
        iscsi.log_out(location)
        assert iscsi.device_of(location) is None
        device = iscsi.log_in(location, "operator", options["chap"], clock.SYSTEM)
        assert devices.find("/dev/absent", label) == device
        storage = DirectoryStorage(places.mount("san", "ext4", device, []))
        read_again(storage, "iscsi")
        storage.close()
        places.unmount("san")
        iscsi.log_out(location)


def on_a_growing_disk(places, options):
    image = Path("/run/guest/disk")
    with image.open("wb") as file:
        file.truncate(400 << 20)
    words = ["losetup", "--find", "--show", str(image)]
    device = commands.run(words, timeout_s=30).text.strip()
    devices.make_file_system(device, "ext4", bytes(16), erase=False)
    point = places.mount("disk", "ext4", device, [], devices.number_of(device))
    storage = DirectoryStorage(point)
    use(storage, "disk")
    os.truncate(image, 800 << 20)
    commands.run(["losetup", "--set-capacity", device], timeout_s=30)
    before, after = devices.grow(device, "ext4", point)
    assert after > before + (300 << 20), (before, after)
    assert storage.get("packs/aa/first", len(CONTENT)) == CONTENT
    storage.close()
    places.unmount("disk")
    say("disk grown")


def main():
    options = json.loads(Path(sys.argv[1]).read_text())
    places = mounts.Mounts(Path("/run/guest/mounts"))
    for work in (on_a_growing_disk, on_nfs, on_cifs, on_iscsi):
        try:
            work(places, options)
        except BaseException:  # noqa: BLE001 - the host reads it from the console
            traceback.print_exc(file=sys.stdout)
            say(f"FAILED {work.__name__}")


main()

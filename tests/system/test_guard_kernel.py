"""The programs for the BPF LSM in a kernel that has it: that of the test guest, booted for this.

The kernel of the host may have none, or be locked down. The guest boots with `lsm=capability,bpf`,
from the initramfs of the other tests and a second one with Python and the guard's modules.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ruchu.testing.guests import builder, initramfs

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

BOOT_LIMIT_S = 400
SOURCE = Path(builder.__file__).parents[2]
OMITTED = {"test", "tests", "idlelib", "ensurepip", "tkinter", "lib2to3", "site-packages",
           "dist-packages", "turtledemo", "pydoc_data", "distutils", "__pycache__"}  # fmt: skip

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /mnt/t /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mount -t tmpfs none /mnt/t
PYTHONHOME=@home@ PYTHONPATH=/ruchu @python@ /ruchu/inside.py
poweroff -f
"""

INSIDE = """
import json, os, subprocess, sys
from ruchu.storage.guarding import processes
from ruchu.storage.guarding.bpf.enforcing import Enforcement

root = "/mnt/t/storage"
os.makedirs(root + "/packs")
path = root + "/packs/a.pack"
open(path, "w").write("content")
open("/mnt/t/outside", "w").write("x")
enforcement = Enforcement()
enforcement.guard(root)
did = {}


def attempt(name, *words):
    did[name] = subprocess.run(words, capture_output=True).returncode == 0


def python(name, code):
    attempt(name, sys.executable, "-c", "import os, fcntl; path = %r; %s" % (path, code))


attempt("write", "sh", "-c", "echo x > " + path)
attempt("append", "sh", "-c", "echo x >> " + path)
attempt("dd", "dd", "if=/dev/zero", "of=" + path, "count=1")
attempt("remove", "rm", "-f", path)
attempt("rename", "mv", path, path + "2")
attempt("rename away", "mv", path, "/mnt/t/gone")
attempt("rename into", "mv", "/mnt/t/outside", root + "/outside")
attempt("rename top", "mv", root, root + "2")
attempt("link", "ln", path, "/mnt/t/link")
attempt("link into", "ln", "/mnt/t/outside", root + "/link")
attempt("mode", "chmod", "777", path)
attempt("owner", "chown", "1:1", path)
attempt("times", "touch", path)
attempt("create", "touch", root + "/new")
attempt("directory", "mkdir", root + "/new")
attempt("node", "mknod", root + "/new", "p")
attempt("symlink", "ln", "-s", "x", root + "/new")
attempt("remove directory", "rmdir", root + "/packs")
python("truncate", "os.truncate(path, 0)")
python("attribute", "os.setxattr(path, 'trusted.x', b'1')")
python("flags", "fcntl.ioctl(os.open(path, 0), 0x40086602, b'0000')")
python("mapping", "import mmap; mmap.mmap(os.open(path, os.O_RDWR), 0)")
attempt("read", "cat", path)
attempt("outside", "sh", "-c", "echo y >> /mnt/t/outside && rm /mnt/t/outside")
refusals = enforcement.refusals()
me = processes.look(os.getpid())
try:
    open(path, "a")
    did["before admission"] = True
except PermissionError:
    did["before admission"] = False
enforcement.admit(me.pid, me.started + 1)
try:
    open(path, "a")
    did["another start"] = True
except PermissionError:
    did["another start"] = False
enforcement.admit(me.pid, me.started)
with open(path, "a") as file:
    file.write("!")
os.rename(path, path + "2")
os.rename(path + "2", path)
did["admitted"] = open(path).read() == "content!"
enforcement.dismiss(me.pid)
try:
    os.unlink(path)
    did["dismissed"] = True
except PermissionError:
    did["dismissed"] = False
enforcement.close()
os.unlink(path)
did["closed"] = not os.path.exists(path)
told = [[each.what, each.comm, each.name, each.pid > 1, each.uid] for each in refusals]
print("RESULT", json.dumps({"did": did, "told": told, "hooks": enforcement.hooks}), flush=True)
"""


def second_archive():
    """Return an initramfs with this Python, the guard's modules and what runs in the guest."""
    archive = initramfs.Archive()
    python = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    binaries = {python}
    archive.add_file(str(python)[1:], python.read_bytes(), executable=True)
    for path in sorted(library.rglob("*")):
        if OMITTED & set(path.relative_to(library).parts) or path.suffix in {".a", ".pyc"}:
            continue
        if path.suffix == ".so":
            binaries.add(path)
        if path.is_file() and (path.suffix in {".py", ".so"}):
            archive.add_file(str(path)[1:], path.read_bytes(), executable=True)
    for name in libraries(binaries):
        archive.add_file(name[1:], Path(name).read_bytes(), executable=True)
    for path in [*(SOURCE / "storage").rglob("*.py"), *(SOURCE / "model").rglob("*.py"), *(SOURCE / "errors").rglob("*.py"),
                 *SOURCE.glob("*.py")]:  # fmt: skip
        archive.add_file(f"ruchu/ruchu/{path.relative_to(SOURCE)}", path.read_bytes())
    archive.add_file("ruchu/inside.py", INSIDE.encode())
    init = INIT.replace("@python@", str(python)).replace("@home@", str(library.parents[1]))
    archive.add_file("guard-init", init.encode(), executable=True)
    return archive.finish()


def libraries(binaries):
    """Return the paths of the shared libraries that the programs are linked with."""
    found = set()
    for binary in binaries:
        said = subprocess.run(["ldd", binary], capture_output=True, check=False, text=True).stdout
        found |= {word for word in said.split() if word.startswith("/") and Path(word).is_file()}
    return sorted(found)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    assert shutil.which("qemu-system-x86_64")
    files = builder.boot_files()
    both = tmp_path_factory.mktemp("guard") / "initramfs"
    first = files.initramfs.read_bytes()
    both.write_bytes(first + b"\0" * (-len(first) % 512) + second_archive())
    command = ["qemu-system-x86_64", "-machine", "q35", "-m", "1024", "-nographic", "-no-reboot"]
    command += ["-cpu", "max", "-kernel", str(files.kernel), "-initrd", str(both), "-append"]
    command += ["console=ttyS0 quiet panic=1 rdinit=/guard-init lsm=capability,bpf"]
    said = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=BOOT_LIMIT_S
    ).stdout.decode("utf-8", "replace")
    # What the firmware printed may stand before it in the same line.
    _, found, rest = said.partition("RESULT ")
    assert found, said[-3000:]
    return json.loads(rest.splitlines()[0])


def test_the_kernel_refuses_every_change_by_others(result):
    did = result["did"]
    allowed = {name for name, done in did.items() if done}
    assert allowed == {"read", "outside", "admitted", "closed"}


def test_each_refusal_names_the_program(result):
    told = {(what, comm, name) for what, comm, name, *_ in result["told"]}
    assert ("remove", "rm", "a.pack") in told
    assert ("rename", "mv", "a.pack") in told
    assert ("open for writing", "dd", "a.pack") in told
    assert ("rename", "mv", "storage") in told
    assert ("create", "touch", "new") in told
    assert "change flags" in {what for what, *_ in told}
    assert all(is_child and uid == 0 for *_, is_child, uid in result["told"])

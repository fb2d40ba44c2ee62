"""The programs that are compared: how each backs up an image and restores it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Failed

PASSPHRASE = "measure twice, cut once"
RUCHU = "ruchu"


class Tool:
    """One program, with a directory of its own for repository, cache and state.

    The image is always backed up by the same path, as on a real host.

    Attributes:
        increments: it can add a later version to a repository.
    """

    name = ""
    increments = True

    def __init__(self, work: Path, source: Path) -> None:
        self.source = source
        self.home = work / self.name.replace(" ", "")
        self.repository = self.home / "repository"
        self.secret = self.home / "passphrase"

    def prepare(self) -> None:
        """Make a new, empty repository."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.secret.write_text(PASSPHRASE)
        self.secret.chmod(0o600)

    def env(self) -> dict[str, str]:
        return {}

    def version(self) -> str:
        raise NotImplementedError

    def full(self) -> list[str]:
        raise NotImplementedError

    def increment(self) -> list[str]:
        raise NotImplementedError

    def note(self, output: str) -> None:
        """Learn from what a backup printed."""

    def restore(self, target: Path) -> tuple[list[str], Path]:
        """Return how the latest version comes into a directory, and where it will be."""
        raise NotImplementedError

    def size(self) -> int:
        """Return the bytes of the repository."""
        return sum(
            os.lstat(os.path.join(parent, name)).st_size
            for parent, _, names in os.walk(self.repository)
            for name in names
        )

    def call(self, args: list[str]) -> str:
        done = subprocess.run(
            args, env=os.environ | self.env(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{' '.join(args)}: {done.returncode}\n{done.stderr}{done.stdout}")
        return done.stdout


class Ruchu(Tool):
    """Ours, through its command line."""

    name = RUCHU
    command = os.environ.get("RUCHU_BENCH_RUCHU") or str(Path(sys.executable).with_name("ruchu"))

    def __init__(self, work: Path, source: Path) -> None:
        super().__init__(work, source)
        self.point = ""

    def _ruchu(self, *args: str) -> list[str]:
        return [self.command, "--state", str(self.home / "state"), *args]

    def version(self) -> str:
        return self.call([self.command, "--version"]).strip()

    def prepare(self) -> None:
        super().prepare()
        self.repository.mkdir()
        add = ("storage", "add", "bench", str(self.repository))
        self.call(self._ruchu(*add, "--passphrase-file", str(self.secret)))

    def full(self) -> list[str]:
        return self._backup("--kind", "full")

    def increment(self) -> list[str]:
        return self._backup("--kind", "incremental")

    def increment_listed(self, changes: Path) -> list[str]:
        return self._backup("--kind", "incremental", "--changes", str(changes))

    def _backup(self, *options: str) -> list[str]:
        where = ("--storage", "bench", "--name", "disk")
        return self._ruchu("backup", "image", str(self.source), *where, *options, "--json")

    def know(self, uri: str) -> None:
        """Add the platform whose machines are backed up."""
        self.call(self._ruchu("platform", "add", "bench", uri))

    def backup_machine(self, machine: str) -> list[str]:
        where = ("--storage", "bench", "--platform", "bench")
        return self._ruchu("backup", "vm", machine, *where, "--kind", "full", "--json")

    def note(self, output: str) -> None:
        """Remember the point.

        Raises:
            Failed: the backup did not do what was asked for, such as to trust the change list.
        """
        answer = json.loads(output)
        done = answer[0] if isinstance(answer, list) else answer
        if done["reasons"]:
            raise Failed(f"not the backup that was asked for: {output}")
        self.point = done["point"]

    def restore(self, target: Path) -> tuple[list[str], Path]:
        image = target / "disk.img"
        return self._ruchu("restore", "image", self.point, str(image), "--disk", "0"), image


class Restic(Tool):
    """Content-defined chunks of 1 MiB, zstd, AES-256-CTR with Poly1305; written in Go."""

    name = "restic"
    command = os.environ.get("RUCHU_BENCH_RESTIC", "restic")

    def env(self) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD_FILE": str(self.secret),
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }

    def version(self) -> str:
        return self.call([self.command, "version"]).strip()

    def prepare(self) -> None:
        super().prepare()
        self.call([self.command, "init", "--repository-version", "2"])

    def full(self) -> list[str]:
        return [self.command, "backup", "--quiet", str(self.source)]

    increment = full

    def restore(self, target: Path) -> tuple[list[str], Path]:
        args = [self.command, "restore", "latest", "--quiet", "--target", str(target)]
        if "--sparse" in self.call([self.command, "restore", "--help"]):  # since 0.15
            args.append("--sparse")
        return args, target / self.source.relative_to("/")


class Borg(Tool):
    """Content-defined chunks of 2 MiB, zstd -1, AES-256-CTR with BLAKE2b; Python with C."""

    name = "borg"

    def __init__(self, work: Path, source: Path) -> None:
        super().__init__(work, source)
        locked = Path(sys.executable).with_name("borg")
        self.command = os.environ.get("RUCHU_BENCH_BORG") or str(locked)
        if not Path(self.command).exists():
            self.command = "borg"
        self.archive = ""

    def env(self) -> dict[str, str]:
        return {
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(self.home / "base"),
        }

    def version(self) -> str:
        return self.call([self.command, "--version"]).strip()

    def prepare(self) -> None:
        super().prepare()
        self.call([self.command, "init", "--encryption", "repokey-blake2"])

    def full(self) -> list[str]:
        return self._create("full")

    def increment(self) -> list[str]:
        return self._create("increment")

    def _create(self, archive: str) -> list[str]:
        self.archive = archive
        where = (f"::{archive}", str(self.source))
        return [self.command, "create", "--compression", "zstd,1", *where]

    def restore(self, target: Path) -> tuple[list[str], Path]:
        args = [self.command, "extract", "--sparse", f"::{self.archive}"]
        return args, target / self.source.relative_to("/")


class Zstd(Tool):
    """No repository at all: what compression alone costs."""

    name = "zstd -T2 -1"
    increments = False

    def version(self) -> str:
        found = re.search(r"v[\d.]+", self.call(["zstd", "--version"]))
        return f"zstd {found[0]}" if found else "zstd"

    def prepare(self) -> None:
        super().prepare()
        self.repository.mkdir()

    def _archive(self) -> str:
        return str(self.repository / "disk.zst")

    def full(self) -> list[str]:
        return ["zstd", "-T2", "-1", "-q", "-f", "-o", self._archive(), str(self.source)]

    def restore(self, target: Path) -> tuple[list[str], Path]:
        image = target / "disk.img"
        return ["zstd", "-d", "-q", "-f", "--sparse", "-o", str(image), self._archive()], image


TOOLS: tuple[type[Tool], ...] = (Ruchu, Restic, Borg, Zstd)

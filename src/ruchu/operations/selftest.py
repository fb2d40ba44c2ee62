"""A rehearsal in a directory: back up, damage, restore and merge random images, then clean up.

Every step is held against the truth: the bytes of the images as they were.
"""

import contextlib
import datetime
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM
from ruchu.errors import Cancelled, ChainBusy, Damaged, RuchuError, StorageError, WrongKey
from ruchu.model.sources import Kind
from ruchu.operations import host_checks
from ruchu.protection import image, retention
from ruchu.protection.running import Run
from ruchu.recovery import full
from ruchu.repository import merging, repositories, verifying
from ruchu.repository.chains import Chain, ProtectedObject
from ruchu.repository.heads import Head
from ruchu.repository.keyring import Secret
from ruchu.repository.repositories import Repository
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.verifying_findings import Depth
from ruchu.storage.contract import Storage
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.faulty import Effect, Fault, Faulty
from ruchu.storage.intercepting import Verb
from ruchu.units import MIB, format_size

_IMAGE_BYTES = 24 * MIB + 12345  # not a multiple of the block
_CHANGE_BYTES = 100_000
_OBJECT = "selftest"
_SECRET = Secret("passphrase", b"selftest")
# Calls of each kind that go wrong, one after the other.
_FAULTS = (
    Fault(Verb.WRITE, 3, Effect.FAIL),
    Fault(Verb.WRITE, 2, Effect.FAIL_AFTER),
    Fault(Verb.COMMIT, 1, Effect.FAIL),
    Fault(Verb.COMMIT, 1, Effect.FAIL_AFTER),
    Fault(Verb.PUT, 2, Effect.FAIL),
)


class SelftestFailed(RuchuError):
    """What came back is not what was saved."""

    code = "selftest-failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: whether it went right, how long it took, and what is to be said of it."""

    name: str
    ok: bool
    seconds: float
    detail: str = ""

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        return asdict(self)


@dataclass(slots=True)
class _Stage:
    """The directory, the image, and what each point holds in truth."""

    root: Path
    choose: random.Random
    cancelled: Callable[[], bool]
    truth: dict[str, bytes] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        return self.root / "image"

    @property
    def storage(self) -> DirectoryStorage:
        return DirectoryStorage(self.root / "storage")

    def repository(self, storage: Storage | None = None) -> Repository:
        return repositories.open_repository(
            storage or self.storage, _SECRET, Surroundings(cache=self.root / "cache")
        )

    def chain(self) -> Chain:
        found = self.repository().find_chain(ProtectedObject(image.OBJECT_KIND, _OBJECT))
        _require(found is not None, "the chain is gone")
        assert found is not None
        return found

    def change(self) -> Path:
        """Change the image somewhere; return the list of changes."""
        content = bytearray(self.image.read_bytes())
        start = self.choose.randrange(len(content) - _CHANGE_BYTES)
        content[start : start + _CHANGE_BYTES] = self.choose.randbytes(_CHANGE_BYTES)
        self.image.write_bytes(content)
        listed = self.root / "changes"
        listed.write_text(f"{start} {_CHANGE_BYTES}\n", encoding="ascii")
        return listed

    def back_up(
        self, kind: Kind, changes: Path | None = None, storage: Storage | None = None
    ) -> Head:
        run = Run(choose=self.choose, cancelled=self.cancelled)
        repository = self.repository(storage)
        head = image.back_up_image(repository, _OBJECT, self.image, kind, changes, run).head
        self.truth[head.point] = self.image.read_bytes()
        return head


def run(path: Path, cancelled: Callable[[], bool]) -> list[Step]:
    """Carry out all steps below a directory; what was made there is removed at the end.

    Raises:
        StorageError: nothing can be written there.
    """
    try:
        root = Path(tempfile.mkdtemp(prefix="ruchu-selftest-", dir=path))
    except OSError as error:
        raise StorageError(f"({path}: {error.strerror})") from None
    try:
        stage = _Stage(root, random.Random(os.urandom(16)), cancelled)  # noqa: S311 - test data
        return [_step(name, act, stage) for name, act in _STEPS.items()]
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _step(name: str, act: Callable[[_Stage], str], stage: _Stage) -> Step:
    began = SYSTEM.monotonic()
    if stage.cancelled():
        raise Cancelled
    try:
        detail, ok = act(stage), True
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 - a step that fails is a result
        detail, ok = f"{type(error).__name__}: {error}", False
    return Step(name, ok, SYSTEM.monotonic() - began, detail)


def _require(condition: bool, text: str) -> None:  # noqa: FBT001 - like an assertion
    if not condition:
        raise SelftestFailed(text)


def _durability(stage: _Stage) -> str:
    """Write, sync, rename and sync the directory, as each commit does."""
    temporary = stage.root / "durable.partial"
    with temporary.open("wb") as file:
        file.write(bytes(4096))
        file.flush()
        began = SYSTEM.monotonic()
        os.fsync(file.fileno())
        took = SYSTEM.monotonic() - began
    temporary.replace(stage.root / "durable")
    directory = os.open(stage.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return f"a sync takes {took * 1000:.1f} ms"


def _create(stage: _Stage) -> str:
    (stage.root / "storage").mkdir(mode=0o700)
    repositories.create(stage.storage, _OBJECT, _SECRET, Surroundings())
    content = bytearray(stage.choose.randbytes(_IMAGE_BYTES))
    content[5 * MIB : 9 * MIB] = bytes(4 * MIB)
    stage.image.write_bytes(content)
    return "encrypted"


def _free_space(stage: _Stage) -> str:
    free = stage.storage.free_space()
    _require(free > 4 * _IMAGE_BYTES, f"only {format_size(free)} are free")
    return format_size(free)


def _immutable(stage: _Stage) -> str:
    found = host_checks.immutable(stage.root)
    return found.detail if found.state == host_checks.OK else f"not here: {found.detail}"


def _wrong_secret(stage: _Stage) -> str:
    with _expected(WrongKey):
        wrong = Secret("passphrase", b"wrong")
        repositories.open_repository(stage.storage, wrong, Surroundings())
    return "refused"


def _backups(stage: _Stage) -> str:
    stage.back_up(Kind.FULL)
    stage.change()
    stage.back_up(Kind.INCREMENTAL)
    stage.back_up(Kind.INCREMENTAL, stage.change())
    stage.change()
    stage.back_up(Kind.DIFFERENTIAL)
    with stage.image.open("r+b") as file:
        file.truncate(_IMAGE_BYTES + MIB)
    stage.back_up(Kind.INCREMENTAL)
    return f"{len(stage.truth)} points"


def _restores(stage: _Stage) -> str:
    chain = stage.chain()
    for head in chain.points():
        target = stage.root / "restored"
        full.restore_image(chain, head, image.DISK, target, overwrite=True)
        same = target.read_bytes() == stage.truth[head.point]
        _require(same, f"point {head.sequence} came back wrong")
    return f"{len(chain.points())} points, byte for byte"


def _two_writers(stage: _Stage) -> str:
    with stage.chain().exclusive("selftest"), _expected(ChainBusy):
        stage.back_up(Kind.INCREMENTAL)
    return "the second was refused"


def _faults(stage: _Stage) -> str:
    """Each fault ends its run without a point, and the next run is right."""
    failed = 0
    for fault in _FAULTS:
        stage.change()
        faulty = Faulty(stage.storage, clock=SYSTEM, choose=stage.choose, faults=[fault])
        before = len(stage.chain().stems())
        try:
            stage.back_up(Kind.INCREMENTAL, storage=faulty)
        except RuchuError:
            failed += 1
            _require(len(stage.chain().stems()) == before, f"{fault}: a point of a failed run")
        stage.back_up(Kind.INCREMENTAL)
    _require(failed > 0, "no fault was noticed")
    return f"{failed} of {len(_FAULTS)} runs were broken, none left a trace"


def _verified(stage: _Stage) -> str:
    report = verifying.verify_storage(stage.repository(), Depth.FULL)
    _require(report.clean, f"{len(report.damages)} damages: {report.damages[:1]}")
    return f"{report.counts.chunks} chunks"


def _bit_rot(stage: _Stage) -> str:
    """A wrong bit in what a disk gives back must never reach a restored image."""
    chain = stage.chain()
    head = chain.points()[-1]
    # The first reads are those of the map; later ones bring data.
    faults = [Fault(Verb.READ, call, Effect.FLIP) for call in range(2, 200)]
    rotten = Faulty(stage.storage, clock=SYSTEM, choose=stage.choose, faults=faults)
    rotten_chain = stage.repository(rotten).open_chain(chain.id)
    with _expected(Damaged):
        full.restore_image(rotten_chain, head, image.DISK, stage.root / "rotten")
    _require(not (stage.root / "rotten").exists(), "a damaged image was left behind")
    return "noticed, nothing was left behind"


def _merges(stage: _Stage) -> str:
    """Remove points in the middle and by a policy; the others must stay whole."""
    chain = stage.chain()
    no_grace = datetime.timedelta(0)
    with chain.exclusive("selftest") as lock:
        merging.delete_points(chain, lock, [chain.stems()[1]], grace=no_grace)
        merging.sweep(chain, lock, grace=no_grace)
        merging.purge(chain, lock)
        applied = retention.apply(chain, lock, retention.Policy(count=3), no_grace)
    _require(len(chain.stems()) == 3, f"{len(chain.stems())} points stayed instead of 3")
    return f"{len(applied.decision.remove) + 1} points removed"


@contextlib.contextmanager
def _expected(kind: type[RuchuError]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise SelftestFailed(f"{kind.__name__} was expected")


_STEPS: dict[str, Callable[[_Stage], str]] = {
    "durability": _durability,
    "create a storage": _create,
    "free space": _free_space,
    "immutable flag": _immutable,
    "wrong secret": _wrong_secret,
    "backups of all kinds": _backups,
    "restores": _restores,
    "two writers": _two_writers,
    "injected faults": _faults,
    "restores after faults": _restores,
    "verification": _verified,
    "bit rot": _bit_rot,
    "merge": _merges,
    "restores after merge": _restores,
    "verification after merge": _verified,
}

"""A server's database with a large site in it: machines, policies, runs, points, use of storages."""

import datetime
import random

from ruchu.clock import SYSTEM, to_text
from ruchu.control.accounts.users import Profile
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.inventory.tables import MACHINES, PLATFORMS
from ruchu.control.jobs.tables import RUNS
from ruchu.control.migrations import upgrading
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.control.storages.tables import POINTS, STORAGE_USE
from ruchu.model.principals import LOCAL, Role
from ruchu.model.tasks import Severity

GIB = 1 << 30
NAME, PASSWORD = "admin", "seven lanterns over the quiet harbour"
ZONES = ("web", "db", "mail", "files", "erp", "build", "cache", "queue")
HISTORY_DAYS = 90


def furnish(directory, machines, runs, *, policies=300, points=3, seed=1):
    """Make the state of a server that has not started yet."""
    directory.mkdir(parents=True, exist_ok=True)
    rng, state = random.Random(seed), ServerState(directory)
    with Database(sqlite_url(state.database)) as database:
        upgrading.bring_up(database)
        services = Services(state, SYSTEM, database)
        _account(services)
        names = _machines(services, machines, rng)
        kept = _policies(services, names, policies)
        _storages(services, rng)
        _points(database, names[: len(names) * 95 // 100], points, rng)
        _runs(database, kept, runs, rng)
        for number in range(12):
            code = ("backup-failed", "rpo-missed", "storage-threshold")[number % 3]
            severity = (Severity.ERROR, Severity.WARNING, Severity.CRITICAL)[number % 3]
            services.alarms.raise_alarm(code, severity, names[number], "An example.", {})


def _account(services):
    accounts = services.accounts
    everything = {"*": frozenset({Role.ADMINISTRATOR})}
    _, link = accounts.users.create(LOCAL, NAME, Profile("Admin"), everything)
    accounts.entering.choose_password(link, PASSWORD)


def _machines(services, count, rng):
    names = [f"{ZONES[each % len(ZONES)]}-{each:05}" for each in range(count)]
    services.inventory.add("kvm", "test:///default")
    now = to_text(SYSTEM.now())
    rows = [
        {"platform": "kvm", "id": f"{number:032x}", "name": name, "state": "running",
         "host": f"kvm-{number % 40}", "folder": "", "tags": [], "vcpus": 4, "memory": 8 * GIB,
         "disk_size": rng.randrange(20, 400) * GIB, "seen": now}
        for number, name in enumerate(names)
    ]  # fmt: skip
    with services.database.writing() as connection:
        for at in range(0, count, 1000):
            connection.execute(MACHINES.insert(), rows[at : at + 1000])
        connection.execute(PLATFORMS.update().values(seen=now))
    return names


def _policies(services, names, count):
    kept = []
    for number in range(count):
        mine = names[number : len(names) * 96 // 100 : count]
        document = {
            "name": f"policy-{number:03}", "storage": f"store-{number % 4}",
            "selection": {"platform": "kvm", "machines": mine},
            "schedules": [{"kind": "incremental", "daily": {"times": ["23:30"]}}],
            "retention": {"daily": 14}, "rpo_minutes": 24 * 60, "zone": "Asia/Shanghai",
        }  # fmt: skip
        kept.append(services.policies.add(documents.from_document(document)))
    return kept


def _storages(services, rng):
    today = SYSTEM.now().date()
    for number in range(4):
        identity, size = f"{number + 5:032x}", 400 * 1024 * GIB
        free = size * (70 - 18 * number) // 100
        made = {"id": identity, "name": f"store-{number}", "role": "backup", "encrypted": True,
                "free": free, "total": size}  # fmt: skip
        services.storages.add(made, f"/nonexistent/{number}", {})
        rows = []
        for back in range(60):
            used = size - free - back * (200 + 300 * number) * GIB - rng.randrange(99) * GIB
            day = today - datetime.timedelta(days=back)
            rows.append({"storage": identity, "day": day.isoformat(),
                         "free": size - max(used, 0), "stored": max(used, 0)})  # fmt: skip
        with services.database.writing() as connection:
            connection.execute(STORAGE_USE.insert(), rows)


def _points(database, names, each, rng):
    now, rows = SYSTEM.now(), []
    for number, name in enumerate(names):
        for sequence in range(each):
            age = datetime.timedelta(
                hours=24 * (each - 1 - sequence) + rng.random() * (60 if number % 200 == 0 else 23)
            )
            rows.append({
                "storage": f"store-{number % 4}", "id": f"{number * 100 + sequence:032x}",
                "chain": f"{number:032x}", "sequence": sequence, "name": name, "object": "vm",
                "platform": "kvm", "kind": "incremental" if sequence else "full",
                "time": to_text(now - age), "bytes_stored": rng.randrange(1, 40) * GIB // 4,
                "bytes_read": 20 * GIB, "starred": False, "disks": [{"name": "vda"}],
                "verdict": "",
            })  # fmt: skip
    with database.writing() as connection:
        for at in range(0, len(rows), 1000):
            connection.execute(POINTS.insert(), rows[at : at + 1000])


def _runs(database, kept, count, rng):
    now, rows = SYSTEM.now(), []
    documents_of = {row.id: documents.to_document(row.policy) for row in kept}
    for number in range(count):
        row = kept[number % len(kept)]
        began = now - datetime.timedelta(days=HISTORY_DAYS * number / count + rng.random() * 0.01)
        ended = min(began + datetime.timedelta(minutes=rng.randrange(1, 90)), now)
        read = rng.randrange(1, 60) * GIB
        full = read if rng.random() < 0.15 else 0
        state = rng.choices(("succeeded", "partly", "failed"), (94, 3, 3))[0]
        rows.append({
            "id": f"{number:032x}", "kind": "backup", "name": row.policy.name, "policy": row.id,
            "started_by": "schedule", "priority": 5, "resource_group": "default", "state": state,
            "reason": "" if state == "succeeded" else "web-00001: the storage is full",
            "body": {"policy": documents_of[row.id], "kind": "incremental", "nodes": []},
            "attempt": 1, "stop": False, "pause": False, "created": to_text(began),
            "started": to_text(began), "ended": to_text(ended),
            "summary": {"tasks": 66, "succeeded": 66, "failed": 0, "points": [],
                        "bytes_read": read, "bytes_full": full, "bytes_stored": read // 4},
        })  # fmt: skip
        if len(rows) == 1000:
            with database.writing() as connection:
                connection.execute(RUNS.insert(), rows)
            rows = []
    if rows:
        with database.writing() as connection:
            connection.execute(RUNS.insert(), rows)

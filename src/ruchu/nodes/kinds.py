"""Every kind of work that a node does. Some are tasks, some are questions that end in a moment."""

from collections.abc import Mapping

from ruchu.errors import UsageError
from ruchu.nodes import work_backup, work_files, work_host, work_restore, work_storages
from ruchu.nodes.work_contract import Worker
from ruchu.nodes.work_files import PointWorker

TASKS: Mapping[str, Worker] = {
    "backup": work_backup.back_up,
    "restore": work_restore.restore,
    "instant": work_restore.start_instant,
    "instant-stop": work_restore.stop_instant,
    "migration": work_restore.migrate,
    "verify": work_storages.verify,
    "merge": work_backup.retain,
    "repair": work_storages.repair,
    "evacuate": work_storages.evacuate,
    "delete-points": work_storages.delete_points,
    "files-return": work_files.return_files,
}

QUESTIONS: Mapping[str, Worker] = {
    "inventory": work_storages.inventory,
    "platform-check": work_storages.check_platform,
    "machine": work_storages.machine,
    "reap": work_storages.reap,
    "storage-make": work_storages.make,
    "storage-grow": work_storages.grow,
    "storage-probe": work_storages.probe,
    "storage-look": work_storages.look,
    "points": work_storages.list_points,
    "point-star": work_storages.mark_point,
    "instants": work_restore.list_instants,
    "instants-resume": work_restore.resume_instants,
    "console-picture": work_restore.console_picture,
    "point-machine": work_restore.saved_machine,
    "platform-offers": work_restore.offers,
    "doctor": work_host.doctor,
}

# Of a point that stays open in a process of its own; see `point_readers`.
POINT_QUESTIONS: Mapping[str, PointWorker] = {
    "files-volumes": work_files.volumes,
    "files-list": work_files.list_directory,
    "files-find": work_files.find,
    "files-fetch": work_files.fetch,
    "files-read": work_files.read,
    "files-close": work_files.close,
}


def worker(kind: str) -> Worker:
    """Return what does work of a kind.

    Raises:
        UsageError: this release does not know it.
    """
    found = TASKS.get(kind) or QUESTIONS.get(kind)
    if found is None:
        hint = "Update the node: the server is of a later release."
        raise UsageError(f"(work of kind {kind[:80]!r})", hint=hint)
    return found

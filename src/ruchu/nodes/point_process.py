"""The process that has one point open: `python -m ruchu.nodes.point_process FOLDER STATE`.

What is on a guest's disks is hostile, so it is read here and nowhere else in a node. The process
answers on a socket in FOLDER until it is asked to end, or its node dies.
"""

import json
import resource
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from ruchu import process
from ruchu.clock import SYSTEM
from ruchu.errors import RuchuError
from ruchu.model.tasks import Order

SOCKET, FAILED = "socket", "failed.json"
# A hostile file system may make us keep much; beyond this the process fails, and nobody else.
MEMORY_BYTES_MAX = 4 << 30
_ORDER_BYTES_MAX = 8 << 20
_EXPIRE_S = 10.0


def main() -> int:
    """Open the point and answer until it ends."""
    process.tune_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, hard))
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    process.end_with_parent()
    folder, state = Path(sys.argv[1]), Path(sys.argv[2])
    order = Order(**json.loads(sys.stdin.buffer.read(_ORDER_BYTES_MAX)))
    try:
        _serve(order, folder, state, end)
    finally:
        if not (folder / FAILED).exists():
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _serve(order: Order, folder: Path, state: Path, end: threading.Event) -> None:
    from ruchu.nodes import kinds, places  # noqa: PLC0415 - signals are taken over before
    from ruchu.nodes.point_handles import Handles  # noqa: PLC0415
    from ruchu.nodes.point_socket import PointServer  # noqa: PLC0415
    from ruchu.operations import opened_points  # noqa: PLC0415

    try:
        known = places.known(order, state)
        handles = Handles(SYSTEM)
        with opened_points.opened(known.storages, str(order.body["point"]), SYSTEM) as point:

            def answer(question: dict[str, Any]) -> dict[str, Any]:
                worker = kinds.POINT_QUESTIONS[str(question["what"])]
                try:
                    return {"value": worker(point, handles, question["body"])}
                except RuchuError as error:
                    return {"error": opened_points.explained(error)}
                except Exception as error:  # noqa: BLE001 - the edge of a request
                    traceback.print_exc()
                    return {"error": _bug(error)}

            with PointServer(folder / SOCKET, answer):
                while not end.wait(_EXPIRE_S):
                    handles.expire()
                handles.close_all()
    except RuchuError as error:
        (folder / FAILED).write_text(json.dumps(opened_points.explained(error)))


def _bug(error: Exception) -> dict[str, Any]:
    message = f"This is a bug, or a point that is hostile: {error!r}"[:500]
    message = message.encode("utf-8", "backslashreplace").decode().replace("\0", "")
    return {"code": "internal", "message": message, "hint": "", "retry": False}


if __name__ == "__main__":
    sys.exit(main())

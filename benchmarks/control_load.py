"""What `benchmarks.control` does while the server works: asks the API, follows events, looks."""

import threading
import time

import httpx

from benchmarks.measure import Load, cpu_of

# What open pages of the console ask for, again and again.
REQUESTS = {
    "runs": ("/runs", {"limit": 100}),
    "runs that run": ("/runs", {"state": "running", "limit": 100}),
    "points": ("/points", {"limit": 100}),
    "points of a machine": ("/points", {"name": "vm-00007", "limit": 50}),
    "machines, searched": ("/machines", {"text": "m-001", "limit": 100}),
    "alarms": ("/alarms", {}),
    "nodes": ("/nodes", {}),
    "policies": ("/policies", {}),
}
# Two or three pages that are open.
PAUSE_S = 0.2


class Client:
    """Asks the API in a thread, and follows the events in another. A context manager."""

    def __init__(self, base, headers):
        self.taken = {name: [] for name in REQUESTS}
        self.failed = []
        self.events = 0
        self._base, self._headers = base, headers
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._ask, self._follow)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        self._threads[0].join()

    def _http(self):
        return httpx.Client(base_url=self._base, headers=self._headers, timeout=60)

    def _ask(self):
        with self._http() as client:
            while True:
                for name, (path, params) in REQUESTS.items():
                    began = time.perf_counter()
                    answer = client.get(path, params=params)
                    self.taken[name].append(time.perf_counter() - began)
                    if answer.status_code != 200:
                        self.failed.append((path, answer.status_code))
                    if self._end.wait(PAUSE_S):
                        return

    def _follow(self):
        with self._http() as client:
            while not self._end.is_set():
                with client.stream("GET", "/events") as stream:
                    for text in stream.iter_lines():
                        self.events += text.startswith("data:")
                        if self._end.is_set():
                            return


class Cpu:
    """CPU seconds of processes and of the whole machine since the look began."""

    def __init__(self, pids):
        self._began = {pid: cpu_of(pid) for pid in pids}
        self._machine, self._at = Load.now(), time.monotonic()

    def cores(self, pid):
        """Return the share of a core that a process used."""
        return (cpu_of(pid) - self._began[pid]) / self.passed_s()

    def passed_s(self):
        return time.monotonic() - self._at

    def others(self):
        """Return the cores that everybody else used, and those that the hypervisor withheld."""
        now, own = Load.now(), sum(cpu_of(pid) - began for pid, began in self._began.items())
        busy_s = now.busy_s - self._machine.busy_s - own
        steal_s = now.steal_s - self._machine.steal_s
        return max(0.0, busy_s) / self.passed_s(), steal_s / self.passed_s()

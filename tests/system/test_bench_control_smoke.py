"""The measure of the control plane works: a small one, whose starts are all made, each once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
# Five simulated minutes, in fifteen seconds: of four policies, the quickest starts every three.
SMALL = {"nodes": 3, "machines": 24, "policies": 4, "minutes": 5, "speed": 20}


def test_every_start_that_is_due_happens_once(tmp_path):
    out = tmp_path / "control.json"
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "benchmarks.control", *words, f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every start that was due happened once" in done.stdout
    found = json.loads(out.read_text())
    assert found["wrong"] == found["api_failed"] == []
    # Minutes 3, 4, 5 and 6 at the latest, of six machines each.
    assert found["runs"] >= 3
    assert found["tasks"] == 6 * found["runs"]
    assert found["lateness_s"]["count"] == found["runs"]
    assert found["events_followed"] > 0
    assert set(found["owed"]) == {"lateness_p99_s", "server_cores", "rss_bytes", "api_p95_s"}

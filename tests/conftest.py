"""What every test shares: how hard Hypothesis searches, and the seed of everything random.

RUCHU_PROFILE  dev (default), ci (default where CI is set) or faults: how many examples, how drawn.
RUCHU_SEED     the seed; a failure that was found with it comes back with it. The same seed drives
               Hypothesis and the fixture `rng`.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from datetime import timedelta

import hypothesis
import pytest

SEED = int(os.environ.get("RUCHU_SEED", "1"))
_LIMIT = timedelta(seconds=10)  # one example; generous, since CI shares its two cores

hypothesis.settings.register_profile(
    "dev",
    max_examples=50,
    stateful_step_count=30,
    deadline=_LIMIT,
)
# Derandomised: the same commit gives the same verdict. The search for new failures is `faults`.
hypothesis.settings.register_profile(
    "ci",
    parent=hypothesis.settings.get_profile("dev"),
    derandomize=True,
    database=None,
    print_blob=True,
)
hypothesis.settings.register_profile(
    "faults",
    max_examples=1000,
    stateful_step_count=60,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the profile, and the seed where one is asked for."""
    default = "ci" if os.environ.get("CI") else "dev"
    hypothesis.settings.load_profile(os.environ.get("RUCHU_PROFILE") or default)
    # Hypothesis refuses a seed together with derandomize, which fixes the draw already.
    if "RUCHU_SEED" in os.environ and not hypothesis.settings().derandomize:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    """Tell the profile and the seed, so that a log is enough to repeat a run."""
    return f"ruchu: profile {hypothesis.settings.get_current_profile_name()}, seed {SEED}"


@pytest.fixture
def seed() -> int:
    """Return the seed of this run."""
    return SEED


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Return a generator of its own for each test, the same for the same seed and test."""
    return random.Random(f"{seed} {request.node.nodeid}")


@pytest.fixture(scope="session", autouse=True)
def removable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take the flags of the kernel off what servers left, so that later sessions can remove it."""
    yield
    base = tmp_path_factory.getbasetemp()
    command = ["chattr", "-R", "-f", "-a", "-i", str(base)]
    subprocess.run(command, check=False, capture_output=True)

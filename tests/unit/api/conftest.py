"""The application in this process, over a database that is furnished once and copied."""

import api_world
import pytest


@pytest.fixture(scope="session")
def world_template(tmp_path_factory):
    """Return the directory of a furnished server."""
    directory = tmp_path_factory.mktemp("api") / "server"
    api_world.template(directory)
    return directory


@pytest.fixture
def world(world_template, tmp_path):
    """Yield a server with a bit of everything."""
    made = api_world.copied(world_template, tmp_path / "server")
    yield made
    made.close()
    assert made.told == []


@pytest.fixture
def admin(world):
    """Return a client of the administrator, signed in."""
    return world.client()

"""The application in this process, over a database that is furnished once and copied."""

import api_world
import pytest

from ruchu.control.accounts import accounts
from ruchu.control.accounts.passwords import Hasher


@pytest.fixture(scope="session")
def cheap_passwords():
    """Let nobody's password cost a tenth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "Hasher", lambda: Hasher(api_world.CHEAP))
        yield


@pytest.fixture(scope="session")
def world_template(tmp_path_factory, cheap_passwords):
    """Return the directory of a furnished server."""
    directory = tmp_path_factory.mktemp("api") / "server"
    api_world.template(directory)
    return directory


@pytest.fixture
def world(world_template, cheap_passwords, tmp_path):
    """Yield a server with a bit of everything."""
    made = api_world.copied(world_template, tmp_path / "server")
    yield made
    made.close()
    assert made.told == []


@pytest.fixture
def admin(world):
    """Return a client of the administrator, signed in."""
    return world.client()

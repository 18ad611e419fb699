"""What tests of usage share: databases of both kinds, and what tests of the gateway share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fairlane.usage.config import Keeping
from fairlane.usage.store import Store
from tests.gateway.conftest import any_desk
from tests.usage.postgres import PASSWORD, PASSWORD_ENV, Server, serving

__all__ = ["any_desk"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server."""
    with serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def keeping(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Keeping:
    """[usage] with a database that is empty."""
    table = {"database": "usage.sqlite"}
    if request.param == "postgres":
        monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
        server: Server = request.getfixturevalue("postgres")
        table = {"database": server.database(), "password_env": PASSWORD_ENV}
    return Keeping.parse(table, tmp_path)


@pytest.fixture
def opened(keeping: Keeping) -> Iterator[Callable[[], Store]]:
    """Opens that database, as often as it is called."""
    with ExitStack() as stack:

        def another() -> Store:
            store = keeping.store()
            stack.callback(store.close)
            return store

        yield another

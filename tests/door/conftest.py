"""A town with a tenant of each kind, and the hosts of the door that it can be the guard of."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.door.hosts import HOSTS, Host
from tests.door.town import Town

Start = Callable[..., AbstractContextManager[Host]]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    """Two clients, a gateway and an operator."""
    return Town.with_all(tmp_path)


@pytest.fixture(params=HOSTS)
def start(request: pytest.FixtureRequest) -> Start:
    """Starts a host for a town, with tables of a configuration; each test runs on every host."""

    def starting(town: Town | None, **tables: Any) -> AbstractContextManager[Host]:
        return HOSTS[request.param](town, tables)

    return starting

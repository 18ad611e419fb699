"""What tests of the dashboard share: each host of the door."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.door.hosts import HOSTS, Host
from tests.door.town import Town

Start = Callable[..., Host]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town.with_all(tmp_path)


@pytest.fixture(params=HOSTS)
def start(request: pytest.FixtureRequest, town: Town) -> Iterator[Start]:
    """Starts the host with these tables of its configuration."""
    with ExitStack() as life:

        def starts(**tables: Any) -> Host:
            host: Host = life.enter_context(HOSTS[request.param](town, tables))
            return host

        yield starts

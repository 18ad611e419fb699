"""What tests of the dashboard share: each host of the door, whose frames come often."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.door.hosts import HOSTS, Host
from tests.door.town import Town

Start = Callable[..., Host]
PERIOD_S = 0.02


def often(host: Host) -> Host:
    """The host, whose frames come often."""
    host.live._period_s = PERIOD_S
    return host


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town.with_all(tmp_path)


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=HOSTS)
def start(request: pytest.FixtureRequest, town: Town, life: ExitStack) -> Start:
    """Starts the host with these tables of its configuration."""

    def starts(**tables: Any) -> Host:
        return often(life.enter_context(HOSTS[request.param](town, tables)))

    return starts

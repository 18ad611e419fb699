"""What tests of the gateway share."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fairlane.gateway.run import DrainingServer
from tests.cluster.servers import Server
from tests.cluster.servers import running as a_hub
from tests.gateway.site import SERVER, ThroughSockets


@pytest.fixture(params=[DrainingServer, ThroughSockets], ids=["here", "elsewhere"])
def any_desk(request: pytest.FixtureRequest) -> Iterator[None]:
    """A desk in the process that serves, and one over sockets."""
    token = SERVER.set(request.param)
    yield
    SERVER.reset(token)


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hub(life: ExitStack, tmp_path: Path) -> Server:
    """A server for gateways to share by."""
    (tmp_path / "hub").mkdir()
    return life.enter_context(a_hub("valkey", tmp_path / "hub"))

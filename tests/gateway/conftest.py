"""What tests of the gateway share."""

from collections.abc import Iterator

import pytest

from fairlane.gateway.run import DrainingServer
from tests.gateway.site import SERVER, ThroughSockets


@pytest.fixture(params=[DrainingServer, ThroughSockets], ids=["here", "elsewhere"])
def any_desk(request: pytest.FixtureRequest) -> Iterator[None]:
    """A desk in the process that serves, and one over sockets."""
    token = SERVER.set(request.param)
    yield
    SERVER.reset(token)

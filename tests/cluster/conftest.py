"""What tests of the hub share: servers to talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.servers import Server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own, which the test may kill."""
    with running("valkey", tmp_path) as started:
        yield started


@pytest.fixture(scope="session", params=["valkey", "redis"])
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One that all tests share: each takes a namespace of its own."""
    with running(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started

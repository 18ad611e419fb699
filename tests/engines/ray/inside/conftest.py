"""One small cluster for all tests, since one takes half a minute to start."""

from collections.abc import Iterator

import pytest
from cluster import running
from serving import free_port


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Where its HTTP proxy listens."""
    found = free_port()
    with running(found):
        yield found

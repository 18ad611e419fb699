"""Limits that hold over several servers of vLLM's, and their API servers, by way of a hub."""

import time
from pathlib import Path

import pytest

from fairlane.cluster.config import Cluster
from fairlane.core.errors import FairlaneError
from fairlane.engines.vllm.config import FairlaneConfig
from tests.cluster import servers as hubs
from tests.engines.identity.site import Server, Town, running
from tests.engines.identity.test_sharing import Ranks
from tests.gateway.several import in_pool
from tests.talking import until


def knows_both(server: Server) -> bool:
    shared = server.identity.asking.shared
    return shared is not None and shared.connected and shared.servers == 2


def test_ten_a_minute_are_ten_over_all_servers(tmp_path: Path) -> None:
    town = Town(tmp_path)
    key = town.add("a", requests_per_minute=10)
    with hubs.running("valkey", tmp_path) as hub:
        cluster = Cluster.parse(in_pool(hub, shared_limits=True), tmp_path)
        with (
            running(town.access(), Ranks(1), cluster) as here,
            running(town.access(), Ranks(1), cluster) as there,
        ):
            until(lambda: knows_both(here) and knows_both(there))
            began = time.monotonic()
            found = [server.send(key)[0] for server in [here, there] * 12]
            again = (time.monotonic() - began) / 6  # ten come back in a minute
            assert 10 <= found.count(200) <= 10 + again
            assert found.count(200) + found.count(429) == 24


def test_adapters_that_name_clients_have_limits_by_server() -> None:
    tables = {
        "cluster": {"hub": "redis://h", "pool": "p", "shared_limits": True},
        "identity": {"lora": True},
    }
    with pytest.raises(FairlaneError, match="where adapters name clients"):
        FairlaneConfig.parse(tables, Path())

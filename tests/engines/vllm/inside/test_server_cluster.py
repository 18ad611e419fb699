"""Two real servers that share by a hub: who is served by both together, and what goes wrong.

Alice, of weight 4, floods both; bob, of weight 1, floods one of them. The tests take one pair of
servers through the life of a hub, in their order. `--log-cli-level=INFO` shows what was seen.
"""

import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import serving
from dividing import (
    FAIR,
    UNFAIR,
    UNFAIR_MEASURED,
    WAITING,
    WARM_UP,
    WEIGHTS,
    due,
    longer,
)
from serving import CONTENDED, PLUGIN, configured, free_port, wait_for, write_model

from fairlane.door.tenants import Role, Tenant, hash_key, new_key
from tests.cluster import servers as hubs
from tests.gateway.crowd import Crowd, all_until
from tests.processes import wait_until
from tests.tunnel import Tunnel

KEYS = {name: new_key() for name in (*WEIGHTS, "root")}
SETTLING = 10_000  # tokens, in which is made good what bob missed for a while, ...
LONG_SETTLING = 25_000  # ... and the most that he may be behind
CONFIGURATION = """
[cluster]
hub = "redis://127.0.0.1:{port}"
pool = "tiny"
password_env = "HUB_PASSWORD"
"""


class Replica:
    """A server that can be killed, and started again at the same address."""

    def __init__(self, model: Path, folder: Path, hub_port: int) -> None:
        folder.mkdir()
        tenants = [Tenant(n, w, keys=(hash_key(KEYS[n]),)) for n, w in WEIGHTS.items()]
        tenants.append(Tenant("root", role=Role.OPERATOR, keys=(hash_key(KEYS["root"]),)))
        self._environment = configured(folder, tenants, CONFIGURATION.format(port=hub_port))
        self._environment["HUB_PASSWORD"] = hubs.PASSWORD
        self._model, self._log, self._port = model, folder / "server.log", free_port()
        self.server: Any = None

    def start(self) -> None:
        """Not until it answers."""
        options = (*PLUGIN, "--num-gpu-blocks-override", "48")
        process, url = serving.start(self._model, options, self._log, self._environment, self._port)
        self.server = serving.Server(process, url, self._log)

    def kill(self) -> None:
        """At once, with its engine."""
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()

    def stop(self) -> None:
        """As it should be."""
        serving.stop(self.server.process)

    def request(self, *arguments: Any, **options: Any) -> Any:
        """As Server.request, as often as it takes to be answered."""
        while True:
            try:
                return self.server.request(*arguments, **options)
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)

    def told(self) -> dict[str, Any]:
        """What it says to an operator."""
        found: dict[str, Any] = serving.told(self, KEYS["root"])
        return found

    def cluster(self) -> dict[str, Any]:
        """What it says of sharing."""
        found: dict[str, Any] = self.told()["cluster"]
        return found

    def output(self) -> Counter[str]:
        """Tokens that it gave each client."""
        found: Counter[str] = serving.output(self.told())
        return found

    def charged(self) -> float:
        """Service of all its clients."""
        return float(sum(client.get("service", 0) for client in self.told()["clients"].values()))


class Pool:
    """Two replicas, a hub, and a way from the second replica to it that can be cut."""

    def __init__(self, model: Path, folder: Path, hub: hubs.Server, tunnel: Tunnel) -> None:
        self.hub = hub
        self.tunnel = tunnel
        self.first = Replica(model, folder / "first", hub.port)
        self.second = Replica(model, folder / "second", tunnel.port)

    def connected(self) -> tuple[bool, bool]:
        """Whether each has a hub."""
        return self.first.cluster()["connected"], self.second.cluster()["connected"]

    def await_hub(self, first: bool = True, second: bool = True) -> None:
        """Until each has one, or has none."""
        wait_until(self.connected, lambda seen: seen == (first, second), "hubs come and go")

    def await_silence(self) -> tuple[float, float, float, float]:
        """When nobody is left and all is told: what each heard, and what each charged."""

        def seen() -> tuple[Any, ...]:
            both = self.first, self.second
            clients = [c for replica in both for c in replica.told()["clients"].values()]
            busy = any(client.get("queued") or client.get("running") for client in clients)
            clusters = [replica.cluster() for replica in both]
            exchanges = tuple(cluster["exchanges"] for cluster in clusters)
            return busy, exchanges, *(cluster["heard"] for cluster in clusters)

        wait_until(seen, lambda now: not now[0], "requests end")
        _, (one, two), *_ = seen()
        wait_until(
            seen, lambda now: now[1][0] > one + 2 and now[1][1] > two + 2, "what is left is told"
        )
        *_, first, second = seen()
        return first, second, self.first.charged(), self.second.charged()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """It begins without a hub."""
    folder = tmp_path_factory.mktemp("pool")
    model = write_model(folder / "model", **CONTENDED)
    hub = hubs.Server(hubs.programs()["valkey"], folder)
    with ExitStack() as life:
        made = Pool(model, folder, hub, life.enter_context(Tunnel(hub.port)))
        life.callback(hub.kill)
        for replica in (made.first, made.second):
            replica.start()
            life.callback(replica.stop)
        for replica in (made.first, made.second):
            wait_for(replica.server)
        yield made


class Flood:
    """Alice at both replicas, bob at the first: always more requests than there are slots."""

    def __init__(self, pool: Pool) -> None:
        everyone = {name: (KEYS[name], WAITING) for name in WEIGHTS}
        self._pool = pool
        self._crowds = (
            Crowd(pool.first, everyone, body=longer),
            Crowd(pool.second, {"alice": everyone["alice"]}, body=longer),
        )
        self._life = ExitStack()

    def __enter__(self) -> "Flood":
        for crowd in self._crowds:
            self._life.enter_context(crowd)
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def until(self, tokens: int) -> Counter[str]:
        """Wait for so many tokens more; whose they were. Raises what a client met."""
        return all_until(self._crowds, tokens)

    def due(self, *tokens: int) -> float:
        """The part of his due that bob gets. tokens: see dividing.due."""
        replicas = self._pool.first, self._pool.second
        return float(
            due(self._crowds, lambda: replicas[0].output() + replicas[1].output(), *tokens)
        )


def test_without_a_hub_each_replica_is_fair_by_itself(pool: Pool) -> None:
    """What is asserted of replicas that share does not hold here: it is 9 to 1, not 4 to 1."""
    assert pool.connected() == (False, False)
    with Flood(pool) as flood:
        flood.until(WARM_UP)
        assert flood.due(UNFAIR_MEASURED) < UNFAIR


def test_weights_divide_what_all_replicas_give(pool: Pool) -> None:
    pool.hub.start()
    pool.await_hub()
    before = pool.await_silence()
    with Flood(pool) as flood:
        flood.until(LONG_SETTLING)
        assert flood.due() == FAIR
        told = [replica.cluster() for replica in (pool.first, pool.second)]
    after = pool.await_silence()
    heard, charged = [[b - a for a, b in zip(x, y, strict=True)] for x, y in
                      ((before[:2], after[:2]), (before[2:], after[2:]))]  # fmt: skip
    assert heard == pytest.approx(charged[::-1])  # each what the other charged, once
    for cluster in told:
        assert (cluster["members"], cluster["schedulers"], cluster["failures"] > 0) == (2, 2, True)
        assert cluster["age_s"] < 5
    log = pool.first.server.log.read_text()
    assert log.count(f"shares with pool tiny at redis://127.0.0.1:{pool.hub.port} every") == 1
    assert hubs.PASSWORD not in log


def test_every_server_tells_of_all(pool: Pool) -> None:
    def parts() -> list[dict[str, Any]]:
        return [replica.cluster()["servers"] for replica in (pool.first, pool.second)]

    def all_told(found: list[dict[str, Any]]) -> bool:
        charged = sorted((pool.first.charged(), pool.second.charged()))
        return all(
            sorted(sum(c["service"] for c in part.values()) for part in servers.values())
            == pytest.approx(charged)
            for servers in found
        )

    wait_until(parts, all_told, "each tells of itself")
    cluster = pool.second.cluster()
    assert cluster["clients"]["alice"]["weight"] == 4.0
    assert cluster["clients"]["bob"]["service"] > 0  # who never came here
    _, _, metrics = pool.first.request("GET", "/metrics", key=KEYS["root"])
    assert "fairlane_cluster_connected 1.0" in metrics
    assert "fairlane_cluster_members 2.0" in metrics
    _, _, own = pool.first.request("GET", "/fairlane/tenants", key=KEYS["bob"])
    assert "cluster" not in json.loads(own)


def test_a_hub_that_is_killed_and_comes_back_empty(pool: Pool) -> None:
    with Flood(pool) as flood:
        flood.until(WARM_UP)
        pool.hub.kill()
        pool.await_hub(False, False)
        flood.until(WARM_UP)  # all are served meanwhile
        pool.hub.start()
        pool.await_hub()
        flood.until(SETTLING)
        assert flood.due() == FAIR


def test_a_replica_that_is_cut_off_for_a_while(pool: Pool) -> None:
    before = pool.await_silence()
    with Flood(pool) as flood:
        flood.until(WARM_UP)
        pool.tunnel.cut()
        pool.await_hub(True, False)
        flood.until(WARM_UP)
        pool.tunnel.mend()
        pool.await_hub()
        flood.until(SETTLING)
        assert flood.due() == FAIR
    after = pool.await_silence()
    assert after[0] - before[0] == pytest.approx(after[3] - before[3])
    assert after[1] - before[1] == pytest.approx(after[2] - before[2])


def test_a_replica_that_is_killed_and_started_again(pool: Pool) -> None:
    with Flood(pool) as flood:
        flood.until(WARM_UP)
        pool.second.kill()
        flood.until(WARM_UP)
        pool.second.start()
        wait_for(pool.second.server)
        pool.await_hub()
        flood.until(SETTLING)
        assert flood.due() == FAIR
    heard = pool.await_silence()
    assert pool.second.cluster()["heard"] <= heard[2]  # not what was charged before it began

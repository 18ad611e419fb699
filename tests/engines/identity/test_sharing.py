"""The middleware between engines that share, and the hub of several servers, over real sockets."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fairlane.cluster.config import Cluster
from tests.cluster import servers as hubs
from tests.engines.identity.site import Engine, Server, Town, running
from tests.talking import bearer, until

EVERY_S = 0.02
RANK = "X-Data-Parallel-Rank"


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town.with_all(tmp_path)


class Ranks(Engine):
    """Engines of vLLM's shape, as the client of several has them, each with its charges."""

    def __init__(self, count: int = 2, client_index: int = 0) -> None:
        super().__init__()
        self.client_index = client_index
        if count > 1:
            self.core_engines = [bytes([number]) for number in range(count)]
        self.shares = 0  # how often the engines were asked to
        self.why_not = ""
        self.charges: list[Counter[str]] = [Counter() for _ in range(count)]
        self.heard: list[Counter[str]] = [Counter() for _ in range(count)]
        self.gone = self.errored = False
        self.schedulers = 0
        self.exchange: dict[str, Any] = {}

    async def call_utility_async(self, method: str, *args: Any) -> Any:
        if method in ("fairlane_swap", "fairlane_settle"):
            return await self._call_utility_async(method, *args, engine=b"\0")
        if method == "fairlane_share":
            self.shares += 1
            return self.why_not
        if method == "fairlane_part":
            return {name: {"service": float(n)} for name, n in self.heard[0].items()}
        return await super().call_utility_async(method, *args)

    async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
        if method == "fairlane_settle":
            return {}
        assert method == "fairlane_swap"
        if self.gone:
            raise RuntimeError("the engine is dead")
        heard, self.schedulers, self.exchange = args
        self.snapshot["cluster"] = {"pool": "p", **self.exchange}
        self.heard[engine[0]].update(heard)
        told, self.charges[engine[0]] = dict(self.charges[engine[0]]), Counter()
        return told


def test_engines_of_one_server_hear_each_other_by_themselves(town: Town) -> None:
    engine = Ranks(3)
    with running(town.access(), engine, Cluster(every_s=EVERY_S)):
        engine.charges[1].update({"alice": 5.0})
        engine.charges[2].update({"alice": 2.0, "bob": 1.0})
        wanted = [{"alice": 7.0, "bob": 1.0}, {"alice": 2.0, "bob": 1.0}, {"alice": 5.0}]
        until(lambda: engine.heard == wanted)
        assert engine.schedulers == 3
        assert engine.exchange == {}  # with no hub


def test_engines_that_are_to_share_nothing_are_not_asked_to(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Ranks(2)
    with (
        caplog.at_level(logging.INFO, "vllm.fairlane"),
        running(town.access(), engine, Cluster(ranks=False)),
    ):
        pass
    assert (engine.shares, engine.schedulers) == (0, 0)
    assert caplog.text.count("2 engines share nothing: [cluster] ranks = false") == 1


def test_of_several_api_servers_one_relays_and_all_let_share(town: Town) -> None:
    first, second = Ranks(client_index=0), Ranks(client_index=1)
    cluster = Cluster(every_s=EVERY_S)
    with running(town.access(), second, cluster), running(town.access(), first, cluster):
        first.charges[0].update({"alice": 1.0})
        second.charges[0].update({"alice": 1.0})
        until(lambda: first.heard[1] == {"alice": 1.0})
        assert (first.shares, second.shares) == (1, 1)
        assert (second.heard[1], second.schedulers) == ({}, 0)


def test_a_lone_engine_without_a_hub_shares_nothing(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    for cluster, said in ((None, 0), (Cluster(guard=0.5), 1), (Cluster(ranks=False), 2)):
        engine = Ranks(1)
        with running(town.access(), engine, cluster):
            pass
        assert (engine.shares, engine.schedulers) == (0, 0)
        assert caplog.text.count("[cluster] has no effect") == said


@pytest.mark.parametrize("count", [1, 2])
def test_servers_share_by_a_hub(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    here, there = Ranks(count), Ranks(1)
    with hubs.running("valkey", tmp_path) as hub, caplog.at_level(logging.INFO, "vllm.fairlane"):
        url = hub.url.replace("//", f"//:{hubs.PASSWORD.replace(' ', '%20')}@")
        cluster = Cluster(hub=url, pool="p", every_s=EVERY_S)
        with (
            running(town.access(), here, cluster) as one,
            running(town.access(), there, cluster),
        ):
            until(lambda: here.exchange.get("members") == there.exchange.get("members") == 2)
            assert (here.schedulers, there.schedulers) == (2 * count, 2)
            here.charges[0].update({"alice": 3.0})
            there.charges[0].update({"bob": 4.0})
            until(lambda: there.heard[0] == {"alice": 3.0})
            until(lambda: all(rank["bob"] == 4.0 for rank in here.heard))
            told = cluster_of(one, town)
            assert (told["connected"], told["failures"], told["members"]) == (True, 0, 2)
            hub.kill()
            until(lambda: cluster_of(one, town)["connected"] is False)
            assert "did not answer" in cluster_of(one, town)["problem"]
            metrics = one.request("GET", "/metrics", bearer(town.keys["root"]))[2]
            assert "fairlane_cluster_connected 0.0" in metrics
    assert caplog.text.count(f"shares with pool p at {hub.url} every 0.02 s") == 2
    assert "wohl" not in caplog.text


def cluster_of(server: Server, town: Town) -> dict[str, Any]:
    status, _, answer = server.request("GET", "/fairlane/tenants", bearer(town.keys["root"]))
    assert status == 200
    found: dict[str, Any] = json.loads(answer)["cluster"]
    return found


def test_each_server_tells_what_clients_get_of_all(town: Town, tmp_path: Path) -> None:
    here, there = Ranks(1), Ranks(1)
    here.heard[0].update({"alice": 3.0})
    there.heard[0].update({"alice": 4.0, "bob": 2.0})
    with hubs.running("valkey", tmp_path) as hub:
        cluster = Cluster(
            hub=hub.url.replace("//", f"//:{hubs.PASSWORD.replace(' ', '%20')}@"), pool="p"
        )
        with (
            running(town.access(), here, cluster) as one,
            running(town.access(), there, cluster),
        ):
            until(lambda: len(cluster_of(one, town)["servers"]) == 2)
            until(lambda: cluster_of(one, town)["clients"]["alice"]["service"] == 7.0)
            assert cluster_of(one, town)["clients"]["bob"] == {"service": 2.0, "weight": 1.0}
            mine = one.request("GET", "/fairlane/tenants", bearer(town.keys["alice"]))[2]
            assert "cluster" not in json.loads(mine)


@pytest.mark.parametrize(
    ("why_not", "cluster", "status"),
    [
        ("it cannot", Cluster(hub="redis://127.0.0.1:1", pool="p"), 3),
        ("it cannot", Cluster(guard=0.2), 3),
        ("it cannot", None, None),  # several engines, as they were before
    ],
)
def test_a_scheduler_that_cannot_share_keeps_a_server_from_starting(
    town: Town, why_not: str, cluster: Cluster | None, status: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    engine = Ranks(2)
    engine.why_not = why_not
    with running(town.access(), engine, cluster) as server:
        assert server.exit_status == status
    assert "it cannot" in caplog.text
    assert engine.schedulers == 0


def test_a_server_starts_without_its_hub(town: Town) -> None:
    cluster = Cluster(hub="redis://127.0.0.1:1", pool="p", every_s=EVERY_S)
    engine = Ranks(2)
    with running(town.access(), engine, cluster) as server:
        engine.charges[0].update({"alice": 3.0})
        until(lambda: engine.heard[1] == {"alice": 3.0})
        assert server.send(town.keys["alice"])[0] == 200
        assert cluster_of(server, town)["connected"] is False


@pytest.mark.parametrize(("errored", "level"), [(True, "INFO"), (False, "ERROR")])
def test_an_engine_that_is_gone_ends_the_exchange(
    town: Town, caplog: pytest.LogCaptureFixture, errored: bool, level: str
) -> None:
    """As when the server ends, which is nobody's mistake."""
    engine = Ranks(2)
    said = "charges are shared no more: the engine is dead"
    with (
        caplog.at_level(logging.INFO, "vllm.fairlane"),
        running(town.access(), engine, Cluster(every_s=EVERY_S)) as server,
    ):
        engine.errored, engine.gone = errored, True
        until(lambda: said in caplog.text)
        assert server.request("GET", "/health")[0] == 200
    assert [r.levelname for r in caplog.records if r.message == said] == [level]


def test_a_hub_whose_password_is_missing_keeps_a_server_from_starting(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(hub="redis://127.0.0.1:1", pool="p", password_env="FAIRLANE_NO_SUCH")
    with running(town.access(), Ranks(1), cluster) as server:
        assert server.exit_status == 3
    assert "the environment has no FAIRLANE_NO_SUCH" in caplog.text


def test_an_engine_that_cannot_be_asked_by_itself(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    class Unknown(Engine):
        core_engines = (b"\0", b"\1")

    with running(town.access(), Unknown()) as server:
        assert server.exit_status == 3
    assert "no engine_core._call_utility_async" in caplog.text


@pytest.mark.parametrize(
    "name", [RANK, RANK.lower(), "x_data_parallel_rank", "X-DATA_Parallel-rank"]
)
def test_clients_do_not_choose_their_engine_and_operators_do(town: Town, name: str) -> None:
    with running(town.access()) as server:
        for who, seen in (("alice", None), ("gate", None), ("root", b"1")):
            headers: dict[str, str | bytes] = {**bearer(town.keys[who]), name: "1", "x-other": "2"}
            if who == "gate":
                headers["x-fairlane-client"] = "bob"
            assert server.request("POST", "/v1/completions", headers, {})[0] == 200
            reached = server.engine.headers[-1]
            named = {n.replace(b"_", b"-"): value for n, value in reached.items()}
            assert named.get(RANK.lower().encode()) == seen
            assert reached[b"x-other"] == b"2"

"""Several gateways that share by a hub: one fairness, whatever dies, and models never mixed up."""

import http.client
import json
import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from fairlane.cluster.link import ExchangeState
from fairlane.core.errors import FairlaneError
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import Running
from tests.cluster.servers import Server
from tests.door.town import Town
from tests.gateway.several import crowds, in_pool, served, town
from tests.gateway.site import Direct, Site, command, gateway, until
from tests.simulated.engines import Running as Engine
from tests.simulated.engines import running

SLOTS = 8
TOKENS = 8_000


def engine(life: ExitStack, speed: float, slots: int = SLOTS) -> Engine:
    return life.enter_context(running(max_num_seqs=slots, speed=speed, model="tiny", noise=False))


def before(life: ExitStack, folder: Path, engine: Engine, **tables: Any) -> Site:
    """A gateway before an engine, that tells everybody everything."""
    tables = {"tenants": "tenants.toml", "metrics": {"public": True}, **tables}
    return life.enter_context(gateway(engine.url, folder=folder, **tables))


def cluster_of(site: Site, key: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.request("GET", "/fairlane/tenants", key=key)[2])
    return dict(found["cluster"])


def counter_of(site: Site, client: str, clients: Town) -> float:
    """Of a client that waits there."""
    told = json.loads(site.request("GET", "/fairlane/tenants", key=clients.keys[client])[2])
    return float(told["clients"][client]["counter"])


def has_caught_up(sites: list[Site], clients: Town) -> bool:
    """Whether a, at the first gateway, has had its part since b, at the second, was ahead."""
    return counter_of(sites[0], "a", clients) > counter_of(sites[1], "b", clients) - 100


def ratio(counts: "Counter[str]") -> float:
    return counts["a"] / counts["b"]


def connected(*sites: Site) -> bool:
    """Whether all know of each other."""
    states = [state_of(site) for site in sites]
    return all(state.connected and state.members == len(sites) for state in states)


def state_of(site: Site) -> ExchangeState:
    assert site.running.shared is not None
    return site.running.shared.exchange.state


# -- upstreams of their own ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("shares", [True, False])
def test_clients_get_of_all_gateways_together_what_they_are_due(
    life: ExitStack, tmp_path: Path, hub: Server, shares: bool
) -> None:
    """One client waits at both, the other at one alone.

    The control: by itself each gateway is fair, so that one gets a fifth of one, and no more.
    """
    clients, tables = town(tmp_path), {"cluster": in_pool(hub)} if shares else {}
    sites = [before(life, tmp_path, engine(life, 2), window=SLOTS, **tables) for _ in "01"]
    crowd = crowds(life, clients, {sites[0]: "a", sites[1]: "ab"})
    served(crowd, TOKENS)
    found = ratio(served(crowd, 3 * TOKENS))
    assert found == pytest.approx(4.0, rel=0.1) if shares else found > 6


@pytest.mark.slow
@pytest.mark.alone
def test_without_its_hub_each_goes_on_and_shares_recover(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    clients = town(tmp_path)
    cluster = {"cluster": in_pool(hub)}
    sites = [before(life, tmp_path, engine(life, 2), window=SLOTS, **cluster) for _ in "01"]
    crowd = crowds(life, clients, {sites[0]: "a", sites[1]: "ab"})
    served(crowd, TOKENS)
    hub.kill()
    until(lambda: not any(state_of(site).connected for site in sites))
    served(crowd, TOKENS // 2)
    assert ratio(served(crowd, TOKENS)) > 6  # as alone; and every answer was a whole one
    assert not cluster_of(sites[0], clients.keys["a"])["connected"]
    hub.start()
    until(lambda: connected(*sites))
    served(crowd, TOKENS)
    assert ratio(served(crowd, 3 * TOKENS)) == pytest.approx(4.0, rel=0.1)


def test_one_model_is_not_charged_for_another(life: ExitStack, hub: Server) -> None:
    """Each gateway has both, in an order of its own; and what is told of one is known of it."""
    cluster: dict[str, Any] = {"cluster": in_pool(hub), "metrics": {"public": True}}
    one, two = (
        life.enter_context(running(model=name, speed=100, noise=False)) for name in ("one", "two")
    )
    here = life.enter_context(gateway(one.url, two.url, **cluster))
    there = life.enter_context(gateway(two.url, one.url, **cluster))
    until(lambda: connected(here, there))
    for model in ("one", "two", "two"):
        asked = {"model": model, "prompt": "a b c", "max_tokens": 50, "ignore_eos": True}
        for site in (there, here):  # who is not known anywhere has nothing to be charged
            assert site.request("POST", "/v1/completions", asked)[0] == 200

    def heard(site: Site) -> dict[str, float]:
        pools = {name: d.pool for name, d in site.running.fleet.models.items()}
        return {n: p.sharing.report(0.0)["heard"] for n, p in pools.items() if p.sharing}

    price = 3 + 2 * 50
    for site in (here, there):
        until(lambda site=site: heard(site) == {"one": price, "two": 2 * price})  # type: ignore[misc]


def test_what_is_told_of_them(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    clients = town(tmp_path)
    clients.add("new")
    cluster = {"cluster": in_pool(hub, max_debt=1e5)}
    sites = [before(life, tmp_path, engine(life, 100), **cluster) for _ in "01"]
    until(lambda: connected(*sites))
    for site, name in zip(sites, ("a", "b"), strict=True):
        assert site.complete(20, clients.keys[name], ignore_eos=True)[0] == 200
    key = clients.keys["new"]
    until(lambda: set(cluster_of(sites[0], key)["clients"]) == {"a", "b"})
    told = cluster_of(sites[0], key)
    assert (told["pool"], told["members"], told["max_debt"]) == ("p", 2, 1e5)
    assert told["bound"] > 1e5
    assert sorted(next(iter(part)) for part in told["servers"].values()) == ["a", "b"]
    assert {c["output_tokens"] for c in told["clients"].values()} == {20}
    metrics = sites[0].request("GET", "/metrics", key=key)[2].decode()
    assert "fairlane_cluster_members 2.0" in metrics
    assert "fairlane_cluster_max_debt 100000.0" in metrics


def test_of_one_queue_no_debts_are_told(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    key = town(tmp_path).keys["a"]
    cluster = {"cluster": in_pool(hub, same_upstreams=True)}
    upstream = engine(life, 100)
    sites = [before(life, tmp_path, upstream, **cluster) for _ in "01"]
    until(lambda: connected(*sites))
    assert sites[0].complete(3, key)[0] == 200
    assert not {"max_debt", "bound"} & cluster_of(sites[0], key).keys()
    metrics = sites[0].request("GET", "/metrics", key=key)[2].decode()
    assert "fairlane_cluster_members 2.0" in metrics
    assert "fairlane_cluster_max_debt" not in metrics
    assert 'fairlane_upstream_in_flight_elsewhere{model="tiny",upstream="u0"} 0.0' in metrics


def test_what_may_be_owed_follows_from_windows_and_usual_requests(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    clients = town(tmp_path)
    cluster = {"cluster": in_pool(hub)}
    sites = [before(life, tmp_path, engine(life, 100), window=10, **cluster) for _ in "01"]
    until(lambda: connected(*sites))
    site, key = sites[0], clients.keys["a"]
    for _ in range(100):
        assert site.complete(48, key, ignore_eos=True)[0] == 200
    u = 10 * (3 + 2 * 48)
    until(lambda: cluster_of(site, key).get("max_debt") == pytest.approx(1.5 * 2 * u, rel=0.1))


# -- the same upstreams ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("same", "window", "wanted"),
    [(True, 2 * SLOTS, 4.0), (True, None, 4.0), (False, 2 * SLOTS, 1.0)],
    ids=["fixed", "learned", "control"],
)
def test_gateways_before_the_same_upstream_are_one_queue(
    life: ExitStack, tmp_path: Path, hub: Server, same: bool, window: int | None, wanted: float
) -> None:
    """One client waits at each. The control: charges alone give each what it can get."""
    clients = town(tmp_path)
    cluster = in_pool(hub, every_s=0.03, same_upstreams=same)
    upstream = engine(life, 1.0, 2 * SLOTS)
    sites = [before(life, tmp_path, upstream, cluster=cluster, window=window) for _ in "01"]
    crowd = crowds(life, clients, {sites[0]: "a", sites[1]: "b"})
    served(crowd, TOKENS // 4)
    if same:  # in the first moment nobody knew of anybody, and b was ahead
        until(lambda: has_caught_up(sites, clients))
    assert ratio(served(crowd, 3 * TOKENS)) == pytest.approx(wanted, rel=0.1 if same else 0.25)
    if same:  # the upstream is kept full, and no fuller than by one
        in_flight = sum(site.running.fleet.models["tiny"].pool.running for site in sites)
        assert in_flight <= 2 * 2 * SLOTS


@pytest.mark.slow
@pytest.mark.alone
def test_one_queue_falls_apart_without_its_hub_and_is_one_again_with_it(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    clients = town(tmp_path)
    cluster = in_pool(hub, every_s=0.03, same_upstreams=True)
    upstream = engine(life, 1.0, 2 * SLOTS)
    sites = [before(life, tmp_path, upstream, cluster=cluster, window=2 * SLOTS) for _ in "01"]
    crowd = crowds(life, clients, {sites[0]: "a", sites[1]: "b"})
    served(crowd, TOKENS // 2)
    hub.kill()
    until(lambda: not any(state_of(site).connected for site in sites))
    served(crowd, TOKENS // 8)
    assert ratio(served(crowd, TOKENS)) == pytest.approx(1.0, rel=0.25)
    hub.start()
    until(lambda: connected(*sites))
    served(crowd, TOKENS // 2)
    until(lambda: has_caught_up(sites, clients))
    assert ratio(served(crowd, 3 * TOKENS)) == pytest.approx(4.0, rel=0.1)


@pytest.mark.slow
def test_who_is_killed_holds_nobody_up(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    """The next of all waits there; it is remembered for a moment, and yielded to no longer."""
    clients = town(tmp_path)
    upstream = engine(life, 1.0)
    cluster = in_pool(hub, same_upstreams=True)
    site = before(life, tmp_path, upstream, cluster=cluster, window=SLOTS)
    process, url = life.enter_context(
        command("--config", str(written(tmp_path, upstream.url, cluster, window=SLOTS)))
    )
    other = Direct(url)
    with ThreadPoolExecutor(2 * SLOTS) as pool:
        lost = [pool.submit(until_lost, other, clients.keys["a"]) for _ in range(2 * SLOTS)]
        pool_here = site.running.fleet.models["tiny"].pool
        until(lambda: pool_here.lanes["u0"].window.elsewhere == SLOTS)
        crowd = crowds(life, clients, {site: "b"})
        until(lambda: pool_here.waiting > 0)
        os.kill(process.pid, signal.SIGKILL)
        assert all(each.result() for each in lost)
        served(crowd, TOKENS // 16)
        until(lambda: pool_here.lanes["u0"].window.elsewhere == 0)
        served(crowd, TOKENS // 16)


def until_lost(server: Direct, key: str) -> bool:
    """Ask for long answers until there is no server; that it is so."""
    asked = {"model": "tiny", "prompt": "a b c", "max_tokens": 1000, "ignore_eos": True}
    with suppress(OSError, http.client.HTTPException):
        while True:
            assert server.request("POST", "/v1/completions", asked, key)[0] == 200
    return True


def written(
    folder: Path, url: str, cluster: dict[str, Any], name: str = "u0", **upstream: Any
) -> Path:
    """A file of the gateway's configuration."""
    tables = {
        "metrics": {"public": True},
        "cluster": cluster,
        f"upstreams.{name}": {"url": url, **upstream},
    }
    text = 'tenants = "tenants.toml"\n'
    for name, table in tables.items():
        text += f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items())
    path = folder / "fairlane.toml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_gateway_of_several_processes_is_one_of_the_pool_also_with_other_upstreams(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    clients, cluster = town(tmp_path), in_pool(hub)
    first, second = engine(life, 100), engine(life, 100)
    site = before(life, tmp_path, engine(life, 100), cluster=cluster)
    file = written(tmp_path, first.url, cluster)
    _, url = life.enter_context(command("--config", str(file), "--workers", "2"))
    key = clients.keys["a"]
    until(lambda: cluster_of(site, key)["members"] == 2)
    asked = {"model": "tiny", "prompt": "a b c", "max_tokens": 10, "ignore_eos": True}
    price = 3 + 2 * 10
    for total, name in ((price, "u0"), (2 * price, "u1")):
        until(lambda name=name: where_to(url, key) == name)  # type: ignore[misc]
        assert Direct(url).request("POST", "/v1/completions", asked, key)[0] == 200
        until(lambda total=total: cluster_of(site, key)["heard"] == total)  # type: ignore[misc]
        written(tmp_path, second.url, cluster, name="u1")


def where_to(url: str, key: str) -> str:
    [told] = json.loads(Direct(url).request("GET", "/fairlane/upstreams", key=key)[2])["upstreams"]
    return str(told["upstream"])


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"cluster": {"every_s": 1}}, "hub is missing"),
        (
            {"cluster": {"hub": "redis://h", "pool": "p"}, "scheduler": {"name": "fcfs"}},
            "fcfs cannot",
        ),
        ({"cluster": {"ranks": False}}, "ranks is for a vLLM server"),
        ({"cluster": {"same_upstreams": True}}, "same_upstreams is for a hub"),
        ({"cluster": {"hub": "ray", "pool": "p"}}, "a gateway needs a server"),
        (
            {"cluster": {"hub": "redis://h", "pool": "p", "same_upstreams": True, "guard": 0.1}},
            "guard is for upstreams that no other gateway has",
        ),
        (
            {"cluster": {"hub": "redis://h", "pool": "p", "same_upstreams": True, "max_debt": 1}},
            "max_debt is for upstreams that no other gateway has",
        ),
    ],
)
def test_what_cannot_be_is_said(tables: dict[str, Any], said: str) -> None:
    upstreams = {"upstreams": {"one": {"url": "http://127.0.0.1:1"}}}
    with pytest.raises(FairlaneError, match=said):
        Running(GatewayConfig.parse({**upstreams, **tables}, Path()))

"""Limits over several gateways: ten a minute are ten, whichever of them is asked."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.servers import Server
from tests.door.town import Town
from tests.gateway.several import in_pool
from tests.gateway.site import Site, gateway, until
from tests.loadgen.server import CompletionServer


def two(
    life: ExitStack, folder: Path, hub: Server, upstream: CompletionServer, shared: bool = True
) -> list[Site]:
    """Gateways before an upstream, that know of each other."""
    cluster = in_pool(hub, every_s=0.02, shared_limits=shared)
    tables: dict[str, Any] = {"tenants": "tenants.toml", "cluster": cluster}
    made = [gateway(upstream.url, folder=folder, **tables) for _ in "01"]
    sites = [life.enter_context(one) for one in made]
    if shared:
        until(lambda: all(asks(site) and servers(site) == 2 for site in sites))
    return sites


def asks(site: Site) -> bool:
    """Whether the hub answered it last."""
    shared = site.running.asking.shared
    return shared is not None and shared.connected


def servers(site: Site) -> int:
    shared = site.running.asking.shared
    return 0 if shared is None else shared.servers


def let_in(sites: list[Site], key: str, count: int, limit: int) -> bool:
    """Whether of so many requests at once, in turn to each, `limit` come in, and no others.

    But for those for which there is room again meanwhile: ten come back in a minute.
    """
    began = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(sites[n % len(sites)].complete, 2, key) for n in range(count)]
        found = [answer.result()[0] for answer in asked]
    assert set(found) <= {200, 429}
    return limit <= found.count(200) <= limit + (time.monotonic() - began) / 6


@pytest.mark.usefixtures("any_desk")
def test_ten_a_minute_are_ten_over_both(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    town = Town(tmp_path)
    town.add("a", requests_per_minute=10)
    town.add("b")
    upstream = life.enter_context(CompletionServer())
    sites = two(life, tmp_path, hub, upstream)
    assert let_in(sites, town.keys["a"], 25, 10)
    for site in sites:
        left = site.request("GET", "/v1/models", key=town.keys["a"])[1]
        assert left["x-ratelimit-limit-requests"] == "10"
        assert site.complete(2, town.keys["b"])[0] == 200


def test_without_a_word_of_it_each_gives_the_whole_limit(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    """The control."""
    town = Town(tmp_path)
    town.add("a", requests_per_minute=10)
    sites = two(life, tmp_path, hub, life.enter_context(CompletionServer()), shared=False)
    assert let_in(sites, town.keys["a"], 25, 20)


@pytest.mark.usefixtures("any_desk")
def test_so_many_wait_at_both_together(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    town = Town(tmp_path)
    key = town.add("a", max_queued=3)
    upstream = life.enter_context(CompletionServer(hold=10**9))
    sites = two(life, tmp_path, hub, upstream)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(sites[n % 2].complete, 2, key) for n in range(8)]
        until(lambda: sum(one.done() for one in asked) == 5)
        assert [one.result()[0] for one in asked if one.done()] == [429] * 5
        upstream.release()
        assert sorted(one.result()[0] for one in asked) == [200] * 3 + [429] * 5
    until(lambda: sites[0].complete(2, key)[0] == 200)  # and nobody is counted any more


def test_tokens_count_wherever_they_were_made(life: ExitStack, tmp_path: Path, hub: Server) -> None:
    town = Town(tmp_path)
    key = town.add("a", tokens_per_minute=100)
    upstream = life.enter_context(CompletionServer())
    here, there = two(life, tmp_path, hub, upstream)
    assert here.complete(200, key)[0] == 200
    until(lambda: there.complete(1, key)[0] == 429)


def test_without_its_hub_each_has_its_part_and_then_all_hold_again(
    life: ExitStack, tmp_path: Path, hub: Server
) -> None:
    town = Town(tmp_path)
    key, other = town.add("a", requests_per_minute=10), town.add("b", requests_per_minute=10)
    sites = two(life, tmp_path, hub, life.enter_context(CompletionServer()))
    hub.kill()
    until(lambda: not any(asks(site) for site in sites))
    assert let_in(sites, key, 25, 10)  # five at each
    assert let_in(sites[:1], other, 10, 5)
    hub.start()
    until(lambda: all(asks(site) and servers(site) == 2 for site in sites))
    assert let_in(sites[1:], other, 10, 5)  # the hub was told of the others

"""Unmodified vLLM behind the gateway: who gets how much, and that counts are the engine's own."""

from collections import Counter
from collections.abc import Iterator

import pytest
from serving import CONTENDED, Server, running, write_model

from fairlane.door.tenants import Role
from tests.engines.identity.site import Town
from tests.gateway.crowd import OUTPUT, Asked, Crowd
from tests.gateway.people import ask_for_two, ask_in_every_dialect
from tests.gateway.site import Site, gateway
from tests.processes import wait_until

SLOTS = 8  # requests that run at a time
WORKERS = {"alice": 4 * SLOTS, "bob": 2 * SLOTS}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("vllm")
    with running(write_model(folder / "model", **CONTENDED), folder, ()) as server:
        yield server


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    town = Town(tmp_path_factory.mktemp("town"))
    for name, weight in (("alice", 1.0), ("bob", 1.0), ("carol", 1.0), ("dave", 3.0)):
        town.add(name, weight=weight)
    town.add("root", role=Role.OPERATOR)
    return town


@pytest.fixture
def site(engine: Server, town: Town) -> Iterator[Site]:
    with gateway(engine.url, folder=town.file.parent, tenants="tenants.toml") as one:
        yield one


def shares(server: Asked, town: Town, workers: dict[str, int], requests: int) -> Counter[str]:
    """Tokens of each client while all have requests waiting, after a start."""
    clients = {name: (town.keys[name], count) for name, count in workers.items()}
    with Crowd(server, clients, streams=True) as crowd:
        crowd.until(3 * SLOTS * OUTPUT)
        return crowd.until(requests * OUTPUT)


def counted(engine: Server) -> Counter[str]:
    """Tokens of prompts and of answers, by the engine's own metrics."""
    found: Counter[str] = Counter()
    for line in engine.request("GET", "/metrics")[2].splitlines():
        name, _, rest = line.partition("{")
        if name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"):
            found[name] += round(float(rest.rpartition(" ")[2]))
    return found


def charged(site: Site, town: Town) -> Counter[str]:
    """The same, by the gateway's charges."""
    clients = site.clients(town.keys["root"]).values()
    prompts = sum(one["input_tokens"] + one["cached_tokens"] for one in clients)
    answers = sum(one["output_tokens"] for one in clients)
    return Counter({"vllm:prompt_tokens_total": prompts, "vllm:generation_tokens_total": answers})


def agree(engine: Server, site: Site, town: Town, before: Counter[str]) -> None:
    """The gateway charged what the engine has counted since; its metrics follow a step later."""
    ours = charged(site, town)
    wait_until(lambda: counted(engine) - before, lambda seen: seen == ours, f"not {ours}", 30)


def test_twice_the_load_gives_no_larger_share(engine: Server, site: Site, town: Town) -> None:
    before = counted(engine)
    served = shares(site, town, WORKERS, requests=400)
    assert served["alice"] / served["bob"] == pytest.approx(1.0, rel=0.1)
    agree(engine, site, town, before)
    told = site.request("GET", "/fairlane/upstreams", key=town.keys["root"])[2]
    assert b'"engine_running": null' not in told  # it was asked, and not guessed at


def test_weights_divide_an_engines_time(engine: Server, site: Site, town: Town) -> None:
    before = counted(engine)
    served = shares(site, town, {"carol": 2 * SLOTS, "dave": 4 * SLOTS}, requests=480)
    assert served["dave"] / served["carol"] == pytest.approx(3.0, rel=0.15)
    agree(engine, site, town, before)


def test_without_the_gateway_whoever_sends_more_is_served_more(engine: Server, town: Town) -> None:
    served = shares(engine, town, WORKERS, requests=160)
    assert served["alice"] / served["bob"] == pytest.approx(2.0, rel=0.25)


def test_every_dialect_is_charged_as_the_engine_counts(
    engine: Server, site: Site, town: Town
) -> None:
    before = counted(engine)
    ask_in_every_dialect(site.url, town.keys["alice"], "tiny")
    agree(engine, site, town, before)
    ask_for_two(site.url, town.keys["alice"], "tiny")
    # of two answers to one prompt it counts that twice, and says once in its usage
    before["vllm:prompt_tokens_total"] += 2 * 3
    agree(engine, site, town, before)

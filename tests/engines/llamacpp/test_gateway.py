"""llama.cpp's own server behind the gateway: who gets how much, and that counts are its own."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlane.door.tenants import Role
from tests.engines.identity.site import Town
from tests.gateway.crowd import OUTPUT, Asked, Crowd
from tests.gateway.people import ask_in_every_dialect
from tests.gateway.site import Direct, Site, gateway, until
from tests.processes import started
from tests.simulated.engines import ask, running

pytestmark = pytest.mark.slow
SLOTS = 4
WORKERS = {"alice": 6 * SLOTS, "bob": 3 * SLOTS}  # more than ever are in the engine at once


@pytest.fixture(scope="module")
def engine(llamacpp: Path) -> Iterator[str]:
    """The address of llama.cpp's server, with SLOTS slots."""
    serve = Path(__file__).with_name("serve.py")
    with started(sys.executable, serve, llamacpp, str(SLOTS)) as process:
        assert process.stderr is not None
        said = ""
        for said in process.stderr:
            if "ready at http://127.0.0.1:" in said:
                break
        assert process.poll() is None, said
        yield said.split()[-1]


def metrics(url: str) -> dict[str, float]:
    lines = [line for line in ask(url, "/metrics").body.decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.split() for line in lines)}


def counted(url: str) -> Counter[str]:
    """Tokens of prompts and of answers, by the engine's own metrics."""
    told = metrics(url)
    prompts = told["llamacpp:prompt_tokens_total"] + told["llamacpp:prompt_tokens_cached_total"]
    return Counter(
        {"prompts": int(prompts), "answers": int(told["llamacpp:tokens_predicted_total"])}
    )


def charged(site: Site, key: str | None = None) -> Counter[str]:
    """The same, by the gateway's charges."""
    clients = site.clients(key).values()
    prompts = sum(one["input_tokens"] + one["cached_tokens"] for one in clients)
    return Counter({"prompts": prompts, "answers": sum(one["output_tokens"] for one in clients)})


def asking(tokens: int) -> dict[str, Any]:
    """Half as many: on one core it makes a hundred or two a second."""
    prompt = "Where is the ferry?"
    return {"model": "smol", "prompt": prompt, "max_tokens": tokens // 2, "ignore_eos": True}


def shares(server: Asked, town: Town, requests: int) -> Counter[str]:
    """Tokens of each client, of both of whom requests wait from the start."""
    clients = {name: (town.keys[name], count) for name, count in WORKERS.items()}
    with Crowd(server, clients, streams=True, body=asking) as crowd:
        return crowd.until(requests * OUTPUT // 2)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    town.add("root", role=Role.OPERATOR)
    for name in WORKERS:
        town.add(name)
    return town


def test_every_dialect_is_charged_as_the_engine_counts(engine: str) -> None:
    before = counted(engine)
    with gateway(engine) as site:
        ask_in_every_dialect(site.url, "any", "smol")
        assert counted(engine) - before == charged(site)
        assert charged(site).total() > 100


@pytest.mark.alone
def test_twice_the_load_gives_no_larger_share(engine: str, town: Town) -> None:
    before = counted(engine)
    with gateway(engine, folder=town.file.parent, tenants="tenants.toml") as site:
        served = shares(site, town, requests=140)
        assert served["alice"] / served["bob"] == pytest.approx(1.0, rel=0.15)
        assert counted(engine) - before == charged(site, town.keys["root"])


@pytest.mark.alone
def test_without_the_gateway_whoever_sends_more_is_served_more(engine: str, town: Town) -> None:
    served = shares(Direct(engine), town, requests=60)
    assert served["alice"] / served["bob"] > 1.5


def test_who_hangs_up_frees_its_slot_and_pays_for_what_was_made(engine: str) -> None:
    before, most = counted(engine), 400
    with gateway(engine) as site:
        connection = site.connect()
        body = json.dumps(asking(2 * most) | {"stream": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        seen = 0
        while seen < 20:
            seen += answer.readline().startswith(b"data: ")
        answer.close()
        connection.close()
        paid = charged(site)["answers"]
        until(lambda: metrics(engine)["llamacpp:requests_processing"] == 0)
        made = (counted(engine) - before)["answers"]
        assert seen <= paid <= made < most


def test_it_shares_a_queue_with_an_engine_of_another_kind(engine: str) -> None:
    before = counted(engine)
    with running(model="smol", speed=1.0) as other, gateway(engine, other.url) as site:
        with Crowd(site, {"anyone": (None, 16)}, streams=True, body=asking) as crowd:
            crowd.until(20 * OUTPUT)
        ours, theirs = counted(engine) - before, other.engine.counts
        assert min(ours["answers"], theirs.generation_tokens) > 0
        theirs_too = Counter({"prompts": theirs.prompt_tokens, "answers": theirs.generation_tokens})
        assert ours + theirs_too == charged(site)

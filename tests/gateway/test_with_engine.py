"""The gateway before a simulated engine that it learns to fill: shares, counts, real clients."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from fairlane.door.tenants import Role
from tests.engines.identity.site import Town
from tests.gateway.site import Site, gateway, until
from tests.simulated.engines import Running, running

SLOTS = 8
MODEL = "tiny"


def start(
    life: ExitStack, folder: Path, policy: str = "vtc", **options: Any
) -> tuple[Running, Site, Town]:
    """An engine, a gateway before it, and its clients: a, b and an operator."""
    town = Town(folder)
    for name, role in (("a", Role.CLIENT), ("b", Role.CLIENT), ("root", Role.OPERATOR)):
        town.add(name, role=role)
    shape: dict[str, Any] = {"max_num_seqs": SLOTS, "speed": 2.0, "model": MODEL, "noise": False}
    engine = life.enter_context(running(**shape, **options))
    site = life.enter_context(
        gateway(engine.url, folder=folder, tenants="tenants.toml", scheduler={"name": policy})
    )
    return engine, site, town


def flood(site: Site, town: Town, counts: dict[str, int], tokens: int = 60) -> None:
    """So many requests of each client at once; all are answered in full."""
    work = [name for name, count in counts.items() for _ in range(count)]
    prompt = "one two three four five six " * 8
    fields = {"model": MODEL, "prompt": prompt, "ignore_eos": True}
    with ThreadPoolExecutor(len(work)) as pool:
        answers = pool.map(lambda n: site.complete(tokens, town.keys[n], user=n, **fields), work)
        for status, _, stream in answers:
            assert (status, stream.count(b"data: ")) == (200, tokens + 1)


def operators_view(site: Site, town: Town, path: str = "/fairlane/tenants") -> Any:
    return json.loads(site.request("GET", path, key=town.keys["root"])[2])


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "fair"), [("vtc", True), ("fcfs", False)])
def test_a_learned_window_keeps_the_order_here_and_the_engine_busy(
    life: ExitStack, tmp_path: Path, policy: str, fair: bool
) -> None:
    engine, site, town = start(life, tmp_path, policy)
    flood(site, town, {"a": 120, "b": 60})
    clients = site.clients(town.keys["root"])
    seen = operators_view(site, town)
    # a request's price is about 160; clients that wait differ by what runs, or by all that waited
    assert (seen["observed_difference"] < 25 * 160) is fair
    assert seen["bound"] is None
    counts = engine.engine.counts
    assert counts.peak_running == SLOTS
    assert sum(one["output_tokens"] for one in clients.values()) == counts.generation_tokens
    assert sum(one["input_tokens"] for one in clients.values()) == counts.prompt_tokens
    assert clients["a"]["output_tokens"] == 120 * 60
    [upstream] = operators_view(site, town, "/fairlane/upstreams")["upstreams"]
    assert SLOTS <= upstream["window"] <= 3 * SLOTS
    assert upstream["engine_running"] is not None


def test_tokens_are_charged_as_they_flow_also_after_a_moment_of_rest(
    life: ExitStack, tmp_path: Path
) -> None:
    """Whatever runs in the background begins anew when somebody comes."""
    _, site, town = start(life, tmp_path)
    fields = {"model": MODEL, "ignore_eos": True}
    background = site.running.fleet.models[MODEL]._tasks
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            assert site.complete(2, town.keys["b"], **fields)[0] == 200
            until(lambda: background[""].done())  # and the next look at the load is not due yet
            long = pool.submit(site.complete, 400, town.keys["a"], **fields)
            seen = 0
            while not seen:
                clients = operators_view(site, town)["clients"]
                seen = clients.get("a", {}).get("output_tokens", 0) % 400
                assert seen or not long.done()
            assert long.result()[0] == 200


def test_models_and_load_of_two_engines(life: ExitStack) -> None:
    """Slow ones, so that requests are under way together; test_pool.py has exact shares."""
    first = life.enter_context(running(model="one", speed=1))
    second = life.enter_context(running(model="one", speed=1))
    third = life.enter_context(running(model="two", speed=1))
    site = life.enter_context(gateway(first.url, second.url, third.url))
    body = {"prompt": "a b c", "ignore_eos": True, "max_tokens": 100}
    with ThreadPoolExecutor(12) as pool:
        asked = [{"model": model, **body} for model in ["one"] * 8 + ["two"] * 4]
        answers = list(pool.map(lambda b: site.request("POST", "/v1/completions", b)[0], asked))
    assert answers == [200] * 12
    one, other, alone = (engine.engine.counts.sequences for engine in (first, second, third))
    assert (one + other, alone) == (8, 4)
    assert min(one, other) > 0


def test_openais_client_sees_no_gateway(life: ExitStack, tmp_path: Path) -> None:
    _, site, town = start(life, tmp_path)
    client = openai.OpenAI(base_url=f"{site.url}/v1", api_key=town.keys["a"], max_retries=0)
    life.enter_context(client)
    assert [model.id for model in client.models.list()] == [MODEL]
    whole = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Where is the ferry?"}], max_tokens=20
    )
    assert whole.usage is not None
    pieces = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Where is the ferry?"}], max_tokens=20,
        stream=True,
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)  # no usage chunk
    assert text == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="'huge' is not served"):
        client.completions.create(model="huge", prompt="a")
    with pytest.raises(openai.BadRequestError, match="maximum"):
        client.completions.create(model=MODEL, prompt="a", max_tokens=10**6)
    with (
        openai.OpenAI(base_url=f"{site.url}/v1", api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.completions.create(model=MODEL, prompt="a")


def test_an_engine_that_stops_is_an_error_that_the_client_raises(
    life: ExitStack, tmp_path: Path
) -> None:
    engine, site, town = start(life, tmp_path)
    client = openai.OpenAI(base_url=f"{site.url}/v1", api_key=town.keys["a"], max_retries=0)
    life.enter_context(client)
    stream = client.completions.create(
        model=MODEL, prompt="a", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    assert next(stream).choices
    engine.engine.close()
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    client_of = site.clients(town.keys["root"])["a"]
    assert (client_of["running"], client_of["queued"]) == (0, 0)
    assert 0 < client_of["output_tokens"] < 2000

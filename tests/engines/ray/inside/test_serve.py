"""A fair router before a deployment of Ray Serve: shares, who is who, and what dies meanwhile."""

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from benchmarks.ray_router import ROWS, rows
from cluster import Flood, Model, flooded, state, wait_for_state
from ray import serve

from fairlane.cluster.ray import NAMESPACE
from fairlane.core.errors import FairlaneError
from fairlane.engines.ray import fair_router, queue_state, report_tokens
from fairlane.engines.ray.private import check_version
from fairlane.engines.ray.queue_actor import queue_name
from tests.docs.markdown import read_blocks
from tests.processes import STANDSTILL_S, wait_until

ROOT = Path(__file__).resolve().parents[4]
WHO = ["header:x-tenant", "argument:tenant"]
NOTHING: dict[str, Any] = {"waiting": {}, "running": {}}


APPS = {
    "fifo": None,
    "fair": fair_router("vtc", who=WHO),
    "weighted": fair_router("vtc", who=WHO, weights={"a": 4.0}),
}


@pytest.fixture(scope="module", autouse=True)
def apps(port: int) -> Iterator[None]:
    """Three, which differ in who is next."""
    for name, router in APPS.items():
        more = {} if router is None else {"request_router_config": router}
        model = Model.options(**more).bind(reports=router is not None)
        serve.run(model, name=name, route_prefix=f"/{name}")
    yield
    for name in APPS:
        serve.delete(name)


def idle(app: str) -> None:
    """Every place is free again, and nobody waits."""
    wait_for_state(app, lambda now: {k: now[k] for k in NOTHING} == NOTHING, "all have ended")


# -- shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("app", "wanted"), [("fair", 1.0), ("weighted", 4.0)])
def test_clients_get_their_share_however_many_routers_there_are(
    app: str, wanted: float, processes: int
) -> None:
    with flooded(app, processes) as flood:
        assert flood.share() == pytest.approx(wanted, rel=0.15)
    idle(app)


def test_by_serves_own_router_who_sends_more_gets_more() -> None:
    with flooded("fifo", 1) as flood:
        assert flood.share(700) > 1.4


def test_the_benchmark_prints_numbers() -> None:
    [row] = rows(200, ROWS[-1:])
    assert re.fullmatch(r"\| .* \| 2 \| \d+\.\d+ \| \d\.\d+ \|", row)


# -- the document --------------------------------------------------------------------------------


def test_the_documents_example_serves_and_charges(port: int) -> None:
    [example] = [
        block for block in read_blocks(ROOT / "docs" / "ray.md")
        if block.language == "python" and "serve.deployment" in block.text
    ]  # fmt: skip
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(example.text, example.place, "exec"), names)
    small = names["Model"].options(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
    serve.run(small.bind(), name="document", route_prefix="/document")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STANDSTILL_S)
    body = json.dumps({"prompt": "from the document"})
    connection.request("POST", "/document", body, {"X-Tenant": "alice"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"FROM THE DOCUMENT")
    alice = state("document")["clients"]["alice"]
    assert (alice["input_tokens"], alice["output_tokens"]) == (3, 3)
    serve.delete("document")


# -- what dies -----------------------------------------------------------------------------------


def test_a_queue_that_dies_loses_no_request_and_the_next_one_is_fair() -> None:
    with flooded("weighted", 2) as flood:
        for for_good in (False, True):
            flood.next(400)
            before = which_queue("weighted")
            queue = ray.get_actor(queue_name("weighted", "Model"), namespace=NAMESPACE)
            ray.kill(queue, no_restart=for_good)
            another = partial(is_another, before)
            wait_until(lambda: which_queue("weighted"), another, "there is another queue")
        assert flood.share() == pytest.approx(4.0, rel=0.15)
    idle("weighted")


def is_another(before: str, now: str) -> bool:
    return now not in ("", before)


def which_queue(app: str) -> str:
    """The name of its queue's present start, "" while there is none."""
    try:
        return str(state(app)["queue"])
    except (FairlaneError, ray.exceptions.RayActorError):
        return ""


def test_a_replica_that_dies_gives_back_its_places() -> None:
    replicas = [
        actor for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith("SERVE_REPLICA::fair#Model#")
    ]  # fmt: skip
    assert len(replicas) == 2
    flood = Flood("fair", 1)
    flood.next(300)
    ray.kill(ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"]))
    wait_until(flood.errors, bool, "those that it served fail")
    flood.next(1000)
    gone = replicas[0]["name"].rpartition("#")[2]
    full = wait_for_state(
        "fair", lambda now: len({*now["running"]} - {gone}) == 2, "there is another replica"
    )
    assert gone not in full["running"]
    assert len(flood.end()) <= 4
    idle("fair")


# -- who is who ----------------------------------------------------------------------------------


def get(port: int, path: str, headers: list[tuple[str, str]]) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STANDSTILL_S)
    connection.putrequest("GET", path)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    return connection


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([("X-Tenant", "carol")], "carol"),
        ([("X-Tenant", "Zoë".encode().decode("latin-1"))], "Zoë"),
        ([], "anonymous"),
        ([("X-Tenant", "dave"), ("X-Tenant", "carol")], "anonymous"),
        ([("X-Tenant", "")], "anonymous"),
        ([("X_Tenant", "dave")], "anonymous"),
    ],
)
def test_the_trusted_header_says_whose_a_request_by_http_is(
    port: int, headers: list[tuple[str, str]], client: str
) -> None:
    def tokens() -> int:
        try:
            counted = state("fair")["clients"]
        except FairlaneError:
            return 0
        assert "dave" not in counted
        return int(counted.get(client, {}).get("output_tokens", 0))

    before = tokens()
    answer = get(port, "/fair/?tokens=3", headers).getresponse()
    assert (answer.status, answer.read()) == (200, b"token token token ")
    wait_until(tokens, lambda now: now == before + 3, f"{client} is charged")


def test_who_hangs_up_or_gives_up_leaves_nothing_behind(port: int) -> None:
    busy = [get(port, "/fair/?tokens=100000", [("X-Tenant", "erin")]) for _ in range(8)]
    answers = [one.getresponse() for one in busy]
    assert [answer.read(6) for answer in answers] == [b"token "] * 8
    waiting = [get(port, "/fair/?tokens=1", [("X-Tenant", "frank")]) for _ in range(3)]
    handle = serve.get_app_handle("fair")
    given_up = [handle.remote(tenant="grace", tokens=1) for _ in range(3)]
    wait_for_state("fair", lambda now: sum(now["waiting"].values()) == 6, "six wait")
    for one in given_up:
        one.cancel()
    for connection in waiting:
        connection.close()
    wait_for_state("fair", lambda now: not now["waiting"], "nobody waits")
    for answer, connection in zip(answers, busy, strict=True):
        answer.close()
        connection.close()
    idle("fair")
    counted = state("fair")["clients"]
    assert counted["frank"]["admissions"] == counted["grace"]["admissions"] == 0
    assert counted["erin"]["output_tokens"] >= 8


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"who": "x-tenant"}, "who must be"),
        ({"who": "cookie:tenant"}, "who must be"),
        ({"who": "header:x", "scheduler": "vtcc"}, "unknown scheduler"),
        ({"who": "header:x", "scheduler": "rpm"}, "rpm turns requests away"),
        ({"who": "header:x", "scheduler": "dlpm"}, "prefix cache"),
        ({"who": "header:x", "scheduler": "round-robin", "weights": {"a": 2}}, "has no weights"),
        ({"who": "header:x", "weights": {"a": -1}}, "weights.a must be"),
        ({"who": "header:x", "quantum": 3}, "unknown key 'quantum'"),
        ({"who": "header:x", "prices": {"imput": 3}}, "unknown key 'imput'"),
    ],
)
def test_a_router_that_could_not_work_is_not_made(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint) as error:
        fair_router(**options)
    assert "\n" not in str(error.value)


def test_tokens_are_reported_inside_of_a_request_alone() -> None:
    with pytest.raises(FairlaneError, match="no replica of Ray Serve runs here"):
        asyncio.run(report_tokens(1))
    with pytest.raises(FairlaneError, match="Model of the app fifo has no fair queue"):
        asyncio.run(queue_state("Model", "fifo"))


@pytest.mark.parametrize(
    ("version", "tested"), [("2.60.0", True), ("2.54.1", False), ("3.0", False)]
)
def test_only_versions_that_were_tested_pass_without_a_word(version: str, tested: bool) -> None:
    assert check_version(version) is tested

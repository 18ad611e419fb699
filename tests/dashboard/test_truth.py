"""On the gateway, what is shown is what happened: counts, waits, latencies, groups, upstreams."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairlane.engines.vllm.relay import server_ends
from tests.dashboard.conftest import often
from tests.dashboard.looking import viewer
from tests.door.hosts import HOSTS, WORK, BeforeEngine, Host
from tests.door.town import Town
from tests.gateway.site import command, port_of
from tests.loadgen.server import CompletionServer
from tests.talking import ask, bearer, until


@pytest.fixture(params=["gateway", "worker"])
def host(request: pytest.FixtureRequest, town: Town, life: ExitStack) -> Host:
    town.add("acme", with_key=False, weight=2.0)
    town.add("carol", parent="acme")
    town.add("dave", parent="acme")
    return often(life.enter_context(HOSTS[request.param](town, {})))


def test_who_waits_and_who_was_served(host: Host, town: Town, life: ExitStack) -> None:
    assert isinstance(host, BeforeEngine)
    pool = life.enter_context(ThreadPoolExecutor(20))
    operator = life.enter_context(viewer(host.port, town.keys["root"]))
    host.hold()
    names = ["alice", "carol", "dave"] * 5
    answers = [pool.submit(host.send, town.keys[name]) for name in names]

    def seen(name: str) -> int:
        row = operator.rows[name]
        return int(row["queued"]) + int(row["running"])

    operator.until(lambda it: [seen(n) for n in ("alice", "acme/carol", "acme")] == [5, 5, 10])
    operator.until(lambda it: any(row["queued"] for row in it.rows.values()))
    [upstream] = operator.frame["upstreams"]
    assert (upstream["name"], upstream["model"], upstream["up"]) == ("u0", "tiny", True)
    assert upstream["running"] == sum(operator.rows[n]["running"] for n in ("alice", "acme"))
    waits = [row for row in operator.rows.values() if row["queued"]]
    idle = [row for row in operator.rows.values() if not row["queued"]]
    assert all(row["oldest_s"] is not None for row in waits)
    assert {row["oldest_s"] for row in idle} == {None}
    entitled = {n: operator.rows[n]["entitlement"] for n in ("alice", "acme", "acme/dave")}
    assert entitled == pytest.approx({"alice": 1 / 3, "acme": 2 / 3, "acme/dave": 1 / 3}, abs=1e-3)
    host.now += 3.0
    host.release()
    assert {answer.result().status for answer in answers} == {200}
    operator.until(lambda it: seen("alice") + seen("acme") == 0)
    for name, count in (("alice", 5), ("acme/carol", 5), ("acme", 10)):
        row = operator.rows[name]
        assert row["requests"] == count
        assert row["ttft_p50"] == pytest.approx(3.0, rel=0.03)  # by the door's clock
        assert row["service"] > 0
    assert operator.rows["acme"]["service"] == pytest.approx(
        2 * operator.rows["acme/carol"]["service"]
    )
    assert operator.rows["acme/carol"]["parent"] == "acme"
    assert operator.frame["difference"]["now"] <= operator.frame["difference"]["at_most"]


def test_shares_sum_to_one_and_refusals_are_counted(host: Host, town: Town) -> None:
    town.add("erin", requests_per_minute=1)
    with viewer(host.port, town.keys["root"]) as operator:
        for name in ("alice", "carol", "erin"):
            assert host.send(town.keys[name]).status == 200
        assert host.send(town.keys["erin"]).status == 429
        operator.until(lambda it: it.rows["erin"]["rejected"] == {"requests_per_minute": 1})
        before = operator.frame["t"]
        total = sum(row["service"] for row in operator.rows.values() if row["parent"] is None)
        assert total > 0
        operator.until(lambda it: it.frame["t"] > before)
        shares = [r["share"] for r in operator.rows.values() if r["parent"] is None]
        served = [share for share in shares if share is not None]
        assert not served or sum(served) == pytest.approx(1.0, abs=0.01)


def test_several_processes_show_one_account(life: ExitStack, tmp_path: Path) -> None:
    """Whichever process a viewer or a request meets; told to stop, they end while some look."""
    upstream = life.enter_context(CompletionServer())
    town = Town.with_all(tmp_path)
    file = tmp_path / "fairlane.toml"
    file.write_text(f'tenants = "tenants.toml"\n[upstreams.one]\nurl = "{upstream.url}"\n')
    process, url = life.enter_context(command("--config", str(file), "--workers", "2"))
    port = port_of(url)
    body = {"model": "tiny", "prompt": "a b", "max_tokens": 3, "stream": True, "user": "u"}
    lookers = [life.enter_context(viewer(port, town.keys["root"])) for _ in range(6)]
    for _ in range(6):
        assert ask(port, "POST", WORK, bearer(town.keys["alice"]), body)[0] == 200
    for one in lookers:
        one.until(lambda it: it.rows.get("alice", {}).get("requests") == 6)
    process.terminate()
    for one in lookers:
        assert one.ends()
    until(lambda: process.poll() is not None)
    assert process.returncode == 0


def test_a_stream_ends_with_the_server_of_vllm() -> None:
    """It waits for all answers, endless ones too; its uvicorn tells that it does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = SimpleNamespace(is_serving=lambda: listening.fileno() >= 0)
        server = SimpleNamespace(should_exit=False, servers=[serving])
        scope = {"app": SimpleNamespace(state=SimpleNamespace(server=server))}
        assert not server_ends(scope)
    assert server_ends(scope)
    assert not server_ends({})
    assert server_ends(
        {"app": SimpleNamespace(state=SimpleNamespace(server=SimpleNamespace(should_exit=True)))}
    )

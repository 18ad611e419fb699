"""The stream over real sockets, on every host: who sees what, how many look, and when it ends."""

import socket
from contextlib import ExitStack

import pytest

from fairlane.dashboard import live as module
from fairlane.door.tenant_file import change_tenants
from tests.dashboard.conftest import Start, often
from tests.dashboard.looking import viewer
from tests.door.hosts import HOSTS, Host, Plugin
from tests.door.town import Town
from tests.talking import bearer, until

LOOKS = ("/fairlane/live", "/fairlane/history?client=alice", "/fairlane/keys?client=bob")


def test_an_operator_sees_everyone_and_a_client_itself(start: Start, town: Town) -> None:
    host = start()
    for name in ("alice", "bob"):
        assert host.send(town.keys[name]).status == 200
    with viewer(host.port, town.keys["root"]) as operator:
        assert (operator.hello["role"], operator.hello["client"]) == ("operator", None)
        operator.look()
        assert {"alice", "bob", "gate", "root"} <= operator.rows.keys()
    with viewer(host.port, town.keys["alice"]) as client:
        assert (client.hello["role"], client.hello["client"]) == ("client", "alice")
        assert client.hello["history"]["clients"].keys() == {"alice"}
        for _ in range(3):
            client.look()
            assert client.rows.keys() == {"alice"}
            assert set(client.frame["difference"].values()) == {None}
            assert client.frame.keys().isdisjoint({"upstreams", "cluster"})
            assert "bob" not in str(client.frame)
    told = host.ask("GET", LOOKS[1], bearer(town.keys["bob"]))
    assert told.refusal == (403, "operators_only")
    assert host.ask("GET", LOOKS[1], bearer(town.keys["alice"])).status == 200
    assert host.ask("GET", LOOKS[2], bearer(town.keys["bob"])).refusal == (403, "operators_only")


def test_wrong_keys_see_nothing(start: Start, town: Town) -> None:
    host = start()
    for path in LOOKS:
        assert host.ask("GET", path).refusal == (401, "missing_api_key")
        assert host.ask("GET", path, bearer("fl-" + "x" * 43)).refusal == (401, "invalid_api_key")
    assert host.ask("GET", f"/fairlane/live?key={town.keys['root']}").code == "key_in_url"


def test_a_revoked_key_sees_no_more(start: Start, town: Town) -> None:
    host = start()
    with viewer(host.port, town.keys["alice"]) as client:
        change_tenants(town.file, lambda tenants: tenants.without_tenant("alice"))
        assert client.ends()


def test_where_tenants_are_public_everyone_sees_everyone(start: Start, town: Town) -> None:
    host = start(metrics={"public": True}, identity={"anonymous": "guest"})
    with viewer(host.port) as guest:
        assert (guest.hello["role"], guest.hello["client"]) == ("public", "guest")
        assert {"alice", "bob"} <= guest.rows.keys()
    refused = host.ask("POST", "/fairlane/changes", body={})
    assert refused.refusal == (403, "operators_only")


def test_clients_never_keep_operators_out(start: Start, town: Town, life: ExitStack) -> None:
    host = start(dashboard={"viewers": 2})
    for name in ("alice", "bob"):
        life.enter_context(viewer(host.port, town.keys[name]))
    full = host.ask("GET", "/fairlane/live", bearer(town.keys["alice"]))
    assert full.refusal == (503, "too_many_viewers")
    for _ in range(2):
        life.enter_context(viewer(host.port, town.keys["root"]))
    full = host.ask("GET", "/fairlane/live", bearer(town.keys["root"]))
    assert full.refusal == (503, "too_many_viewers")


def test_who_leaves_makes_room(start: Start, town: Town) -> None:
    host = start(dashboard={"viewers": 1})
    with viewer(host.port, town.keys["alice"]):
        assert _status(host, town.keys["alice"]) == 503
    until(lambda: _status(host, town.keys["alice"]) == 200)


def _status(host: Host, key: str) -> int:
    with socket.create_connection(("127.0.0.1", host.port), 60) as connection:
        words = f"GET /fairlane/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        connection.sendall(words.encode())
        return int(connection.recv(15).split()[1])


def test_off_there_is_no_page(start: Start, town: Town) -> None:
    host = start(dashboard={"on": False})
    for path in ("/fairlane", "/fairlane/", "/fairlane/live"):
        assert host.ask("GET", path, bearer(town.keys["alice"])).status == 404


def test_it_looks_only_while_somebody_does(
    start: Start, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start()
    assert not host.live.runs
    monkeypatch.setattr(module, "LINGER_S", 0.2)
    with viewer(host.port, town.keys["alice"]) as one, viewer(host.port, town.keys["root"]):
        assert host.live.runs
        before = one.frame["t"]
        one.until(lambda it: it.frame["t"] > before + 0.3)  # for longer than it lingers
    until(lambda: not host.live.runs)
    with viewer(host.port, town.keys["root"]) as again:
        assert len(again.hello["history"]["t"]) < 5  # there is none of before


def test_who_reads_slowly_gets_the_newest_frame(town: Town, life: ExitStack) -> None:
    """A thousand tenants, all of them served, fill the sockets' buffers; more is not kept."""
    host = often(life.enter_context(HOSTS["plugin"](town, {})))
    assert isinstance(host, Plugin)
    names = [f"tenant-{i:04}" for i in range(1000)]
    with (
        viewer(host.port, town.keys["root"], buffer=4096) as slow,
        viewer(host.port, town.keys["root"]) as quick,
    ):
        for i in range(100):
            clients = {name: {"service": float(i)} for name in names}
            host.engine.snapshot = {"policy": "vtc", "clients": clients}
            quick.look()
        assert quick.rows.keys() >= set(names)
        made = host.live._number
        read = missed = 0
        while slow.frame["t"] <= quick.frame["t"]:
            slow.look()
            read, missed = read + 1, missed + slow.frame["full"]
        assert 0 < missed <= read < 0.7 * made
        assert slow.rows.keys() == quick.rows.keys()

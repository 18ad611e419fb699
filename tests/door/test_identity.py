"""Who is who and who may what, on every host of the door, over real sockets."""

import json
from typing import Any

import pytest

from fairlane.door.tenants import Role, new_key
from fairlane.engines.vllm.clients import CLIENT_KEY
from tests.door.conftest import Start
from tests.door.hosts import WORK
from tests.door.town import Town
from tests.talking import bearer, spoken

FORGED = {CLIENT_KEY: "bob"}


def test_the_key_says_who_it_is_whatever_else_is_sent(town: Town, start: Start) -> None:
    names = {"X-Fairlane-Client": "bob", "X-Request-Id": "bob", "X-Session-ID": "bob"}
    names |= {"X-Forwarded-User": "bob", "X-Forwarded-For": "bob"}
    bodies: tuple[dict[str, Any], ...] = (
        {},
        {"vllm_xargs": FORGED},
        {"vllm_xargs": {**FORGED, "other": 1}, "user": "bob", "extra_args": FORGED},
        {"metadata": {"user_id": "bob"}, "priority": -1, "client": "bob", "session_id": "bob"},
    )
    with start(town) as host:
        for body in bodies:
            assert host.sender(town.keys["alice"], {**names}, **body) == "alice"
        assert host.sender(None, {"x-api-key": town.keys["bob"]}) == "bob"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer " + new_key()}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer"}, 401, "invalid_api_key"),
        ({"Authorization": "Basic YWxpY2U6"}, 401, "invalid_api_key"),
        ({"x-api-key": "alice"}, 401, "invalid_api_key"),
        ({"x-api-key": ""}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer " + "x" * 9_000}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer sch\xfcssel"}, 401, "invalid_api_key"),
        ({"X-Fairlane-Client": "alice"}, 401, "missing_api_key"),
        ({"Proxy-Authorization": "Bearer alice"}, 401, "missing_api_key"),
        ({"Cookie": "authorization=alice"}, 401, "missing_api_key"),
    ],
)
def test_without_a_right_key_nothing_reaches_the_engine(
    town: Town, start: Start, headers: dict[str, str | bytes], status: int, code: str
) -> None:
    with start(town) as host:
        answer = host.send(None, headers)
        assert answer.refusal == (status, code)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (host.inside(), host.reached()) == (0, {})


def test_a_wrong_key_is_not_anonymous(town: Town, start: Start) -> None:
    with start(town, identity={"anonymous": "guest"}) as host:
        assert host.sender(None) == "guest"
        assert host.send(new_key()).status == 401
        assert host.reached() == {"guest": 1}


def test_without_a_configuration_all_are_one_client(start: Start) -> None:
    with start(None) as host:
        assert host.sender(None, {"X-Fairlane-Client": "bob"}, vllm_xargs=FORGED) == "anonymous"
        # clients of these APIs cannot but send a key, and there are none that could be wrong
        assert host.sender(new_key()) == "anonymous"
        assert host.sender("any", {"x-api-key": "other"}) == "anonymous"


def test_two_keys_or_a_repeated_header_are_refused(town: Town, start: Start) -> None:
    alice, bob, gate = (town.keys[name] for name in ("alice", "bob", "gate"))
    with start(town) as host:
        assert host.send(alice, {"x-api-key": bob}).refusal == (400, "two_api_keys")
        assert host.sender(alice, {"x-api-key": alice}) == "alice"
        twice = [
            f"Authorization: Bearer {alice}\r\nAuthorization: Bearer {bob}",
            f"Authorization: Bearer {alice}\r\nauthorization: Bearer {alice}",
            f"x-api-key: {alice}\r\nX-API-KEY: {bob}",
            f"Authorization: Bearer {gate}\r\nX-Fairlane-Client: a\r\nx-fairlane-client: b",
        ]
        for lines in twice:
            answer = spoken(
                host.port,
                f"POST {WORK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
                "Content-Length: 2\r\n\r\n{}".encode(),
            )
            assert answer.startswith(b"HTTP/1.1 400")
            assert b"repeated_header" in answer
        joined: tuple[dict[str, str | bytes], ...] = (
            bearer(f"{alice}, Bearer {bob}"),
            bearer(f"{alice},{alice}"),
            {"x-api-key": f"{alice}, {bob}"},
            {**bearer(gate), "X-Fairlane-Client": "alice, bob"},
            {**bearer(gate), "X-Fairlane-Client": "alice,"},
        )
        for headers in joined:
            refused = host.send(None, headers)
            assert refused.refusal == (400, "repeated_header")
            assert "send one, without a comma" in refused.text
        assert host.reached() == {"alice": 1}


def test_a_header_with_underscores_is_not_taken_for_none(town: Town, start: Start) -> None:
    """Some proxies drop such headers and others turn '_' into '-': it would mean two things."""
    named: dict[str, str | bytes] = {**bearer(town.keys["gate"]), "X_Fairlane_Client": "bob"}
    with start(town, identity={"anonymous": "guest"}) as host:
        assert host.send(None, {"X_API_Key": town.keys["alice"]}).code == "misspelt_header"
        assert host.send(None, named).refusal == (400, "misspelt_header")
        assert host.reached() == {}


def test_a_gateway_names_its_clients_and_nobody_else_does(town: Town, start: Start) -> None:
    town.add("org", with_key=False)
    town.add("carol", parent="org", with_key=False)
    gate = town.keys["gate"]
    with start(town, identity={"header": "X-Tenant"}) as host:
        for name, seen in (
            ("zoe", "zoe"), ("carol", "org/carol"), ("org/carol", "org%2Fcarol"),
            ("日本".encode(), "日本"),
        ):  # fmt: skip
            assert host.sender(gate, {"X-Tenant": name}) == seen
        assert host.sender(gate) == "gate"
        assert host.sender(town.keys["alice"], {"X-Tenant": "zoe"}) == "alice"
        assert host.sender(town.keys["root"], {"X-Tenant": "zoe"}) == "root"


@pytest.mark.parametrize(
    "name",
    [b"", b" ", b"\xff\xfe", b"a\x7fb", "a\u202eb".encode(), "u\u0308".encode(), b"x" * 201,
     b"x" * 5000],
)  # fmt: skip
def test_names_that_a_gateway_must_not_give(town: Town, start: Start, name: bytes) -> None:
    with start(town) as host:
        answer = host.send(town.keys["gate"], {"X-Fairlane-Client": name})
        assert answer.status == 400
        # a parser may refuse it before the door does
        assert "HTTP request" in answer.text or answer.code == "invalid_client"
        assert host.reached() == {}


def test_a_key_in_a_url_is_refused_and_not_logged(
    town: Town, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    key = town.keys["alice"]
    with start(town) as host:
        for path in (f"{WORK}?api_key={key}", f"{WORK}?a=1&x=%66{key[1:]}", f"/nothing?k={key}"):
            for own in (None, key):
                answer = host.send(own, path=path)
                assert answer.refusal == (401, "key_in_url")
                assert key not in answer.text
        assert key not in caplog.text
        assert host.sender(key, path=f"{WORK}?model=x") == "alice"


@pytest.mark.parametrize("path", ["/sleep", "/v1/nothing", "//v1/completions", "/", WORK])
def test_without_a_key_all_routes_look_alike(town: Town, start: Start, path: str) -> None:
    """Which there are is for those to know who may come in."""
    with start(town) as host:
        for method in ("GET", "POST", "PUT"):
            assert host.ask(method, path).refusal == (401, "missing_api_key")


@pytest.mark.parametrize(
    "path", ["//v1/completions", "/v1/completions/", "/V1/completions", "/v1/./completions",
             "/v1/x/../completions", "/v1/completions;x", "/v1%252fcompletions",
             "/v1/completions%3Fx", "/v1/completions%00", "/sleep", "/abort_requests"],
)  # fmt: skip
def test_a_path_that_is_not_quite_one_of_clients_is_none(
    town: Town, start: Start, path: str
) -> None:
    with start(town) as host:
        for name in ("alice", "gate"):
            assert host.send(town.keys[name], path=path).status in (403, 404)
        assert (host.inside(), host.reached()) == (0, {})


def test_what_everyone_may_see_reaches_no_engine(town: Town, start: Start) -> None:
    with start(town) as host:
        assert host.ask("GET", "/health").status == 200
        assert host.send(None, path="/ping").status in (200, 500)
        assert (host.inside(), host.reached()) == (0, {})


def test_tenants_are_shown_to_operators_and_to_themselves(town: Town, start: Start) -> None:
    def seen(name: str) -> Any:
        return json.loads(host.ask("GET", "/fairlane/tenants", bearer(town.keys[name])).text)

    with start(town) as host:
        assert set(seen("alice")) == {"policy", "problem", "clients"}
        assert not set(seen("alice")["clients"]) - {"alice"}
        assert host.ask("GET", "/fairlane/tenants").status == 401
        for headers in ({}, bearer(town.keys["alice"]), bearer(new_key())):
            assert "fairlane_" not in host.ask("GET", "/metrics", headers).text
        told = host.ask("GET", "/metrics", bearer(town.keys["root"])).text
        assert "fairlane_scheduler_up 1.0" in told


def test_keys_and_limits_change_without_a_restart(town: Town, start: Start) -> None:
    with start(town) as host:
        alice = town.keys["alice"]
        assert host.sender(alice) == "alice"
        new = town.add("alice", requests_per_minute=1)
        assert host.send(alice).refusal == (401, "invalid_api_key")
        assert host.sender(new) == "alice"
        assert host.send(new).status == 429
        town.file.write_text("[tenants.alice")  # while somebody writes: the last good one holds
        host.now += 60
        assert host.sender(new) == "alice"
        metrics = host.ask("GET", "/metrics", bearer(town.keys["root"])).text
        assert "fairlane_tenants_broken 1.0" in metrics


def test_a_gateways_header_without_a_gateway_is_said_when_it_starts_to_be_so(
    town: Town, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> int:
        return sum("'x-org' is ignored" in record.message for record in caplog.records)

    with start(town, identity={"header": "x-org"}) as host:
        assert said() == 0  # the town has a gateway
        town.add("gate", role=Role.CLIENT)
        for _ in range(3):
            assert host.send(town.keys["alice"]).status == 200
        assert said() == 1
    with start(town, identity={"header": "x-org"}):
        assert said() == 2

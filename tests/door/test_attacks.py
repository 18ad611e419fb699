"""What an attacker sends to a host of the door, byte by byte, over real sockets."""

from collections import Counter

import pytest

from tests.door.conftest import Start
from tests.door.hosts import WORK
from tests.door.town import Town
from tests.talking import spoken, statuses

LINE = f"POST {WORK} HTTP/1.1\r\nHost: x\r\n".encode()
END = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        LINE + b"Authorization: Bearer \x00\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nAuthorization: " + b"x" * 1_000_000 + b"\r\n\r\n",
        LINE + b"a: b\r\n" * 100_000 + b"\r\n",
        b"POST /v1/completions\r\n\r\n",
        b"\x16\x03\x01" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST http://evil/v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"CONNECT evil:80 HTTP/1.1\r\nHost: evil\r\n\r\n",
        LINE + b"Content-Length: 5\r\n\r\n{}",
        LINE + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        LINE + b"Content-Length: -1\r\n\r\n{}",
        LINE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed_and_huge_requests_reach_nothing_and_leave_the_server_up(
    town: Town, start: Start, sent: bytes
) -> None:
    with start(town) as host:
        found = statuses(spoken(host.port, sent, hang_up=True))
        assert all(400 <= status < 500 for status in found)
        assert host.inside() == 0
        assert host.sender(town.keys["alice"]) == "alice"


def test_requests_in_one_connection_are_each_of_their_own_key(town: Town, start: Start) -> None:
    sent = b""
    with start(town) as host:
        body = host.content()
        for name in ("alice", None, "bob", None, "alice"):
            key = b"" if name is None else f"Authorization: Bearer {town.keys[name]}\r\n".encode()
            sent += LINE + key + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        assert statuses(spoken(host.port, sent + END)) == [200, 401, 200, 401, 200, 200]
        assert host.reached() == Counter(alice=2, bob=1)


def test_a_websocket_without_a_right_key_is_not_opened(town: Town, start: Start) -> None:
    upgrade: dict[str, str | bytes] = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    with start(town) as host:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Fairlane-Client": "alice"}):
            assert host.ask("GET", "/v1/realtime", {**upgrade, **headers}).status == 401
        assert (host.inside(), host.reached()) == (0, {})


def test_nothing_that_was_sent_is_repeated_or_logged(
    town: Town, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "fl-\x1b[31m" + "s3cr3t" * 8
    with start(town) as host:
        for headers in ({"Authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
            assert "s3cr3t" not in host.send(None, dict(headers)).text
        host.ask("POST", "/v1/%0d%0aWARNING%20forged%20line")
        host.send(town.keys["alice"], path="/v1/%0d%0aWARNING%20forged%20line")
    assert "s3cr3t" not in caplog.text
    assert "forged" not in caplog.text

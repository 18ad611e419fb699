"""What an attacker would try at the door, beyond forged fields."""

import http.client
import socket
import statistics
import time
from hashlib import sha256
from pathlib import Path

import pytest

from fairlane.door.tenants import Tenant, Tenants, hash_key, new_key
from fairlane.engines.vllm.routes import Audience, audience, route_path
from tests.engines.identity.site import Server, Town, running
from tests.processes import PATIENCE_S


def test_a_key_that_is_almost_right_takes_no_longer_to_refuse() -> None:
    key = new_key()
    tenants = Tenants(
        {f"t{i}": Tenant(f"t{i}", keys=(hash_key(new_key()),)) for i in range(1000)}
        | {"a": Tenant("a", keys=(hash_key(key),))}
    )
    almost, far = (key[:-1] + "!").encode(), b"?" * len(key)

    def timed(wrong: bytes) -> float:
        start = time.thread_time()
        for _ in range(200):
            assert tenants.find(wrong) is None
        return time.thread_time() - start

    rounds = [(timed(almost), timed(far)) for _ in range(60)]
    ratio = statistics.median(a for a, _ in rounds) / statistics.median(b for _, b in rounds)
    assert 0.8 < ratio < 1.25


def test_a_huge_key_is_not_even_hashed() -> None:
    tenants = Tenants({"a": Tenant("a", keys=(hash_key(new_key()),))})
    huge = b"x" * 50_000_000
    start = time.thread_time()
    sha256(huge)
    hashed = time.thread_time()
    for _ in range(100):
        assert tenants.find(huge) is None
    assert time.thread_time() - hashed < (hashed - start) / 5


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    town.add("alice")
    return town


def spoken(server: Server, sent: bytes) -> bytes:
    """What the server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        answer = b""
        try:  # a server that has read enough may hang up while we still send
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x00\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nAuthorization: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        b"POST /v1/completions\r\n\r\n",
        b"\x16\x03\x01" * 100,
        b"POST http://evil/v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{}",
    ],
)  # fmt: skip
def test_malformed_and_huge_requests_reach_nothing_and_leave_the_server_up(
    town: Town, sent: bytes
) -> None:
    with running(town.access()) as server:
        answer = spoken(server, sent)
        assert answer == b"" or b" 40" in answer.split(b"\r\n")[0]
        assert server.engine.clients == []
        assert server.send(town.keys["alice"])[2] == ["alice"]


def test_nothing_that_was_sent_is_repeated_or_logged(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "fl-\x1b[31m" + "s3cr3t" * 8
    with running(town.access()) as server:
        for headers in ({"Authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
            text = server.request("POST", "/v1/completions", dict(headers), {})[2]
            assert "s3cr3t" not in text
        server.request("POST", "/v1/%0d%0aWARNING%20forged%20line")
    assert "s3cr3t" not in caplog.text
    assert "forged" not in caplog.text


def test_two_thousand_wrong_keys_leave_no_trace_in_memory(town: Town) -> None:
    with running(town.access()) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        for _ in range(2_000):
            headers = {"Authorization": f"Bearer {new_key()}"}
            connection.request("POST", "/v1/completions", "{}", headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 401
        connection.close()
        admission = server.identity._door.admission
        assert len(admission.rates) == len(admission.waiting) == len(admission.rejected) == 0


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/v1/completions", "", "/v1/completions"),
        ("/llm/v1/completions", "/llm", "/v1/completions"),
        ("/llm/sleep", "/llm", "/sleep"),
        ("/llmx/sleep", "/llm", "/llmx/sleep"),
        ("/sleep", "/llm", "/sleep"),
        ("/llm", "/llm", ""),
    ],
)
def test_the_path_is_the_one_that_the_router_will_see(path: str, root: str, seen: str) -> None:
    assert route_path({"path": path, "root_path": root}) == seen


def test_what_begins_like_a_route_of_clients_is_none() -> None:
    for path in ("/v1/completionsx", "/v1/completions/x", "/v1/load_lora_adapter", "", "/"):
        assert audience(path) is Audience.OPERATORS
    assert audience("/v1/responses/resp_1/cancel") is Audience.CLIENTS
    assert audience("/metrics/anything") is Audience.METRICS

"""What clients do wrong: the server stays up, others are served, and accounts stay exact."""

import json
import resource
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import serving
from serving import CONTENDED, Server, guarded, write_model

from fairlane.door.tenants import Role, Tenant, hash_key, new_key
from tests.processes import STANDSTILL_S, wait_until

KEYS = {name: new_key() for name in ("alice", "bob", "root")}
PRICES = {"input_tokens": 1.0, "cached_tokens": 0.1, "output_tokens": 2.0}
CROWD = 10_000
SENDER = """
import asyncio, resource, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
request = sys.stdin.buffer.read()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, hard))
kept = []
async def ask():
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    kept.append((reader, writer))
async def main():
    for _ in range(count // 100):
        await asyncio.gather(*(ask() for _ in range(100)))
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_model(tmp_path_factory.mktemp("model"), **CONTENDED)
    tenants = [
        Tenant(
            name,
            keys=(hash_key(key),),
            role=Role.OPERATOR if name == "root" else Role.CLIENT,
        )
        for name, key in KEYS.items()
    ]
    with guarded(model, tmp_path_factory.mktemp("server"), tenants) as made:
        yield made


@pytest.fixture(autouse=True)
def all_is_well_afterwards(server: Server) -> Iterator[None]:
    """Nobody is left, accounts are exact, and another client is served."""
    yield
    wait_for(server, idle, "all have left")
    for client in server.clients(KEYS["root"]).values():
        assert client["finished"] + client["aborted"] == client["arrivals"], client
        charged = sum(price * client[kind] for kind, price in PRICES.items())
        assert client["service"] == pytest.approx(charged, rel=1e-5)  # of 2**-20
    before = account(server, "alice")
    status, _, answer = server.request("POST", "/v1/completions", asking(7), key=KEYS["alice"])
    assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, 7)
    wait_for(server, idle, "alice has left")
    after = account(server, "alice")
    assert after["finished"] - before["finished"] == 1
    assert after["output_tokens"] - before["output_tokens"] == 7


def everyone(server: Server) -> dict[str, dict[str, Any]]:
    """What the server tells of each client; 0 for those that have not come yet."""
    found = server.clients(KEYS["root"])
    return {name: defaultdict(int, found.get(name, {})) for name in KEYS.keys() | found.keys()}


def account(server: Server, name: str) -> dict[str, Any]:
    return everyone(server)[name]


def wait_for(server: Server, is_so: Callable[[dict[str, dict[str, Any]]], bool], what: str) -> None:
    """Wait as long as the server does anything for anyone."""
    wait_until(lambda: everyone(server), is_so, what)


def at_work(clients: dict[str, dict[str, Any]]) -> int:
    """Requests that wait or run anywhere, the front door included."""
    kinds = ("queued", "running", "waiting")
    return sum(client[kind] for client in clients.values() for kind in kinds)


def idle(clients: dict[str, dict[str, Any]]) -> bool:
    return not at_work(clients)


def asking(tokens: int, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": "w1 w2 w3", "max_tokens": tokens, "ignore_eos": True}
    return body | more


as_http = partial(serving.as_http, KEYS["bob"])


def send(server: Server, request: bytes, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(STANDSTILL_S)
    connection.connect(server.address)
    connection.sendall(request)
    return connection


def status_of(connection: socket.socket) -> int:
    """The status that is answered, 0 where the connection ends without one."""
    first = connection.makefile("rb").readline()
    return int(first.split()[1]) if first else 0


# -- slow readers -------------------------------------------------------------------------------


def test_clients_that_do_not_read_hold_up_nobody(server: Server) -> None:
    """Their requests leave the engine when they are done; what was not read is still there."""
    before = account(server, "bob")
    # Each of 400 events repeats the id: 6 MB, more than sockets hold. What no longer fits comes
    # in one event at the end, so fewer events show that the server could not write.
    headers = ("X-Request-Id: " + "i" * 15_000, "Connection: close")
    body = asking(400, stream=True, stream_options={"include_usage": True})
    request = as_http(json.dumps(body), *headers)
    unread, *readers = [send(server, request, receive_buffer=2048) for _ in range(7)]
    byte_by_byte = send(server, request, receive_buffer=2048)
    assert b"".join(byte_by_byte.recv(1) for _ in range(12)) == b"HTTP/1.1 200"
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(
            lambda _: server.request("POST", "/v1/completions", asking(8), key=KEYS["alice"]),
            range(12),
        )
        assert [status for status, _, _ in answers] == [200] * 12
    wait_for(server, idle, "the engine is done with them, unread")
    after = account(server, "bob")
    assert after["output_tokens"] - before["output_tokens"] == 8 * 400
    assert after["aborted"] == before["aborted"]
    answer = unread.makefile("rb").read()
    assert answer.count(b"data: {") < 400
    assert b'"completion_tokens":400' in answer
    for connection in (unread, *readers, byte_by_byte):
        connection.close()


# -- malformed bodies ---------------------------------------------------------------------------

MALFORMED: list[bytes | str] = [
    "", "null", "5", '"w1"', "[]", '{"model": "tiny", "prompt": ', '{"model": "tiny",}',
    "[" * 100_000, '{"prompt": ' * 50_000, '{"model": "tiny", "prompt": ' + "[" * 90_000,
    b"\xff\xfe\x00{", b'{"model": "tiny", "prompt": "\xc3"}', b"\x00" * 1000,
    '{"model": "tiny", "prompt": "w1", "max_tokens": 1e400}', "{}", '{"model": 5, "prompt": "w1"}',
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    {"prompt": {"a": 1}}, {"prompt": [[["w1"]]]}, {"prompt": [-1]}, {"prompt": [10**9]},
    {"prompt": [2**70]}, {"prompt": []}, {"prompt": "w1 " * 5000}, {"max_tokens": -5},
    {"max_tokens": "many"}, {"max_tokens": 10**30}, {"max_tokens": 2**63}, {"max_tokens": 10_000},
    {"max_tokens": 1.5}, {"n": 0}, {"n": -1}, {"n": "all"}, {"n": 2**40}, {"temperature": -1},
    {"temperature": "hot"}, {"top_p": 7}, {"top_k": -7}, {"stream": "perhaps"}, {"stop": {"a": 1}},
    {"logprobs": 10**9}, {"logprobs": -9}, {"prompt_logprobs": 10**9}, {"min_tokens": 10**6},
    {"logit_bias": {"x": 1}}, {"logit_bias": {"999999": 1}}, {"allowed_token_ids": [10**9]},
    {"allowed_token_ids": []}, {"stop_token_ids": "x"}, {"bad_words": [""]}, {"seed": 2**70},
    {"structured_outputs": {"regex": "(((("}}, {"structured_outputs": {"json": "{"}},
    {"structured_outputs": {"choice": []}}, {"response_format": {"type": "nonsense"}},
    {"stream_options": {"include_usage": True}}, {"truncate_prompt_tokens": -7},
]  # fmt: skip


def test_malformed_bodies_are_refused(server: Server) -> None:
    before = account(server, "bob")["arrivals"]
    bodies = MALFORMED + [json.dumps(asking(4) | wrong) for wrong in WRONG]
    for body in bodies:
        with send(server, as_http(body)) as connection:
            assert 400 <= status_of(connection) < 500, body[:200]
    assert account(server, "bob")["arrivals"] == before
    with send(server, as_http(json.dumps(asking(4)))) as connection:
        assert status_of(connection) == 200


def test_broken_uploads(server: Server) -> None:
    """Bodies that stop in the middle or contradict their headers, with and without hanging up."""
    whole = json.dumps(asking(4))
    chunked = "Transfer-Encoding: chunked"
    before = account(server, "bob")["arrivals"]
    for request in (
        as_http(whole[:20], length=len(whole)),
        as_http(f"10\r\n{whole[:16]}\r\n", chunked),
        as_http(f"10\r\n{whole[:7]}", chunked),
        as_http("", chunked),
        as_http(whole, length=10**15),
        b"POST /v1/completions HTTP/1.1\r\nAuthorization: Bea",
    ):
        send(server, request).close()
    for request in (
        as_http("zz\r\n" + whole, chunked),
        as_http(whole, "Content-Length: -5"),
        as_http(whole, length=-5),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/completions SPDY/99\r\n\r\n",
    ):
        with send(server, request) as connection:
            assert status_of(connection) in (0, 400)
    with send(server, as_http(whole[:20], length=len(whole))):
        wait_for(
            server,
            lambda clients: at_work(clients) == 1,
            "it counts as waiting while its body comes",
        )
    wait_for(server, idle, "nobody waits for the rest of a body")
    assert account(server, "bob")["arrivals"] == before
    parts = f"10\r\n{whole[:16]}\r\n{len(whole) - 16:x}\r\n{whole[16:]}\r\n0\r\n\r\n"
    with send(server, as_http(parts, chunked)) as connection:
        assert status_of(connection) == 200


# -- clients that vanish ------------------------------------------------------------------------


def test_a_call_of_a_thousand_prompts_that_is_hung_up(server: Server) -> None:
    before = account(server, "bob")["arrivals"]
    prompts = [[5 + i % 400] for i in range(1000)]
    request = as_http(json.dumps(asking(200, prompt=prompts, stream=True)))
    with send(server, request):
        wait_for(server, lambda clients: clients["bob"]["queued"] > 500, "they wait")
    wait_for(server, idle, "nothing is left of them")
    assert account(server, "bob")["arrivals"] - before == 1000


def test_ten_thousand_queued_requests_of_a_client_that_is_killed(server: Server) -> None:
    """They wait on as many connections; another client is served between them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert most == resource.RLIM_INFINITY or most > CROWD + 500, "raise the hard limit of `ulimit`"
    before = account(server, "bob")
    host, port = server.address
    sender = subprocess.Popen(
        [sys.executable, "-c", SENDER, host, str(port), str(CROWD)], stdin=subprocess.PIPE
    )
    assert sender.stdin is not None
    sender.stdin.write(as_http(json.dumps(asking(500, stream=True))))
    sender.stdin.close()
    try:
        last = before["arrivals"] + CROWD
        wait_for(server, lambda clients: clients["bob"]["arrivals"] == last, "all are here")
        assert account(server, "bob")["queued"] > 0.98 * CROWD
        assert server.request("POST", "/v1/completions", asking(8), key=KEYS["alice"])[0] == 200
        assert account(server, "bob")["queued"] > 0.97 * CROWD
    finally:
        sender.send_signal(signal.SIGKILL)
        sender.wait()
    wait_for(server, idle, "nothing is left of them")
    after = account(server, "bob")
    assert after["arrivals"] - before["arrivals"] == CROWD
    assert after["aborted"] - before["aborted"] > 0.97 * CROWD

"""How tests talk to a server over a socket, and wait for what must happen."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tests.processes import PATIENCE_S


def ask(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: Any = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, body. body: bytes as they are, anything else as JSON."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, sent, dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def spoken(port: int, sent: bytes, *, hang_up: bool = False) -> bytes:
    """All that a server answers to these bytes until it hangs up.

    hang_up: nothing more will be sent, and it is told so; else the bytes must make it hang up.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        answer = b""
        try:  # a server that has read enough may hang up while we still send
            connection.sendall(sent)
            if hang_up:
                with suppress(OSError):  # where it has hung up already
                    connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
    return answer


def statuses(answers: bytes) -> list[int]:
    """Of answers that came one after the other in one connection."""
    return [int(line) for line in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def bearer(key: str) -> dict[str, str | bytes]:
    """The header of an API key."""
    return {"Authorization": f"Bearer {key}"}


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)

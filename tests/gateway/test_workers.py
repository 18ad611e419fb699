"""Several processes pass bytes and one decides: they are one gateway, and die alone."""

import http.client
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from tests.engines.identity.site import Town
from tests.gateway.site import command, port_of, until
from tests.loadgen.server import CompletionServer
from tests.processes import PATIENCE_S
from tests.simulated.engines import ask


class Office:
    """`fairlane gateway --workers 3`, its file of tenants beside it."""

    def __init__(self, life: ExitStack, folder: Path, upstream: str, more: str = "") -> None:
        self.town = Town(folder)
        self.keys = {name: self.town.add(name, max_running=4) for name in ("a", "b")}
        self.file = folder / "fairlane.toml"
        self.file.write_text(
            'tenants = "tenants.toml"\n[metrics]\npublic = true\n'
            f'[upstreams.one]\nurl = "{upstream}"\n{more}'
        )
        options = ("--config", str(self.file), "--workers", "3")
        self.process, self.url = life.enter_context(command(*options))

    def connect(self, name: str, tokens: int) -> http.client.HTTPConnection:
        """Send a request for a stream, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port_of(self.url), timeout=PATIENCE_S)
        body = {"model": "tiny", "prompt": "a b", "max_tokens": tokens, "stream": True}
        text = json.dumps({**body, "user": name})
        headers = {"Authorization": f"Bearer {self.keys[name]}"}
        connection.request("POST", "/v1/completions", text, headers)
        return connection

    def complete(self, name: str, tokens: int) -> tuple[int, bytes]:
        """Status and body."""
        with closing(self.connect(name, tokens)) as connection:
            answer = connection.getresponse()
            return answer.status, answer.read()

    def clients(self) -> dict[str, Any]:
        """What is told of the clients."""
        connection = http.client.HTTPConnection("127.0.0.1", port_of(self.url), timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {self.keys['a']}"}
        connection.request("GET", "/fairlane/tenants", headers=headers)
        found: dict[str, Any] = json.loads(connection.getresponse().read())["clients"]
        connection.close()
        return found

    def workers(self) -> list[int]:
        """The processes that pass bytes."""
        pid = self.process.pid
        listed = subprocess.run(
            ["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False
        )
        return [int(word) for word in listed.stdout.split()]


def test_all_share_one_queue_and_one_account(life: ExitStack, tmp_path: Path) -> None:
    """The limit of requests that run is one for all; and so are the counts."""
    pool = life.enter_context(ThreadPoolExecutor(20))
    upstream = life.enter_context(CompletionServer(hold=10**9))
    office = Office(life, tmp_path, upstream.url, "window = 6")
    answers = [pool.submit(office.complete, name, 3) for name in "ab" * 10]
    upstream.wait_for(6)
    until(lambda: sum(c["queued"] for c in office.clients().values()) == 2)
    assert {c["running"] + c["queued"] for c in office.clients().values()} == {4}
    upstream.release()
    assert [answer.result()[0] for answer in answers] == [200] * 20
    until(lambda: all(c["finished"] == 10 for c in office.clients().values()))
    assert {c["output_tokens"] for c in office.clients().values()} == {30}
    assert len(office.workers()) == 3


def test_one_that_is_killed_takes_its_requests_alone(life: ExitStack, tmp_path: Path) -> None:
    upstream = life.enter_context(CompletionServer())
    office = Office(life, tmp_path, upstream.url)
    streams = [office.connect("a", 10**6 + i) for i in range(4)]
    answers = [stream.getresponse() for stream in streams]
    for answer in answers:
        assert answer.read(500)
    until(lambda: office.clients()["a"]["output_tokens"] > 100)  # told some times a second
    before = office.workers()
    for worker in before[:2]:
        os.kill(worker, signal.SIGKILL)
    until(lambda: not set(office.workers()) & set(before[:2]))
    assert before[2] in office.workers()
    until(lambda: len(office.workers()) == 3)
    for name in ("a", "b"):
        assert office.complete(name, 3)[0] == 200
    for answer in answers:
        with suppress(http.client.HTTPException, OSError):
            answer.read(500)
        answer.close()
    for stream in streams:
        stream.close()
    until(lambda: office.clients()["a"]["running"] == 0)
    until(lambda: not upstream._running)
    a, b = (office.clients()[name] for name in "ab")
    assert (a["aborted"], a["finished"], b["finished"]) == (4, 1, 1)
    assert 100 < a["output_tokens"] <= sum(upstream.delivered.values())  # what came is charged


def test_told_to_stop_they_serve_who_is_here(life: ExitStack, tmp_path: Path) -> None:
    pool = life.enter_context(ThreadPoolExecutor(3))
    upstream = life.enter_context(CompletionServer(hold=10**9))
    office = Office(life, tmp_path, upstream.url)
    answers = [pool.submit(office.complete, "a", 3) for _ in range(3)]
    upstream.wait_for(3)
    office.process.send_signal(signal.SIGTERM)
    until(lambda: ask(office.url, "/health").status == 503)
    upstream.release()
    assert [answer.result()[0] for answer in answers] == [200] * 3
    assert office.process.wait(PATIENCE_S) == 0


def test_without_the_one_that_decides_they_end(life: ExitStack, tmp_path: Path) -> None:
    upstream = life.enter_context(CompletionServer())
    office = Office(life, tmp_path, upstream.url)
    workers = office.workers()
    office.process.kill()
    until(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers))


def test_they_take_up_other_upstreams_and_new_keys(life: ExitStack, tmp_path: Path) -> None:
    first = life.enter_context(CompletionServer())
    second = life.enter_context(CompletionServer())
    office = Office(life, tmp_path, first.url)
    office.file.write_text(office.file.read_text().replace(first.url, second.url))
    until(lambda: office.complete("a", 2)[0] == 200 and len(second.seen) > 0)
    office.keys["new"] = office.town.add("new")
    assert [office.complete("new", 2)[0] for _ in range(6)] == [200] * 6
    seen = len(first.seen)
    assert [office.complete("b", 2)[0] for _ in range(6)] == [200] * 6
    assert len(first.seen) == seen

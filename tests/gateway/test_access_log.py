"""The access log: a line for each request, on both hosts; whole, rotated, and never in the way."""

import errno
import json
import logging
import os
import resource
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.access_log import AccessLog, line_of, parse_log
from fairlane.door.visits import Visit
from tests.door.town import Town
from tests.engines.identity.site import Engine, running
from tests.gateway.site import Site, command, gateway, until
from tests.loadgen.server import CompletionServer, hang_up
from tests.processes import PATIENCE_S
from tests.simulated.engines import ask

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
LOG = logging.getLogger("tests.access_log")


def lines(file: Path, count: int) -> list[dict[str, Any]]:
    """So many lines, once they are there."""
    until(lambda: file.exists() and file.read_bytes().count(b"\n") >= count)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(found) == count
    return found


@pytest.mark.usefixtures("any_desk")
def test_the_gateway_says_what_became_of_each_request(tmp_path: Path, life: ExitStack) -> None:
    town = Town(tmp_path)
    key, poor = town.add("acme"), town.add("poor", requests_per_minute=1)
    file = tmp_path / "access.log"
    upstream = life.enter_context(CompletionServer())
    site = life.enter_context(
        gateway(upstream.url, folder=tmp_path, tenants="tenants.toml", log={"access": "access.log"})
    )
    assert site.complete(3, key)[0] == 200
    whole = {"model": "tiny", "prompt": "a b", "max_tokens": 2}
    headers = {"traceparent": TRACEPARENT}
    assert site.request("POST", "/v1/completions", whole, key, **headers)[0] == 200
    assert site.complete(1, None)[0] == 401
    assert [site.complete(1, poor)[0] for _ in range(2)] == [200, 429]
    assert site.complete(1, key, model="huge")[0] == 404
    assert site.request("GET", "/v1/models", key=key)[0] == 200
    assert site.request("GET", "/health")[0] == 200  # which has no line

    found = lines(file, 7)
    streamed, plain, unknown, _, limited, modelless, models = found
    assert streamed.items() >= {
        "tenant": "acme", "model": "tiny", "upstream": "u0", "route": "/v1/completions",
        "method": "POST", "status": 200, "code": None, "stream": True, "prompt_tokens": 3,
        "cached_tokens": 0, "output_tokens": 3, "service": 3 + 2 * 3, "outcome": "finished",
        "trace_id": None,
    }.items()  # fmt: skip
    assert 0 <= streamed["queue_s"] < streamed["first_token_s"] <= streamed["duration_s"]
    assert (plain["stream"], plain["first_token_s"], plain["trace_id"]) == (False, None, TRACE)
    told = [(one["tenant"], one["status"], one["code"], one["outcome"]) for one in found[2:]]
    assert told == [
        (None, 401, unknown["code"], "refused"),
        ("poor", 200, None, "finished"),
        ("poor", 429, "rate_limit_exceeded", "refused"),
        ("acme", 404, "model_not_found", "refused"),
        ("acme", 200, None, "finished"),
    ]
    assert (limited["service"], modelless["upstream"], models["route"]) == (
        None,
        None,
        "/v1/models",
    )
    assert streamed["time"].startswith("20")
    assert [one["time"] for one in found] == sorted(one["time"] for one in found)


@pytest.mark.usefixtures("any_desk")
def test_who_hung_up_is_told_from_what_broke(tmp_path: Path, life: ExitStack) -> None:
    file = tmp_path / "access.log"
    broken = life.enter_context(CompletionServer(faults={3: hang_up}))
    with gateway(broken.url, log={"access": str(file)}) as site:
        assert site.complete(3)[0] >= 500
    [one] = lines(file, 1)
    assert (one["outcome"], one["code"], one["upstream"]) == ("failed", "upstream_error", "u0")
    file.unlink()
    slow = life.enter_context(CompletionServer(hold=10**9))
    with gateway(slow.url, log={"access": str(file)}) as site:
        leave_one_waiting(site, slow)
        [one] = lines(file, 1)
    assert (one["outcome"], one["upstream"], one["status"]) == ("aborted", "u0", None)


def leave_one_waiting(site: Site, upstream: CompletionServer) -> None:
    """A client that hangs up once its request has reached the upstream."""
    connection = site.connect()
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True, "user": "u"}
    connection.request("POST", "/v1/completions", json.dumps(body))
    upstream.wait_for(1)
    connection.close()


def test_vllms_middleware_says_what_it_sees(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("alice")
    engine = Engine()
    engine.output_tokens, engine.cached_tokens = 7, 16
    file = tmp_path / "access.log"
    with running(town.access(), engine, access_log=str(file)) as server:
        body = {"prompt_tokens": 24, "n": 2, "model": "mine"}
        assert server.send(town.keys["alice"], body, traceparent=TRACEPARENT)[0] == 200
        assert server.send(None, body)[0] == 401
        assert server.request("GET", "/health")[0] == 200
        found = lines(file, 2)
    assert found[0].items() >= {
        "tenant": "alice", "model": "mine", "upstream": None, "status": 200, "outcome": "finished",
        "prompt_tokens": 48, "cached_tokens": 32, "output_tokens": 14, "queue_s": None,
        "service": 2 * (8 + 16 / 8 + 2 * 7), "trace_id": TRACE,
    }.items()  # fmt: skip
    assert 0 < found[0]["first_token_s"] <= found[0]["duration_s"]
    assert (found[1]["tenant"], found[1]["outcome"]) == (None, "refused")


def test_workers_write_one_log_and_a_killed_one_is_told(tmp_path: Path, life: ExitStack) -> None:
    upstream = life.enter_context(CompletionServer(hold=10**9))
    config = tmp_path / "fairlane.toml"
    config.write_text(f'[log]\naccess = "a.log"\n[upstreams.one]\nurl = "{upstream.url}"\n')
    process, url = life.enter_context(command("--config", str(config), "--workers", "2"))
    assert ask(url, "/v1/nothing").status == 404
    streaming = Site.connect(Site(None, None, url))  # type: ignore[arg-type]
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True, "user": "u"}
    streaming.request("POST", "/v1/completions", json.dumps(body))
    upstream.wait_for(1)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    first, lost = lines(tmp_path / "a.log", 2)
    streaming.close()
    assert (first["status"], first["outcome"]) == (404, "refused")
    assert lost.items() >= {
        "code": "worker_ended", "outcome": "failed", "model": "tiny", "upstream": "one",
        "tenant": "anonymous", "stream": True,
    }.items()  # fmt: skip
    assert lost["duration_s"] > 0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    told = Path(f"/proc/{pid}/task/{pid}/children")
    if not told.exists():
        pytest.skip("children are read in /proc, which Linux alone has")
    return [int(word) for word in told.read_text().split()]


# -- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a\n{"tenant": "b"}', "\u2028\u202e\x00\x1b[31m", "\ud800", '"'])
def test_a_forged_name_breaks_no_line(name: str) -> None:
    visit = Visit("POST\n", f"/v1/{name}", client=name, model=name * 10_000, code=name)
    line = line_of(visit)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 20_000
    assert json.loads(line)["tenant"] == name


def test_a_log_that_was_moved_is_left_for_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(str(file), LOG)
    log.start()
    log(Visit("GET", "/1"))
    lines(file, 1)
    file.rename(tmp_path / "access.log.1")
    log(Visit("GET", "/2"))
    assert [one["route"] for one in lines(file, 1)] == ["/2"]
    file.unlink()
    log(Visit("GET", "/3"))
    log.close()
    assert [one["route"] for one in lines(file, 1)] == ["/3"]
    assert [one["route"] for one in lines(tmp_path / "access.log.1", 1)] == ["/1"]
    assert (tmp_path / "access.log.1").stat().st_mode & 0o007 == 0  # not for everyone


def test_a_full_disk_hurts_nobody_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file may grow to 2,000 bytes: the system says so as of a full disk, amid a line."""
    file = tmp_path / "access.log"
    log = AccessLog(str(file), LOG)
    log.start()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for number in range(50):
            log(Visit("GET", f"/{number}"))
        until(lambda: "cannot be written (file too large)" in caplog.text)
        log(Visit("GET", "/again"))
        until(lambda: not log._waiting)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    log(Visit("GET", "/last"))
    log.close()
    assert caplog.text.count("cannot be written") == 1
    written = file.read_text().splitlines()
    half = written.pop(-2)  # which the next one does not go on
    with pytest.raises(ValueError, match=r"."):
        json.loads(half)
    routes = [json.loads(line)["route"] for line in written]
    assert routes == [*(f"/{number}" for number in range(len(routes) - 1)), "/last"]
    assert f"goes on; {51 - (len(routes) - 1)} lines were lost" in caplog.text


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    """Of 100,000 lines those that find no room are lost, and so is the time to close it."""
    reader, writer = os.pipe()
    kept = os.dup(1)
    os.dup2(writer, 1)
    try:
        log = AccessLog("-", LOG)
        log.start()
        for _ in range(100_000):
            log(Visit("GET", "/"))
        assert log._lost > 50_000
        log.close()
        assert os.read(reader, 10) == b'{"time": "'
    finally:
        os.dup2(kept, 1)
        for handle in (kept, writer):
            os.close(handle)
        while os.read(reader, 1 << 16):  # what its thread has yet to write
            pass
        os.close(reader)


def test_what_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FairlaneError, match=r"\[log\] access: .*cannot be opened \(is a directory"):
        AccessLog(str(tmp_path), LOG)
    assert os.strerror(errno.EISDIR).lower() == "is a directory"
    config = tmp_path / "fairlane.toml"
    config.write_text('[log]\naccess = "no/where.log"\n[upstreams.a]\nurl = "http://127.0.0.1:9"\n')
    with command("--config", str(config)) as (process, _):
        assert process.wait(PATIENCE_S) == 2


def test_where_it_goes(tmp_path: Path) -> None:
    assert parse_log({}, tmp_path) == ""
    assert parse_log({"access": "-"}, tmp_path) == "-"
    assert parse_log({"access": "x"}, tmp_path) == str(tmp_path / "x")
    for table in ({"access": ""}, {"access": 1}, {"acces": "x"}):
        with pytest.raises(FairlaneError, match="acces"):
            parse_log(table, tmp_path)

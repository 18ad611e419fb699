"""What may happen to a server or its database while it serves: little is lost, nothing doubled."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from fairlane.usage.config import Keeping
from fairlane.usage.reading import Where, report
from fairlane.usage.store import Store
from tests.gateway.site import Direct, command
from tests.simulated.engines import running
from tests.talking import until
from tests.usage.places import EVERY_S, start, town_of
from tests.usage.postgres import PASSWORD, PASSWORD_ENV, Server

TOKENS = 40


class Load:
    """Clients that ask without end; counts what they were given, and what was refused them."""

    def __init__(self, site: Direct, keys: list[str]) -> None:
        self._site = site
        self._stop = threading.Event()
        self.given = 0
        self.failed: list[int] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(key,)) for key in keys]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No more; what is under way ends."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, key: str) -> None:
        body = {"model": "tiny", "prompt": "a b", "max_tokens": TOKENS, "stream": True}
        while not self._stop.is_set():
            try:
                status, _, answer = self._site.request(
                    "POST", "/v1/completions", {**body, "ignore_eos": True}, key
                )
            except (OSError, HTTPException):  # the server is gone
                return
            with self._lock:
                if status == 200 and answer.endswith(b"[DONE]\n\n"):
                    self.given += 1
                else:
                    self.failed.append(status)


@contextmanager
def loading(site: Direct, keys: list[str]) -> Iterator[Load]:
    """A load that ends with the block."""
    load = Load(site, keys)
    try:
        yield load
    finally:
        load.end()


def kept(store: Store) -> int:
    """Output tokens in the database."""
    rows = report(store, [], Where())
    return int(rows[0]["output_tokens"]) if rows else 0


def test_a_database_that_crashes_hurts_nobody_and_misses_nothing(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While clients ask on: it is down, comes back, and holds exactly what they were given."""
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    place = {"database": postgres.database(), "password_env": PASSWORD_ENV}
    town = town_of(tmp_path)
    key = town.add("q", tokens_per_day=10**9)
    store = Keeping.parse(place, tmp_path).store()
    with ExitStack() as life:
        life.callback(store.close)
        site = start(life, tmp_path, town, usage=place)

        def metric(name: str) -> float:
            text = site.request("GET", "/metrics", key=town.keys["root"])[2].decode()
            [line] = [one for one in text.splitlines() if one.startswith(f"fairlane_usage_{name} ")]
            return float(line.split()[1])

        with loading(site, [town.keys["a"], town.keys["b"], key]) as load:
            for _ in range(2):
                before = kept(store)
                until(lambda before=before: kept(store) > before)  # type: ignore[misc]
                postgres.crash()
                until(lambda: metric("up") == 0 and metric("pending") > 0)
                asked = load.given
                until(lambda asked=asked: load.given > asked + 10)  # type: ignore[misc]
                postgres.start()
                until(lambda: metric("up") == 1)
        assert load.failed == []
        assert metric("failures_total") >= 2
        until(lambda: kept(store) == load.given * TOKENS)
        until(lambda: metric("pending") == 0)
        [row] = report(store, [], Where())
        assert row["requests"] == load.given


def test_a_server_that_is_killed_loses_seconds_and_doubles_nothing(tmp_path: Path) -> None:
    """By kill -9 in mid-load, again and again; whoever comes after it adds to what there is."""
    town = town_of(tmp_path)
    file = tmp_path / "fairlane.toml"
    with ExitStack() as life:
        engine = life.enter_context(running(max_num_seqs=8, speed=50.0, model="tiny", noise=False))
        file.write_text(
            f'tenants = "tenants.toml"\n[upstreams.u]\nurl = "{engine.url}"\n'
            f'[usage]\ndatabase = "usage.sqlite"\nevery_s = {EVERY_S}\n'
        )
        store = Store(str(tmp_path / "usage.sqlite"))
        life.callback(store.close)
        keys = [town.keys["a"], town.keys["b"]]
        with command("--config", str(file)) as (process, url):
            with loading(Direct(url), keys) as load:
                until(lambda: load.given >= 20)
            until(lambda: kept(store) == load.given * TOKENS)  # all of it, while it lives
            sure = kept(store)
            with loading(Direct(url), keys):
                until(lambda: kept(store) >= sure + 20 * TOKENS)
                process.kill()
                process.wait()
        left = kept(store)
        assert sure + 20 * TOKENS <= left <= engine.engine.counts.generation_tokens
        with command("--config", str(file)) as (process, url):
            with loading(Direct(url), keys) as load:
                until(lambda: load.given >= 20)
            process.terminate()
            process.wait()
        assert kept(store) == left + load.given * TOKENS

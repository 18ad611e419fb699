"""Usage and quotas of a vLLM server: what its schedulers tell, and what its door refuses."""

import json
from pathlib import Path

import pytest

from fairlane.usage.config import Keeping
from tests.engines.identity.site import Engine, Town, running
from tests.talking import bearer, until
from tests.usage.places import EVERY_S, kept


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping.parse({"database": "usage.sqlite", "every_s": EVERY_S}, tmp_path)


def test_what_schedulers_tell_is_kept_once(tmp_path: Path, keeping: Keeping) -> None:
    """Under the served name, or the adapter's; by the first API server; up to the end."""
    town, engine = Town.with_all(tmp_path), Engine()
    engine.tally.take()
    with running(town.access(), engine, usage=keeping) as server:
        assert server.exit_status is None
        for _ in range(3):
            engine.tally.add("alice", "", requests=1, output_tokens=5, service=10.0)
            engine.tally.add("bob", "adapter", requests=1, input_tokens=7, service=7.0)
        until(lambda: len(kept(tmp_path / "usage.sqlite", "tenant")) == 2)
        _, _, body = server.request("GET", "/fairlane/usage?by=model", bearer(town.keys["alice"]))
        assert [row["model"] for row in json.loads(body)["rows"]] == ["m"]
        _, _, body = server.request("GET", "/fairlane/me", bearer(town.keys["bob"]))
        assert json.loads(body)["usage"]["month"]["input_tokens"] == 21
        text = server.request("GET", "/metrics", bearer(town.keys["root"]))[2]
        assert "fairlane_usage_up 1.0" in text
        engine.tally.add("alice", "", output_tokens=2)
    rows = {(r["tenant"], r["model"]): r for r in kept(keeping.database or "", "tenant", "model")}
    assert rows["alice", "m"]["output_tokens"] == 17
    assert rows["bob", "adapter"]["requests"] == 3


def test_another_api_server_takes_nothing(tmp_path: Path, keeping: Keeping) -> None:
    town, engine = Town.with_all(tmp_path), Engine()
    town.add("narrow", requests_per_minute=1)
    engine.client_count, engine.client_index = 2, 1
    engine.tally.take()
    with running(town.access(), engine, usage=keeping) as server:
        engine.tally.add("alice", "", requests=1)
        assert server.send(town.keys["narrow"])[0] == 200
        assert server.send(town.keys["narrow"])[0] == 429
    [row] = kept(tmp_path / "usage.sqlite", "tenant")
    assert (row["tenant"], row["refused"]) == ("narrow", {"requests_per_minute": 1})
    assert engine.tally.take().used


def test_quotas_hold_at_the_middleware(tmp_path: Path, keeping: Keeping) -> None:
    """A hard one refuses; of a soft one the schedulers hear, and of its end."""
    town, engine = Town.with_all(tmp_path), Engine()
    hard = town.add("hard", tokens_per_day=100)
    soft = town.add("soft", weight=4.0, soft_cost_per_day=100.0)
    engine.tally.take()
    with running(town.access(), engine, usage=keeping) as server:
        assert server.send(hard)[0] == server.send(soft)[0] == 200
        for name in ("hard", "soft"):
            engine.tally.add(name, "", input_tokens=100, service=100.0)
        until(lambda: server.send(hard)[0] == 429)
        status, headers, answer = server.send(hard)
        assert (status, answer["error"]["code"]) == (429, "quota_exceeded")
        assert (headers["x-should-retry"], headers["x-ratelimit-remaining-tokens-day"]) == (
            "false", "0",
        )  # fmt: skip
        until(lambda: engine.weights.get("soft") == pytest.approx(0.4))
        assert server.send(soft)[0] == 200
        town.add("soft", weight=4.0, soft_cost_per_day=1000.0)
        until(lambda: server.send(town.keys["soft"])[0] == 200 and engine.weights["soft"] == 4.0)

"""Quotas at a gateway: a hard one refuses, a soft one yields; by clock, group and server."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.tenants import Role
from fairlane.gateway.config import GatewayConfig
from tests.door.town import Town
from tests.gateway.site import Site
from tests.talking import until
from tests.usage.places import start, town_of

EVENING = datetime(2026, 3, 31, 23, 59, 50, tzinfo=UTC).timestamp()


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = EVENING

    def __call__(self) -> float:
        return self.now


def asks(site: Site, key: str, tokens: int = 20) -> tuple[int, dict[str, str], Any]:
    """Status, headers and, of a refusal, the error."""
    status, headers, body = site.complete(tokens, key, ignore_eos=True)
    return status, headers, json.loads(body)["error"] if status != 200 else None


def me(site: Site, key: str) -> Any:
    return json.loads(site.request("GET", "/fairlane/me", key=key)[2])


@pytest.mark.usefixtures("any_desk")
@pytest.mark.parametrize("period", ["day", "month"])
def test_a_hard_quota_refuses_until_the_next_period(tmp_path: Path, period: str) -> None:
    town, clock = town_of(tmp_path), Clock()
    limits: dict[str, Any] = {f"tokens_per_{period}": 50}
    key = town.add("q", **limits)
    with ExitStack() as life:
        site = start(life, tmp_path, town, clock=clock)
        status, headers, _ = asks(site, key)
        assert (status, headers[f"x-ratelimit-limit-tokens-{period}"]) == (200, "50")
        while status == 200:
            status, headers, error = asks(site, key)
        assert (status, error["code"], error["type"]) == (
            429, "quota_exceeded", "insufficient_quota",
        )  # fmt: skip
        assert (headers["retry-after"], headers["x-should-retry"]) == ("10", "false")
        assert headers[f"x-ratelimit-remaining-tokens-{period}"] == "0"
        assert headers[f"x-ratelimit-reset-tokens-{period}"] == "10s"
        [quota] = me(site, key)["quotas"]
        assert (quota["remaining"], quota["reset"]) == (0, "2026-04-01T00:00:00Z")
        assert asks(site, town.keys["a"])[0] == 200  # nobody else is concerned
        clock.now += 10
        status, headers, _ = asks(site, key)
        assert status == 200
        assert int(headers[f"x-ratelimit-remaining-tokens-{period}"]) == 50
        refused = site.clients(town.keys["root"])["q"]["rejected"]
        assert refused == {f"tokens_per_{period}": 1}


def test_openais_client_does_not_try_again_in_vain(tmp_path: Path) -> None:
    """Others would be refused as often as it is told to try: three times."""
    town = town_of(tmp_path)
    key = town.add("q", tokens_per_day=10)
    with ExitStack() as life:
        site = start(life, tmp_path, town)
        until(lambda: asks(site, key)[0] == 429)
        refused = site.clients(town.keys["root"])["q"]["rejected"]["tokens_per_day"]
        client = openai.OpenAI(api_key=key, base_url=f"{site.url}/v1", max_retries=2)
        life.callback(client.close)
        with pytest.raises(openai.RateLimitError, match="quota") as caught:
            client.completions.create(model="tiny", prompt="a", max_tokens=5)
        assert caught.value.code == "quota_exceeded"
        rejected = site.clients(town.keys["root"])["q"]["rejected"]
        assert rejected == {"tokens_per_day": refused + 1}


def test_a_month_goes_on_where_a_day_begins_anew(tmp_path: Path) -> None:
    """And after a restart, whatever the server before it had served."""
    town, clock = town_of(tmp_path), Clock()
    clock.now -= 86400
    key = town.add("q", tokens_per_day=40, cost_per_month=150.0)
    for _ in range(2):
        with ExitStack() as life:
            site = start(life, tmp_path, town, clock=clock)
            while asks(site, key)[0] == 200:
                pass
            used = {quota["quota"]: quota["used"] for quota in me(site, key)["quotas"]}
        clock.now += 10
    assert used["tokens_per_day"] < 80 <= used["cost_per_month"]


def test_a_group_has_what_its_members_spend_at_all_servers(tmp_path: Path) -> None:
    town = town_of(tmp_path)
    town.add("team", tokens_per_day=60)
    one, other = town.add("one", parent="team"), town.add("other", parent="team")
    with ExitStack() as life:
        here, there = (start(life, tmp_path, town) for _ in range(2))
        until(lambda: asks(here, one)[0] == 429)
        until(
            lambda: asks(there, other)[0] == 429
        )  # it has served the other member hardly anything
        [quota] = me(there, other)["quotas"]
        assert (quota["of"], quota["remaining"]) == ("team", 0)
        town.add("team", tokens_per_day=1_000_000)
        assert asks(there, other)[0] == 200  # a changed file holds at once


@pytest.mark.parametrize(
    ("scheduler", "usage", "limits", "said"),
    [
        ("vtc", {}, {"tokens_per_day": 5}, "q has a quota, which needs a database of usage"),
        ("rpm", {"database": "u"}, {"soft_cost_per_day": 5.0}, "rpm has no weights, but q has a"),
        ("rpm", {"database": "u"}, {"cost_per_day": 5.0}, ""),
        ("drr", {"database": "u"}, {"soft_cost_per_month": 5.0}, ""),
    ],
)
def test_a_quota_that_cannot_hold_is_refused(
    tmp_path: Path, scheduler: str, usage: dict[str, str], limits: dict[str, Any], said: str
) -> None:
    Town(tmp_path).add("q", **limits)
    document = {"scheduler": {"name": scheduler}, "tenants": "tenants.toml", "usage": usage}
    if not said:
        assert GatewayConfig.parse(document, tmp_path).access.warning == ""
        return
    with pytest.raises(FairlaneError, match=said):
        GatewayConfig.parse(document, tmp_path)


def test_a_quota_that_comes_later_and_cannot_hold_is_said(tmp_path: Path) -> None:
    """In a changed file of tenants, and under the order that is there to compare with."""
    town = Town(tmp_path)
    town.add("q", soft_tokens_per_day=5)
    document = {"scheduler": {"name": "fcfs"}, "tenants": "tenants.toml"}
    usage = {"database": "usage.sqlite"}
    config = GatewayConfig.parse({**document, "usage": usage}, tmp_path)
    assert "the soft quota of q is ignored: the scheduler fcfs" in config.access.warning
    town.add("q")
    config = GatewayConfig.parse(document, tmp_path)
    assert config.access.warning == ""
    town.add("q", tokens_per_month=5)
    assert config.access.warning == "the quota of q is ignored: quotas need [usage]"


def test_whoever_is_no_tenant_has_the_quota_of_all_such(tmp_path: Path) -> None:
    """Each one of its own, also after a restart."""
    town = Town(tmp_path)
    gate = town.add("gate", role=Role.GATEWAY)

    def status(site: Site, name: str) -> int:
        body = {"model": "tiny", "prompt": "a b", "max_tokens": 9, "stream": True}
        return site.request("POST", "/v1/completions", body, gate, X_Fairlane_Client=name)[0]

    def until_refused(*names: str) -> None:
        with ExitStack() as life:
            site = start(life, tmp_path, town, limits={"tokens_per_day": 30})
            until(lambda: {status(site, name) for name in names} == {429})
            assert status(site, "z") == 200

    until_refused("x", "y")
    until_refused("x")


def flood(site: Site, keys: list[str], count: int, ended: list[str]) -> None:
    """So many requests of each key, in turn, at once; notes whose ended, in order."""

    def one(key: str) -> None:
        status, _, _ = site.complete(40, key, ignore_eos=True)
        assert status == 200
        ended.append(key)

    work = keys * count
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(one, work))


@pytest.mark.slow
@pytest.mark.parametrize("beyond", [True, False])
def test_a_soft_quota_yields_to_who_waits_and_to_nobody_else(tmp_path: Path, beyond: bool) -> None:
    """Alone, whoever is beyond it gets all there is; beside another, a tenth of that one's part."""
    town = town_of(tmp_path)
    limit = 100 if beyond else 10_000_000
    key = town.add("q", soft_tokens_per_day=limit)
    with ExitStack() as life:
        site = start(life, tmp_path, town, speed=3.0, window=8)
        flood(site, [key], 4, [])
        until(lambda: me(site, key)["weight"] == (0.1 if beyond else 1.0))
        alone = threading.Thread(target=flood, args=(site, [key], 24, []))
        alone.start()  # nobody else waits: it is refused nothing, and has the whole window
        until(lambda: site.upstreams(town.keys["root"])["u0"]["in_flight"] == 8)
        alone.join()
        together: list[str] = []
        flood(site, [key, town.keys["a"]], 48, together)
    others = [i for i, whose in enumerate(together) if whose != key]
    before = sum(whose == key for whose in together[: others[-1]])
    if beyond:
        assert before <= 24  # of 48; a tenth of the part, and what ran before the other came
    else:
        assert before >= 36

"""vLLM's schedulers that share what they charge: who is served by all of them together."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine import Delivered, make_request, make_scheduler, run, step

WEIGHTS = "[weights]\na = 4.0\n"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the configuration that the next scheduler reads."""
    path = tmp_path / "fairlane.toml"

    def write(text: str) -> None:
        path.write_text(text)
        monkeypatch.setenv("FAIRLANE_CONFIG", str(path))

    write(WEIGHTS)
    return write


def sharing(**options: Any) -> Any:
    scheduler = make_scheduler(**options)
    assert scheduler.fairlane_share() == ""
    return scheduler


def offer(scheduler: Any, *clients: str, count: int = 2000) -> None:
    for number in range(count):
        for client in clients:
            scheduler.add_request(make_request(f"{client}-{number}", client))


def exchange(schedulers: list[Any], unheard: list[Counter[str]]) -> None:
    """Each hears what the others charged until now."""
    for mine, scheduler in enumerate(schedulers):
        heard, unheard[mine] = dict(unheard[mine]), Counter()
        charged = scheduler.fairlane_swap(heard, len(schedulers), {})
        for other in range(len(schedulers)):
            if other != mine:
                unheard[other].update(charged)


def served_in_all(every: int | None, steps: int = 3000, **options: Any) -> float:
    """Tokens of `a`, which waits at two schedulers, for each of `b`, which waits at one.

    every: steps between exchanges; None for none.
    """
    schedulers = [sharing(**options), sharing(**options)]
    offer(schedulers[0], "a", "b")
    offer(schedulers[1], "a")
    unheard: list[Counter[str]] = [Counter(), Counter()]
    delivered = Delivered()
    for number in range(steps):
        for scheduler in schedulers:
            step(scheduler, delivered)
        if every is not None and number % every == 0:
            exchange(schedulers, unheard)
    totals: Counter[str] = Counter()
    for request_id, count in delivered.items():
        totals[request_id[0]] += count
    return totals["a"] / totals["b"]


@pytest.mark.parametrize("run_ahead", [False, True])
def test_weights_divide_the_service_of_all_schedulers(run_ahead: bool) -> None:
    assert served_in_all(4, run_ahead=run_ahead) == pytest.approx(4.0, rel=0.1)


def test_schedulers_that_do_not_hear_each_other_divide_their_own() -> None:
    assert served_in_all(None) == pytest.approx(9.0, rel=0.1)


def order(scheduler: Any, exchanges: bool) -> list[str]:
    """Who is served, step by step."""
    offer(scheduler, "a", "b", "c", count=40)
    found: list[str] = []
    for number in range(120):
        if number == 60:
            offer(scheduler, "d", count=10)
        batch = step(scheduler)
        found += sorted(batch.num_scheduled_tokens)
        if exchanges:
            scheduler.fairlane_swap({}, 1, {})
    return found


def test_one_that_hears_nothing_serves_as_if_it_stood_alone() -> None:
    assert order(sharing(), exchanges=True) == order(make_scheduler(), exchanges=False)


def test_what_is_charged_is_told_once() -> None:
    scheduler = sharing()
    offer(scheduler, "a", "b", count=3)
    told = Counter(scheduler.fairlane_swap({}, 1, {}))
    for _ in range(20):
        step(scheduler)
        told.update(scheduler.fairlane_swap({}, 1, {}))
    run(scheduler, Delivered())
    told.update(scheduler.fairlane_swap({}, 1, {}))
    rows = scheduler.fairlane_snapshot()["clients"]
    assert told == {name: row["service"] for name, row in rows.items()}
    assert told.total() == 6 * (32 + 2 * 16)
    assert scheduler.fairlane_swap({}, 1, {}) == {}


def test_a_snapshot_says_how_sharing_goes_and_promises_nothing_for_one_alone() -> None:
    scheduler = sharing(blocks=64)
    before = scheduler.fairlane_snapshot()
    assert before["bound"] is not None
    assert before["cluster"]["schedulers"] == 1
    scheduler.fairlane_swap({"a": 8.0, "b": -2.0}, 3, {"age_s": 0.5, "stale": 100.0})
    after = scheduler.fairlane_snapshot()
    assert after["bound"] is None
    unit = before["bound"] / 2
    told = after["cluster"]
    assert (told["schedulers"], told["heard"], told["max_debt"]) == (3, 8.0, 1.5 * 3 * unit)
    assert told["bound"] == told["max_debt"] + 3 * unit + 200.0
    assert told["age_s"] >= 0.5


def test_a_light_client_may_owe_more(config: Any) -> None:
    config(WEIGHTS + "c = 0.5\n")
    scheduler = sharing()
    debt = scheduler.fairlane_snapshot()["cluster"]["max_debt"]
    scheduler.fairlane_set_weights({"d": 0.25})
    assert scheduler.fairlane_snapshot()["cluster"]["max_debt"] == 2 * debt


def test_what_is_configured_holds(config: Any) -> None:
    config(WEIGHTS + "[cluster]\nmax_debt = 500\n")
    scheduler = sharing()
    scheduler.fairlane_swap({}, 7, {})
    assert scheduler.fairlane_snapshot()["cluster"]["max_debt"] == 500


def test_who_cannot_share_says_why(config: Any) -> None:
    assert "priority" in make_scheduler(policy="priority").fairlane_share()
    config('[scheduler]\nname = "drr"\n')
    assert "cannot share" in make_scheduler().fairlane_share()
    config("")
    late = make_scheduler()
    offer(late, "a", count=1)
    assert "before its first request" in late.fairlane_share()


def test_every_api_server_may_ask_it_to_share() -> None:
    scheduler = sharing()
    offer(scheduler, "a", count=1)
    assert scheduler.fairlane_share() == ""

"""What a scheduler that shares keeps to, and what servers tell each other."""

import json
from typing import Any

import pytest

from fairlane.cluster.config import Cluster
from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.core.types import Request
from fairlane.door.books import Books
from fairlane.door.sharing import Sharing, tell, told, where
from tests.driving import fresh

UNIT = 1000.0


def books(policy: Policy[Any] | None = None) -> Books:
    cost = LinearCost()
    return Books(policy or fresh("vtc"), Auditor(cost=cost), cost, lambda: 0.0)


def sharing(weights: dict[str, float] | None = None, **settings: Any) -> Sharing:
    return Sharing(books(), Cluster(**settings), UNIT, {} if weights is None else weights)


def serve(kept: Books, request_id: str, client: str, prompt: int = 10) -> None:
    kept.arrive(Request(request_id, client, prompt))
    kept.admit(request_id, 0)


def test_a_client_may_owe_what_all_schedulers_may_be_ahead_and_half_more() -> None:
    one = sharing()
    assert one.report(0.0)["max_debt"] == 1.5 * UNIT
    one.swap({}, 4)
    assert one.report(0.0)["max_debt"] == 1.5 * 4 * UNIT
    assert one.report(50.0)["bound"] == 1.5 * 4 * UNIT + 4 * UNIT + 2 * 50


@pytest.mark.parametrize(
    ("weights", "least"), [({}, 1.0), ({"a": 4.0}, 1.0), ({"a": 0.5, "b": 0.25}, 0.25)]
)
def test_debts_are_per_weight(weights: dict[str, float], least: float) -> None:
    report = sharing(weights).report(50.0)
    assert report["max_debt"] == 1.5 * UNIT / least
    assert report["bound"] == (1.5 * UNIT + UNIT + 100) / least


def test_what_is_configured_comes_first() -> None:
    one = sharing(max_debt=77.0)
    one.swap({}, 9)
    assert one.report(0.0)["max_debt"] == 77.0


def test_limits_hold_in_the_policy() -> None:
    kept = books()
    one = Sharing(kept, Cluster(guard=0.0), UNIT, {})
    for client in "ab":
        for number in range(9):
            kept.arrive(Request(f"{client}{number}", client, 10))
    one.swap({"a": 1e6}, 2)
    assert kept.standing("a0")[0] - kept.standing("b0")[0] == 1.5 * 2 * UNIT


def test_who_heard_nothing_is_as_if_it_stood_alone() -> None:
    one = sharing()
    one.swap({}, 3)
    assert not one.has_heard
    one.swap({"a": 1.0}, 3)
    assert one.has_heard


def test_a_policy_that_cannot_share_is_refused() -> None:
    with pytest.raises(FairlaneError, match="cannot share"):
        Sharing(books(fresh("fcfs")), Cluster(), UNIT, {})


def test_a_policy_that_raises_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = fresh("vtc")
    kept = books(policy)
    one = Sharing(kept, Cluster(), UNIT, {})
    serve(kept, "1", "a")
    for name in ("hear", "take_charges", "set_max_debt"):
        monkeypatch.setattr(policy, name, lambda *_: 1 / 0)
    assert one.swap({"a": 1.0}, 2) == {}
    assert kept.errors == 3
    monkeypatch.undo()
    assert one.swap({}, 2) == {"a": 10.0}


def test_a_log_shows_the_hub_and_no_password() -> None:
    url = "redis://me:secret@[::1]:7000/3"
    assert where(Cluster(hub=url, pool="p")) == "pool p at redis://[::1]:7000 every 0.2 s"
    plain = where(Cluster(hub="rediss://hub.example.com", pool="p", every_s=1))
    assert plain == "pool p at rediss://hub.example.com:6379 every 1 s"


# -- what servers tell each other ------------------------------------------------------------


def test_a_part_is_of_those_served_most_with_what_is_under_way() -> None:
    kept = books()
    for number in range(5):
        serve(kept, f"{number}", f"c{number}", 10 * (number + 1))
    kept.arrive(Request("waits", "c4", 10))
    kept.delivered({"4": 3})
    kept.delivered({"3": 1})
    kept.snapshot()
    part = kept.part(2)
    assert list(part) == ["c4", "c3"]
    assert part["c4"]["service"] == 50 + 3 * 2
    assert (part["c4"]["queued"], part["c4"]["running"], part["c4"]["output_tokens"]) == (1, 1, 3)
    assert part == {name: kept.part(10)[name] for name in part}
    full = kept.snapshot()["clients"]
    assert all(full[name][key] == row[key] for name, row in part.items() for key in row)


def test_ranks_are_told_together_and_the_last_start_counts() -> None:
    old = tell("s", 1.0, [{"a": {"service": 9.0}}])
    new = tell("s", 2.0, [{"a": {"service": 1.0}}, {"a": {"service": 2.0}, "b": {"queued": 1.0}}])
    other = tell("t", 0.0, [{}])
    for posts in ({"x": old, "y": new, "z": other}, {"x": new, "y": old, "z": other}):
        assert told(posts) == {"s": {"a": {"service": 3.0}, "b": {"queued": 1.0}}, "t": {}}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '{"server": "s", "started": 1}', '{"clients": {}}',
     '{"server": "s", "started": 1, "clients": []}',
     '{"server": "s", "started": "x", "clients": {}}',
     '{"server": "s", "started": 1, "clients": {"a": 7}}',
     '{"server": "s", "started": 1, "clients": {"a": {"service": "much"}}}',
     '{"server": "s", "started": 1, "clients": {"a": {"service": [1]}}}',
     '{"server": "s", "started": 1, "clients": {"a": {"service": NaN}}}',
     '{"server": "s", "started": 1, "clients": {"a": {"service": 1' + "0" * 400 + "}}}",
     "[" * 100_000],
)  # fmt: skip
def test_what_is_no_word_of_a_server_is_passed_over(text: str) -> None:
    good = json.dumps({"server": "t", "started": 1, "clients": {}})
    assert told({"x": text, "y": good}) == {"t": {}}

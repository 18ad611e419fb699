"""Requests that belong together go to one upstream while it has room; nobody starves for it."""

import json
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.types import Outcome, Request
from tests.gateway.site import gateway
from tests.gateway.test_pool import Clock, make_pool
from tests.loadgen.server import CompletionServer


def sent_to(sticky: dict[str, Any], bodies: list[dict[str, Any]], **headers: str) -> list[int]:
    """The upstreams, of three, that got these requests, one after the other."""
    with ExitStack() as life:
        upstreams = [life.enter_context(CompletionServer()) for _ in range(3)]
        site = life.enter_context(gateway(*(one.url for one in upstreams), gateway=sticky))
        found = []
        for body in bodies:
            before = [len(one.seen) for one in upstreams]
            asked = {"model": "tiny", "max_tokens": 2, "stream": True, "user": "u", **body}
            assert site.request("POST", "/v1/completions", asked, **headers)[0] == 200
            after = [len(one.seen) for one in upstreams]
            [at] = [i for i in range(3) if after[i] > before[i]]
            found.append(at)
        return found


def test_a_session_stays_where_it_is() -> None:
    named = [{"prompt": f"{i} a", "prompt_cache_key": f"s{i % 6}"} for i in range(30)]
    places = sent_to({"sticky": "session"}, named)
    assert places == places[:6] * 5
    assert len(set(places)) > 1
    plain = [{"prompt": "a"}] * 6
    assert len(set(sent_to({"sticky": "session"}, plain, X_Session_Id="mine"))) == 1
    own = {"sticky": "session", "session_header": "X-Talk"}
    assert len(set(sent_to(own, plain, X_Talk="mine"))) == 1


def test_who_begins_alike_goes_to_the_same_place() -> None:
    systems = [f"You are helper {i}. " + "x" * 300 for i in range(6)]
    bodies = [{"prompt": systems[i % 6] + f" question {i}"} for i in range(30)]
    places = sent_to({"sticky": "prefix"}, bodies)
    assert places == places[:6] * 5
    assert len(set(places)) > 1


def test_one_upstream_more_or_less_moves_few_sessions() -> None:
    def places(*lanes: str) -> dict[str, str]:
        pool = make_pool(Clock(), dict.fromkeys(lanes, 10**6))
        for number in range(600):
            pool.arrive(Request(f"s{number}", "c", 1), 1, session=f"s{number}")
        return {turn.id: turn.lane.name for turn in pool.turns()}

    three, four = places("a", "b", "c"), places("a", "b", "c", "d")
    moved = Counter(four[s] for s in three if three[s] != four[s])
    assert set(moved) == {"d"}
    assert 100 < moved["d"] < 200
    assert min(Counter(three.values()).values()) > 150


def test_a_full_upstream_lets_others_go_first_and_keeps_its_sessions() -> None:
    """One is full: whoever belongs to the other goes first, and who stood back is next there."""
    pool = make_pool(Clock(), {"a": 1, "b": 1}, "fcfs")
    own = {"a": [], "b": []}  # type: dict[str, list[str]]
    for number in range(24):
        request = Request(f"r{number}", "c", 1)
        pool.arrive(request, 1, session=f"s{number}")
        lane = pool._own_lane(pool._live[f"r{number}"])
        assert lane is not None
        own[lane.name].append(f"r{number}")
    went: dict[str, list[str]] = {"a": [], "b": []}
    running = {turn.lane.name: turn.id for turn in pool.turns()}
    for _ in range(12):
        for name, request_id in list(running.items()):
            went[name].append(request_id)
            pool.end(request_id, Outcome.FINISHED)
            for turn in pool.turns():
                running[turn.lane.name] = turn.id
    least = min(len(own["a"]), len(own["b"]))
    assert least > 5
    for name in ("a", "b"):
        assert went[name][:least] == own[name][:least]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=40))
def test_nobody_idles_or_starves_for_it(arrivals: list[tuple[str, int]]) -> None:
    """Whatever the sessions, room is used at once, and all are served."""
    pool = make_pool(Clock(), {"one": 2, "two": 1})
    running: list[str] = []
    served = 0
    for number, (client, session) in enumerate(arrivals):
        pool.arrive(Request(f"{client}-{number}", client, 3), 5, session=f"s{session}")
        running += [turn.id for turn in pool.turns()]
        assert len(running) == min(3, pool.waiting + pool.running)
        if number % 3 == 2:
            pool.end(running.pop(0), Outcome.FINISHED)
            served += 1
            running += [turn.id for turn in pool.turns()]
            assert pool.waiting == 0 or len(running) == 3
    while running:
        pool.end(running.pop(0), Outcome.FINISHED)
        served += 1
        running += [turn.id for turn in pool.turns()]
    assert served == len(arrivals)
    counters = [row["counter"] for row in pool.books.snapshot()["clients"].values()]
    assert all(counter is None or counter >= 0 for counter in counters)


@pytest.mark.parametrize(
    ("gateway_table", "said"),
    [
        ({"sticky": "often"}, "sticky must be"),
        ({"session_header": "x-a"}, 'session_header is for sticky = "session"'),
        ({"sticky": "session", "session_header": "authorization"}, "cannot be a header of yours"),
    ],
)
def test_what_cannot_be_is_refused(gateway_table: dict[str, Any], said: str) -> None:
    from fairlane.core.errors import FairlaneError

    with (
        CompletionServer() as upstream,
        pytest.raises(FairlaneError, match=json.dumps(said)[1:-1].replace('\\"', '"')),
        gateway(upstream.url, gateway=gateway_table),
    ):
        pass

"""Quantiles of first-token latencies: near the truth, of the last minute, in bounded memory."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.door import first_tokens as module
from fairlane.door.first_tokens import FirstTokens

TIMES = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.001, 600)), min_size=1, max_size=60)


@given(TIMES, st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_a_quantile_is_near_the_truth(times: list[tuple[str, float]], part: float) -> None:
    found = FirstTokens()
    for client, seconds in times:
        found.saw(client, seconds, 1000.0)
    for of in ("a", "b", "ab"):
        exact = sorted(seconds for client, seconds in times if client in of)
        [told] = found.quantiles(of, [part], 1000.0)
        if exact:
            assert told == pytest.approx(exact[math.ceil(part * len(exact)) - 1], rel=0.026)
        else:
            assert told is None


def test_only_the_last_minute_counts() -> None:
    found = FirstTokens()
    found.saw("a", 9.0, 100.0)
    found.saw("a", 1.0, 130.0)
    assert found.quantiles(["a"], [1.0], 155.0)[0] == pytest.approx(9.0, rel=0.03)
    assert found.quantiles(["a"], [1.0], 170.0)[0] == pytest.approx(1.0, rel=0.03)
    assert found.quantiles(["a"], [0.5, 0.99], 195.0) == [None, None]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By clients, of which idle ones make room, and for each by what can be told apart."""
    monkeypatch.setattr(module, "_CLIENTS", 10)
    found = FirstTokens()
    for i in range(30):
        found.saw(f"c{i}", 1.0, 100.0)
    assert found.quantiles(["c9"], [0.5], 100.0) != [None]
    assert found.quantiles(["c10"], [0.5], 100.0) == [None]
    for i in range(20_000):
        found.saw("new", 10.0 ** (i % 9 - 5), 200.0 + i / 10)
    assert len(found._clients) == 1
    minute = found._clients["new"]
    assert len(minute.slots) <= 13
    assert len(minute.total) <= 9
    assert minute.total.total() <= 13 * 50

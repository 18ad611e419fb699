"""The window finds an engine's size, keeps few waiting inside, and follows changes."""

import pytest

from fairlane.gateway.window import Bounds, Window
from tests.gateway.engine_model import SlotEngine, run

SIZES = (16, 64, 256)


@pytest.mark.parametrize("slots", SIZES)
@pytest.mark.parametrize("start", [4, 512])
@pytest.mark.parametrize("tells", [True, False])
def test_slots_stay_busy_and_few_wait_inside(slots: int, start: int, tells: bool) -> None:
    found = run(Window(Bounds(start)), SlotEngine(slots), seconds=120, tells=tells)
    assert found.busy > 0.98
    assert found.waiting < (8 if tells else max(8, slots / 6))


@pytest.mark.parametrize("slots", SIZES)
@pytest.mark.parametrize("streamed", [1.0, 0.5, 0.1])
def test_what_is_seen_of_some_streams_does_for_all_and_for_long(
    slots: int, streamed: float
) -> None:
    """From outside; the rest of the answers come whole. Errors must not add up over minutes."""
    found = run(Window(), SlotEngine(slots), seconds=400, tells=False, streamed=streamed)
    assert found.busy > 0.98
    assert found.waiting < max(8, slots / 6)


def test_where_nothing_can_be_seen_it_stays_and_says_so() -> None:
    window = Window()
    found = run(window, SlotEngine(64), seconds=60, tells=False, streamed=0.0)
    assert {size for _, size in found.sizes} == {8}
    assert window.blind
    run(told := Window(), SlotEngine(64), seconds=60, tells=True, streamed=0.0)
    assert not told.blind


def test_a_moment_without_streams_is_no_blindness() -> None:
    """Such as before an engine was asked for the first time."""
    window = Window()
    for tick in range(100):
        window.adjust(queued=True, now=tick * 0.02)
    assert not window.blind


def test_a_fixed_window_is_never_drained_to_learn() -> None:
    window, now = Window(Bounds.fixed(4)), 0.0
    for _ in range(1000):
        for _ in range(window.room(now)):
            window.sent(now)
        assert window.in_flight == 4
        now += 0.1
        window.first_token(0.1)
        window.adjust(queued=True, now=now)
        window.ended(now, flowed=True, token_s=0.01)


@pytest.mark.parametrize("size", [48, 256])
def test_a_fixed_window_of_another_size_idles_or_lets_requests_wait(size: int) -> None:
    """The control: what is asserted above is no property of any window."""
    found = run(Window(Bounds.fixed(size)), SlotEngine(64), seconds=120, tells=True)
    assert found.busy < 0.8 or found.waiting > 100


@pytest.mark.parametrize("tells", [True, False])
def test_a_change_of_capacity_is_followed_within_seconds(tells: bool) -> None:
    for before, after in ((64, 24), (24, 64)):
        window, change = Window(), (60.0, after)
        found = run(window, SlotEngine(before), seconds=120, tells=tells, change=change)
        near = [t for t, size in found.sizes if t > 60 and abs(size - after) < 0.15 * after]
        assert near[0] < 68
        assert found.busy > 0.95


@pytest.mark.parametrize("tells", [True, False])
def test_memory_limits_as_slots_do(tells: bool) -> None:
    engine = SlotEngine(64, memory=10_000)
    found = run(Window(), engine, seconds=120, tells=tells, prompt=600)
    assert found.waiting < 8
    assert 10 <= found.sizes[-1][1] <= 24  # about 10,000 / (600 + half an answer)


def test_a_window_that_nobody_fills_does_not_grow() -> None:
    window = Window()
    for second in range(100):
        window.told(1, 0, second)
        window.adjust(queued=False, now=second)
    assert window.size == 8


def test_what_filled_the_engine_before_is_given_at_once() -> None:
    """Others fill it for a while, and are gone: no climb from the bottom."""
    window = Window(Bounds(start=64))
    window.told(running=64, waiting=60, now=1.0)  # of others
    window.adjust(queued=True, now=1.0)
    assert window.size == 1
    window.told(running=1, waiting=0, now=3.0)
    window.adjust(queued=True, now=3.0)
    assert window.size == 64 + 2 - 1  # one of others still runs
    window.told(running=24, waiting=40, now=6.0)  # there is less room now
    for _ in range(64):
        window.sent(6.0)
    window.adjust(queued=True, now=6.0)
    assert window.size == 24 + 2


def test_a_queue_that_is_empty_for_a_moment_opens_no_gates() -> None:
    window = Window(Bounds(start=66))
    for _ in range(66):
        window.sent(0.0)
    sizes = []
    for second, waiting in enumerate((2, 0, 2, 0, 0, 3, 0, 0, 0, 0)):
        window.told(running=64, waiting=waiting, now=second)
        window.adjust(queued=True, now=second)
        sizes.append(window.size)
    assert sizes[:8] == [66, 67, 67, 68, 69, 68, 69, 70]
    assert sizes[8:] == [70 * 1.25, 70 * 1.25**2]  # there is more room than before


def test_requests_of_others_on_the_engine_are_not_ours() -> None:
    window = Window(Bounds(start=32))
    for _ in range(32):
        window.sent(0.0)
    window.told(running=64, waiting=40, now=1.0)  # 32 of the 104 are ours
    window.adjust(queued=True, now=1.0)
    assert window.size == 1  # they fill it; we never stop sending


def test_an_engine_that_turns_away_gets_half_after_a_while() -> None:
    window = Window(Bounds(start=32))
    window.turned_away(retry_after_s=3.0, now=10.0)
    assert window.room(12.9) == 0
    assert window.room(13.0) == 16


def test_bounds_hold() -> None:
    window = Window(Bounds(start=4, least=2, greatest=6))
    for _ in range(10):
        window.turned_away(0.0, 0.0)
    assert window.size == 2
    found = run(Window(Bounds(4, 2, 6)), SlotEngine(64), seconds=30, tells=True)
    assert found.sizes[-1][1] == 6
    fixed = run(Window(Bounds.fixed(5)), SlotEngine(64), seconds=30, tells=False)
    assert {size for _, size in fixed.sizes} == {5}


def test_numbers_that_are_old_are_replaced_by_what_is_seen() -> None:
    """A scrape that fails changes nothing; after three seconds the window looks for itself."""
    window = Window(Bounds(start=8))
    for _ in range(12):
        window.sent(0.0)
        window.first_token(0.1)
    window.told(8, 0, 0.0)
    window.adjust(queued=True, now=0.0)
    size = window.size
    window.adjust(queued=True, now=2.9)
    assert window.size == size
    window.adjust(queued=True, now=3.1)
    assert window.size > size

"""A member hears what the others charged, exactly, whatever happens on the way."""

import itertools

import pytest
from hypothesis import given

from fairlane.cluster.hub import GRAIN, Pull, Push
from fairlane.cluster.member import Member
from fairlane.cluster.memory import HubState
from tests.cluster.carrying import STEPS, Pool, Step


def state(most_clients: int = 100) -> HubState:
    eras = itertools.count(1)
    return HubState(most_clients, lambda: f"era {next(eras)}")


def ask(hub: HubState, push: Push, now: float = 0.0) -> Pull:
    return hub.exchange(push, now)


def swap(hub: HubState, member: Member, **charges: float) -> dict[str, float]:
    """One exchange in which nothing goes wrong."""
    return member.heard(ask(hub, member.begin(charges)))


def joined(hub: HubState, *names: str) -> list[Member]:
    members = [Member(name) for name in names]
    for member in members:
        swap(hub, member)
    return members


@given(STEPS)
def test_everyone_hears_exactly_what_the_others_charged(steps: list[Step]) -> None:
    hub = state()
    pool = Pool([Member(name) for name in ("m", "n", "o")], lambda push: ask(hub, push))
    pool.run(steps)
    pool.check()


class ByGreatest(Member):
    """A control: what others charged is merged as the greatest that was ever seen."""

    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self.total: dict[str, float] = {}
        self.greatest: dict[str, float] = {}

    def heard(self, pull: Pull) -> dict[str, float]:
        news = {}
        for client, service in super().heard(pull).items():
            total = self.total[client] = self.total.get(client, 0.0) + service
            before = self.greatest.get(client, 0.0)
            if total > before:
                self.greatest[client], news[client] = total, total - before
        return news


@pytest.mark.parametrize("kind", [Member, ByGreatest])
def test_refunds_are_heard_where_the_greatest_of_cells_would_lose_them(kind: type[Member]) -> None:
    hub = state()
    pool = Pool([kind("m"), kind("n")], lambda push: ask(hub, push))
    pool.settle()
    for grains in (5, -3):
        pool.charge(0, "a", grains)
        pool.settle()
    if kind is Member:
        pool.check()
    else:
        with pytest.raises(AssertionError):
            pool.check()


def test_the_past_is_not_charged_to_a_newcomer() -> None:
    hub = state()
    (first,) = joined(hub, "m")
    swap(hub, first, a=7.0)
    second = Member("n")
    assert swap(hub, second, b=2.0) == {}
    assert swap(hub, second) == {}
    assert swap(hub, first, a=1.0) == {"b": 2.0}
    assert swap(hub, second) == {"a": 1.0}


def test_a_restarted_hub_loses_nothing_that_was_not_answered() -> None:
    hub = state()
    first, second = joined(hub, "m", "n")
    swap(hub, first, a=4.0)
    assert swap(hub, second) == {"a": 4.0}
    lost = first.begin({"a": 2.0})
    hub = state()
    assert first.begin({"a": 1.0}) is lost  # sent again unchanged, and the rest waits
    assert first.heard(ask(hub, lost)) == {}
    assert swap(hub, second, b=8.0) == {}
    assert swap(hub, first) == {}
    assert swap(hub, second) == {"a": 3.0}
    assert swap(hub, first) == {"b": 8.0}


def test_sums_are_exact_beyond_what_a_float_holds() -> None:
    hub = state()
    first, second = joined(hub, "m", "n")
    swap(hub, first, a=2.0**40)
    swap(hub, second)
    swap(hub, first, a=GRAIN)
    assert swap(hub, second) == {"a": GRAIN}
    assert 2.0**40 + GRAIN == 2.0**40


def test_more_than_a_sum_holds_begins_a_new_era_and_goes_on() -> None:
    hub = state()
    first, second = joined(hub, "m", "n")
    told = 0.0
    for _ in range(40):
        swap(hub, first, a=2.0**40, b=1.0)
        told += swap(hub, second).get("b", 0.0)
    for _ in range(3):
        swap(hub, first)
        told += swap(hub, second).get("b", 0.0)
    assert told == pytest.approx(40.0, abs=2.0)  # an era's end may lose or repeat a push


def test_a_client_that_the_hub_dropped_begins_anew() -> None:
    hub = state(most_clients=2)
    first, second = joined(hub, "m", "n")
    swap(hub, first, a=1.0)
    assert swap(hub, second, a=2.0) == {"a": 1.0}
    assert swap(hub, first) == {"a": 2.0}
    for client in "bc":
        swap(hub, first, **{client: 1.0})
    swap(hub, second, a=16.0)
    assert swap(hub, first) == {"a": 16.0}
    swap(hub, first, a=32.0)
    assert swap(hub, second)["a"] == 32.0


def test_a_repeated_push_is_not_taken_for_a_part_of_a_sum_that_began_later() -> None:
    """It was applied, its answer was lost, the hub dropped its client, and others charged it."""
    hub = state(most_clients=1)
    first, second = joined(hub, "m", "n")
    push = first.begin({"a": 4.0})
    ask(hub, push)
    swap(hub, second, b=1.0)
    swap(hub, second, a=8.0)
    assert first.heard(ask(hub, push)) == {"a": 8.0}


def test_who_is_forgotten_here_alone_is_heard_of_from_then_on() -> None:
    hub = state()
    first = Member("m")
    second = Member("n", most_clients=1)
    for member in (first, second):
        swap(hub, member)
    for client in "ab":
        swap(hub, first, **{client: 4.0})
        swap(hub, second)
    swap(hub, first, a=1.0)
    assert swap(hub, second) == {}
    swap(hub, first, a=1.0)
    assert swap(hub, second) == {"a": 1.0}


def test_without_a_hub_what_is_owed_is_bounded_by_clients() -> None:
    hub = state()
    member, other = Member("m", most_clients=2), Member("n")
    swap(hub, other)
    member.begin({})
    for client in ("a", "b", "c", "a", "b"):
        member.begin({client: 1.0})
    swap(hub, member)
    swap(hub, member)
    assert swap(hub, other) == {"a": 1.0, "b": 1.0}  # c came, and a's and b's first were let go


def test_a_member_that_says_nothing_for_a_day_comes_back_in_a_new_era() -> None:
    hub = state()
    first, second = joined(hub, "m", "n")
    later = 90_000.0
    swapped = ask(hub, first.begin({"a": 1.0}), later)
    assert swapped.era == "era 2"
    first.heard(swapped)
    first.heard(ask(hub, first.begin({}), later))
    assert second.heard(ask(hub, second.begin({"b": 2.0}), later)) == {"a": 1.0}
    second.heard(ask(hub, second.begin({}), later))
    assert first.heard(ask(hub, first.begin({}), later)) == {"b": 2.0}

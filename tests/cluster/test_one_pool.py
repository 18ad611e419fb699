"""Several gateways before one pool: shares as of one queue, wherever who waits waits."""

import pytest

from tests.cluster.one_pool import USUAL, Lengths, Pool

WEIGHTS = {"A": 4.0, "B": 1.0}
SHORT: Lengths = ((50, 150), (10, 40))
LONG: Lengths = ((50, 150), (200, 400))
PLACES = {
    "one each": (["A", "B"], USUAL, USUAL),
    "A short, B long": (["A", "B"], SHORT, LONG),
    "A long, B short": (["A", "B"], LONG, SHORT),
    "A at three of four": (["A", "A", "A", "B"], USUAL, USUAL),
    "B at all four": (["AB", "B", "B", "B"], USUAL, USUAL),
}


def pool(place: str, **options: object) -> Pool:
    """After a minute, as nobody knows of anybody in the first moment."""
    clients, a, b = PLACES[place]
    made = Pool(clients, WEIGHTS, lengths={"A": a, "B": b}, **options)  # type: ignore[arg-type]
    made.run(60)
    made.idle, made.steps = 0.0, 0
    return made


def ratio(made: Pool, seconds: float = 200) -> float:
    served = made.run(seconds)
    return served["A"] / served["B"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("every_s", [0.2, 1.0])
def test_shares_are_those_of_one_queue_and_nothing_idles_for_it(place: str, every_s: float) -> None:
    made, without = pool(place, every_s=every_s), pool(place, yields=False)
    assert ratio(made) == pytest.approx(4.0, rel=0.1)
    without.run(200)
    assert made.idle / made.steps < without.idle / without.steps + 0.03


@pytest.mark.parametrize("place", [p for p in PLACES if p != "A long, B short"])
def test_charges_alone_do_not_make_it_so(place: str) -> None:
    """The control: each gateway has what it can get, which is not 4 to 1 but by chance."""
    assert ratio(pool(place, yields=False)) != pytest.approx(4.0, rel=0.2)


def test_who_waits_nowhere_comes_back_to_the_level_of_those_who_wait_anywhere() -> None:
    made = pool("one each")
    made.waits[1].clear()
    made.run(100)  # of which nothing may be saved up
    made.waits[1].add("B")
    assert ratio(made, 20) > 2.0
    assert ratio(made) == pytest.approx(4.0, rel=0.1)


def test_one_that_is_restarted_is_told_where_everybody_is() -> None:
    """It begins with counters of 0; without being told it would serve its own for ever."""
    made = pool("A at three of four")
    made.gateways[0] = made.gateway()
    made.gateways[3] = made.gateway()
    made.run(2)
    assert ratio(made, 20) == pytest.approx(4.0, rel=0.25)
    assert ratio(made) == pytest.approx(4.0, rel=0.1)


def test_a_lost_hub_leaves_each_by_itself_and_nothing_of_it_stays() -> None:
    """While it is away levels drift apart: without a common one B would be served alone."""
    made = pool("one each")
    made.lose_hub()
    apart = made.run(200)
    assert apart["A"] / apart["B"] == pytest.approx(1.0, rel=0.2)
    made.connected = True
    made.run(20)
    assert ratio(made, 60) == pytest.approx(4.0, rel=0.15)


def test_a_weight_that_changes_here_and_there_a_moment_later() -> None:
    made = pool("one each")
    made.set_weight(0, "A", 1.0)
    made.run(2)
    made.set_weight(1, "A", 1.0)
    made.run(10)
    assert ratio(made) == pytest.approx(1.0, rel=0.1)
    for number in (1, 0):
        made.set_weight(number, "A", 9.0)
        made.run(2)
    made.run(10)
    assert ratio(made) == pytest.approx(9.0, rel=0.1)

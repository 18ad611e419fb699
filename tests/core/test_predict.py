"""Predictors: the artifact's moving average, the oracle and its blur."""

import random

import pytest

from fairlane.core.predict import MovingAverage, Oracle
from tests.driving import req


def test_the_moving_average_is_the_artifacts() -> None:
    predictor = MovingAverage()
    request = req(1, "a")
    assert predictor.predict(request) == 0.0
    predictor.observe(request, 100)
    assert predictor.predict(request) == 100.0  # the first length as it is
    predictor.observe(request, 50)
    assert predictor.predict(request) == (4 * 100 + 50) / 5
    assert predictor.predict(req(2, "b")) == 0.0


def test_a_forgotten_client_is_predicted_as_a_new_one() -> None:
    predictor = MovingAverage()
    predictor.observe(req(1, "a"), 100)
    predictor.forget("a")
    predictor.forget("never seen")
    assert predictor.predict(req(2, "a")) == 0.0


def test_an_oracle_without_spread_knows_the_length() -> None:
    assert Oracle(lambda request: 42).predict(req(1, "a")) == 42.0


def test_a_blurred_oracle_is_uniform_between_the_papers_limits() -> None:
    uniform = random.Random(1).uniform
    oracle = Oracle(lambda request: 200, spread=0.5, uniform=uniform)
    draws = [oracle.predict(req(1, "a")) for _ in range(2000)]
    assert 100 <= min(draws) < 105
    assert 295 < max(draws) <= 300
    assert sum(draws) / len(draws) == pytest.approx(200, abs=4)


def test_a_blur_needs_randomness_and_a_sensible_spread() -> None:
    with pytest.raises(ValueError, match="source of randomness"):
        Oracle(lambda request: 1, spread=0.5)
    with pytest.raises(ValueError, match="predict_range must be"):
        Oracle(lambda request: 1, spread=1.5, uniform=random.uniform)
    with pytest.raises(ValueError, match="window must be greater than or equal to 1"):
        MovingAverage(0)


def test_the_moving_average_forgets_who_finished_nothing_for_longest() -> None:
    predictor = MovingAverage(max_clients=10)
    for number in range(100):
        predictor.observe(req(number, f"client {number}"), 7)
        predictor.observe(req(number, "steady"), 7)
    known = [n for n in range(100) if predictor.predict(req(n, f"client {n}"))]
    assert 4 <= len(known) <= 9
    assert known == list(range(100 - len(known), 100))
    assert predictor.predict(req(0, "steady")) == 7.0

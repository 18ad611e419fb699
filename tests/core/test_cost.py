"""Costs: the paper's formulas, and charges that do not depend on how tokens are grouped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError

COSTS: list[Cost] = [LinearCost(), LinearCost(0.1, 0.3, 0.01), QuadraticCost()]


def test_the_linear_cost_is_one_per_input_token_and_two_per_output_token() -> None:
    cost = LinearCost()
    assert cost.admission(100) == 100.0
    assert cost.output(100, 0, 7) == 14.0
    assert cost(100, 7) == 114.0


def test_cached_input_tokens_have_their_own_price() -> None:
    assert LinearCost(cached_price=0.25).admission(100, cached_tokens=80) == 20 + 0.25 * 80
    assert LinearCost(cached_price=0.0).admission(100, cached_tokens=80) == 20.0
    assert LinearCost().admission(100, cached_tokens=80) == 100.0


def test_the_quadratic_cost_is_the_papers_fit() -> None:
    cost = QuadraticCost()
    x, y = 256, 512
    expected = 0.21001891 * x + 0.10075395 * y + 0.0039868 * x * y + 0.00324733 * y**2 + 1.14601454
    assert cost(x, y) == expected
    charged = cost.admission(x) + cost.output(x, 0, y)
    assert charged == pytest.approx(expected, abs=2**-19)


def test_cached_tokens_save_the_difference_of_the_two_prices_under_the_quadratic_cost() -> None:
    full, part = QuadraticCost(), QuadraticCost(cached_price=0.01)
    saved = full.admission(1000) - part.admission(1000, cached_tokens=600)
    assert saved == pytest.approx((0.21001891 - 0.01) * 600, abs=2**-19)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@given(prompt=st.integers(0, 4000), parts=st.lists(st.integers(0, 300), max_size=20))
def test_charges_are_the_same_to_the_last_bit_however_tokens_are_grouped(
    cost: Cost, prompt: int, parts: list[int]
) -> None:
    delivered, charged = 0, 0.0
    for part in parts:
        charged += cost.output(prompt, delivered, delivered + part)
        delivered += part
    assert charged == cost.output(prompt, 0, delivered)
    if cost.per_output_token is not None:
        assert cost.output(prompt, delivered, delivered + 1) == pytest.approx(
            cost.per_output_token, abs=2**-19
        )


@pytest.mark.parametrize("price", [-1.0, 2.0**20, float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["input_price", "output_price", "cached_price"])
def test_a_price_that_cannot_be_summed_exactly_is_refused(which: str, price: float) -> None:
    with pytest.raises(FairlaneError, match=f"{which} must be greater than or equal to 0"):
        LinearCost(**{which: price})


@pytest.mark.parametrize("price", [-1.0, 2.0**20, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "which", ["prompt", "output_linear", "cross", "output_square", "constant", "cached_price"]
)
def test_so_is_one_of_a_quadratic_cost(which: str, price: float) -> None:
    with pytest.raises(FairlaneError, match=f"{which} must be greater than or equal to 0"):
        QuadraticCost(**{which: price})

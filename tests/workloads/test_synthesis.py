"""A synthesised trace meets the published statistics for every seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.workloads import WorkloadError, info, synthesize


@given(seed=st.integers(0, 2**32))
def test_statistics_of_the_paper_hold_for_every_seed(seed: int) -> None:
    found = info(synthesize(seed=seed))
    assert len(found.clients) == 27
    assert found.requests_per_minute == pytest.approx(210, rel=0.02)
    assert found.prompt.mean == pytest.approx(136, rel=0.01)
    assert found.output.mean == pytest.approx(256, rel=0.01)
    assert 1 <= found.prompt.min <= found.prompt.max <= 1023
    assert 1 <= found.output.min <= found.output.max <= 1023


@given(seed=st.integers(0, 2**32))
def test_it_is_shaped_like_an_arena(seed: int) -> None:
    found = info(synthesize(seed=seed))
    # the real trace: Gini 0.59, top client 20 %, median prompt 40, 10 % of outputs at the limit
    assert 0.45 < found.gini < 0.7
    assert 0.1 < found.clients[0].requests / found.requests < 0.5
    assert found.prompt.p50 < 0.5 * found.prompt.mean
    assert found.prompt.p90 > 2.5 * found.prompt.mean
    assert found.output.p90 == 512
    assert found.gap_cv > 0.95


def test_seeds_repeat_and_differ() -> None:
    assert synthesize(seed=3) == synthesize(seed=3)
    assert synthesize(seed=3) != synthesize(seed=4)


def test_wishes_are_met() -> None:
    found = info(
        synthesize(
            clients=5,
            requests_per_minute=30,
            duration_s=1200,
            mean_prompt=50,
            mean_output=20,
            max_len=200,
        )
    )
    assert (found.requests, len(found.clients)) == (600, 5)
    assert found.duration_s <= 1200
    assert found.prompt.mean == pytest.approx(50, rel=0.01)
    assert found.output.mean == pytest.approx(20, rel=0.01)
    assert found.prompt.max <= 200


def test_wishes_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(WorkloadError, match="4 requests cannot be spread over 27 clients"):
        synthesize(duration_s=1.2)
    with pytest.raises(WorkloadError, match="mean of 2000 tokens"):
        synthesize(mean_prompt=2000)
    with pytest.raises(WorkloadError, match="above 0, not nan"):
        synthesize(requests_per_minute=float("nan"))

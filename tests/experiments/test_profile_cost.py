"""Times determine the cost, or the user is told which are missing."""

from pathlib import Path

import pytest

from fairlane.core.cost import QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.experiments.profile_cost import (
    Timing,
    TimingError,
    fit_cost,
    profile_timings,
    read_cost,
    read_timings,
    write_cost,
)
from fairlane.simulator.profile import get_profile

HEADER = "phase,prompt_len,output_len,seconds\n"


def test_whole_requests_alone_give_the_cost_back() -> None:
    cost = QuadraticCost()
    timings = [
        Timing("request", x, y, 8 * cost(x, y) / 1e3, batch=8)
        for x in (16, 128, 512)
        for y in (16, 128, 512)
    ]
    fit = fit_cost(timings)
    for name, value in fit.coefficients().items():
        assert value == pytest.approx(getattr(cost, name), rel=1e-6), name
    assert fit.worst_ms < 1e-6


def test_times_that_do_not_determine_all_terms_are_refused() -> None:
    one_length = [Timing("prefill", 16, 0, 0.1), *(Timing("decode", 16, y, y) for y in (1, 2, 3))]
    with pytest.raises(TimingError, match="4 times do not determine the cost"):
        fit_cost(one_length)
    with pytest.raises(TimingError, match="0 times"):
        fit_cost([])


def test_a_profile_is_fitted_closely() -> None:
    fit = fit_cost(profile_timings(get_profile("a10g-llama-2-7b"), batch=16))
    assert fit.r_squared > 0.9999
    assert fit.cost.output_square > 0


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("warmup,16,,0.1", "phase must be one of prefill, decode, request, not 'warmup'"),
        ("prefill,16,,-1", "seconds must be at least 0, not -1.0"),
        ("prefill,16,,nan", "seconds must be a number, not 'nan'"),
        ("decode,16,-4,0.1", "lengths must be at least 0"),
        ("prefill,x,,0.1", "prompt_len must be a whole number, not 'x'"),
        ("decode,1_6,4,0.1", "prompt_len must be a whole number, not '1_6'"),
        ("decode,16,4.5,0.1", "output_len must be a whole number, not '4.5'"),
        ("prefill,16", "not as many fields"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: str, complaint: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(f"{HEADER}prefill,16,,0.1\n{row}\n")
    with pytest.raises(TimingError, match=rf"times\.csv:3: .*{complaint}"):
        read_timings(path)


def test_a_cost_is_written_and_read_back_exactly(tmp_path: Path) -> None:
    fit = fit_cost(profile_timings(get_profile("a100-llama-2-13b"), batch=4))
    path = tmp_path / "cost.toml"
    write_cost(path, fit, 'a "quoted" source')
    assert read_cost(path) == fit.cost
    path.write_text("[cost]\nprompt = 1.0\n")
    with pytest.raises(ValueError, match=r"cost\.toml: not a cost"):
        read_cost(path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("prompt = 1", "prompt = '1'", "prompt must be a valid number, not '1'"),
        ("prompt = 1", "prompt = true", "prompt must be a valid number, not True"),
        ("prompt = 1", "prompt = nan", "prompt must be a finite number, not nan"),
        ("prompt = 1", "prompt = -1", "prompt must be greater than or equal to 0, not -1"),
        ("prompt = 1", "", r"no prompt in \[cost\]"),
        ("prompt = 1", "prompt = 1\ncashed_price = 1", "unknown key 'cashed_price'"),
        ("[cost]", "cost = 5", "cost must be a valid dictionary, not 5"),
        ("[cost]", "[costs]", "no cost"),
    ],
)
def test_a_wrong_cost_is_one_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "cost.toml"
    right = "[cost]\nprompt = 1\noutput_linear = 1\ncross = 1\noutput_square = 1\nconstant = 1\n"
    path.write_text(right)
    assert read_cost(path) == QuadraticCost(1, 1, 1, 1, 1)
    wrong = right.replace(old, new)
    path.write_text(wrong if new != "cost = 5" else new)
    with pytest.raises(FairlaneError, match=complaint) as raised:
        read_cost(path)
    assert str(raised.value).startswith(f"{path}: not a cost")


def test_a_cost_keeps_its_price_of_cached_tokens(tmp_path: Path) -> None:
    path = tmp_path / "cost.toml"
    write_cost(path, fit_cost(profile_timings(get_profile("a10g-llama-2-7b"), batch=16)), "test")
    path.write_text(path.read_text().replace("[cost]\n", "[cost]\ncached_price = 0.125\n"))
    assert read_cost(path).cached_price == 0.125

"""Options from outside: every wrong type, range or name is one line that begins with the option."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

import pytest

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.options import Count, Fraction, NotNegative, Positive, Weight
from fairlane.policies.registry import create_policy, get_policy, policy_names
from fairlane.validation import checked, options_of


class Shared(TypedDict, total=False):
    count: Count | None
    anything: "Thing | None"


class Thing:
    """Nothing that pydantic knows."""


def target(
    *,
    positive: Positive = 1.0,
    not_negative: NotNegative = 0.0,
    fraction: Fraction = 0.0,
    flag: bool = False,
    text: str = "",
    weights: Mapping[str, Weight] | None = None,
    call: Callable[[], int] | None = None,
    **shared: Unpack[Shared],
) -> None:
    """Every kind of option."""


def test_what_is_right_is_passed_on_whole_numbers_as_numbers() -> None:
    thing = Thing()
    given: dict[str, Any] = {
        "positive": 3, "not_negative": 0, "fraction": 1, "flag": True, "text": "x",
        "weights": {"a": 2}, "call": int, "count": 1, "anything": thing,
    }  # fmt: skip
    found = checked(target, given)
    assert found == given
    assert type(found["positive"]) is float
    assert found["anything"] is thing
    assert checked(target, {}) == {}
    assert set(options_of(target)) == set(given)


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("positive", 0, "must be greater than 0, not 0"),
        ("positive", math.nan, "must be a finite number, not nan"),
        ("positive", math.inf, "must be a finite number, not inf"),
        ("positive", "1", "must be a valid number, not '1'"),
        ("positive", True, "must be a valid number, not True"),
        ("positive", 10**400, "must be a valid number, not 1"),
        ("positive", None, "must be a valid number, not None"),
        ("not_negative", -1e-9, "must be greater than or equal to 0"),
        ("fraction", 1.01, "must be less than or equal to 1"),
        ("flag", "false", "must be a valid boolean, not 'false'"),
        ("flag", 1, "must be a valid boolean, not 1"),
        ("text", 1, "must be a valid string, not 1"),
        ("count", 0, "must be greater than or equal to 1, not 0"),
        ("count", 2.0, "must be a valid integer, not 2.0"),
        ("count", True, "must be a valid integer, not True"),
        ("call", 3, "must be callable, not 3"),
        ("weights", [1], "must be a valid dictionary, not"),
    ],
)
def test_what_is_wrong_is_one_line(option: str, value: Any, complaint: str) -> None:
    with pytest.raises(FairlaneError, match=f"^{option} .*({complaint})") as error:
        checked(target, {option: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, 1e-7, 1e7, "2", False])
def test_a_weight_is_named_by_its_client(weight: Any) -> None:
    with pytest.raises(FairlaneError, match=r"^weights\.alice must be "):
        checked(target, {"weights": {"bob": 1.0, "alice": weight}})


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown setting 'postive': did you mean positive"):
        checked(target, {"postive": 1})


def test_names_from_outside_are_the_only_ones() -> None:
    names = {"outside": "positive"}
    assert checked(target, {"outside": 2}, names=names) == {"positive": 2.0}
    with pytest.raises(FairlaneError, match=r"^outside must be greater"):
        checked(target, {"outside": 0}, names=names)
    with pytest.raises(UnknownNameError, match="unknown key 'positive'"):
        checked(target, {"positive": 2}, names=names, what="key")


@pytest.mark.parametrize("name", policy_names())
def test_every_option_of_every_policy_refuses_what_it_cannot_mean(name: str) -> None:
    """Each is tried with values of other types and with numbers that are none."""
    spec = get_policy(name)
    for option in spec.options - {"cost", "predictor", "gates"}:  # objects of a program
        for value in ("false", math.nan, -1, object()):
            with pytest.raises(FairlaneError, match=f"^{option} "):
                spec.check({option: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rpm", {"window_s": 0}),
        ("rpm", {"window_s": -60.0}),
        ("rpm", {"rate_limit": True}),
        ("rpm", {"rate_limit": 2.5}),
        ("vtc", {"artifact_lift": "false"}),
        ("vtc", {"max_idle": 0}),
        ("vtc-predict", {"max_advance": math.nan}),
        ("drr", {"quantum": math.inf}),
        ("drr", {"quantum": 1e-320}),
        ("dlpm", {"cached_tokens": 100}),
        ("lpm", {"cached_tokens": 100}),
    ],
)
def test_policies_refuse_them_when_they_are_made(name: str, options: dict[str, Any]) -> None:
    [option] = options
    with pytest.raises(FairlaneError, match=f"^{option} must be "):
        create_policy(name, **options)

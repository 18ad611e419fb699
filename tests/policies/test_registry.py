"""Policies by name: what users see when a name or an option is right or wrong."""

import pytest

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.policies.registry import create_policy, get_policy, policy_names


def test_every_algorithm_of_the_paper_has_a_name() -> None:
    names = {"fcfs", "vtc", "vtc-predict", "vtc-oracle", "lcf", "rpm", "drr", "round-robin"}
    assert names <= set(policy_names())


@pytest.mark.parametrize("name", policy_names())
def test_names_and_aliases_lead_to_one_spec_each_with_a_line_on_it(name: str) -> None:
    spec = get_policy(name)
    assert spec.name == name
    assert spec.summary
    assert "\n" not in spec.summary
    for alias in spec.aliases:
        assert get_policy(alias) is spec


def test_no_name_or_alias_means_two_policies() -> None:
    names = [n for name in policy_names() for n in (name, *get_policy(name).aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_answered_with_the_nearest_and_all_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_policy("vtc-pred")
    message = str(caught.value)
    assert "unknown scheduler 'vtc-pred'" in message
    assert "did you mean" in message
    assert "vtc-predict" in message
    assert "round-robin" in message


def test_an_option_that_a_policy_does_not_take_is_refused_with_those_it_does() -> None:
    with pytest.raises(
        FairlaneError, match="scheduler rpm takes rate_limit, window_s, not weights"
    ):
        create_policy("rpm", weights={"a": 1.0})
    with pytest.raises(FairlaneError, match="scheduler fcfs takes no options, not quantum"):
        create_policy("fcfs", quantum=5)


@pytest.mark.parametrize("name", ["vtc", "vtc-predict", "vtc-oracle", "lcf"])
def test_every_vtc_takes_weights_and_costs(name: str) -> None:
    assert {"weights", "cost"} <= get_policy(name).options

"""Suites are found by name, changed in duration, and added by one function."""

import pytest

from fairlane.core.errors import UnknownNameError
from fairlane.workloads import (
    SUITES,
    Suite,
    TracedRequest,
    WorkloadConfig,
    WorkloadError,
    get_suite,
    register,
    workload,
)

SOON = TracedRequest(0, "a", 1.0, 5, 5)
LATE = TracedRequest(1, "a", 90.0, 5, 5)


def test_every_figure_with_a_workload_has_one() -> None:
    shown = {figure for suite in SUITES.values() for figure in suite.figures}
    assert shown == {f"fig{number}" for number in range(3, 15)}


@pytest.mark.parametrize("name", ["poisson_short_long_2", "poisson-short-long-2", " Overload_S4 "])
def test_names_take_hyphens_underscores_and_either_case(name: str) -> None:
    assert get_suite(name).name == name.strip().lower().replace("_", "-")


def test_an_unknown_suite_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean proportional.*known: arena, "):
        get_suite("proportionel")


@pytest.mark.parametrize("name", [name for name in SUITES if name != "real"])
def test_every_suite_is_in_arrival_order_within_its_bounds(name: str) -> None:
    suite = SUITES[name]
    requests = suite.requests(duration=120)
    assert {r.client for r in requests} == {str(c) for c in range(suite.config.num_adapters)}
    arrivals = [r.arrival_s for r in requests]
    assert arrivals == sorted(arrivals)
    assert len({r.id for r in requests}) == len(requests)
    assert min(min(r.prompt_len, r.output_len) for r in requests) >= 1
    assert suite.title
    assert suite.profile.startswith(("a10g", "a100"))


def test_duration_replaces_the_suites_own() -> None:
    # 1.5 + 3 requests a second
    assert len(get_suite("overload").requests()) == 360 * 4.5
    assert len(get_suite("overload").requests(duration=600)) == 600 * 4.5
    with pytest.raises(WorkloadError, match="duration"):
        get_suite("overload").requests(duration=0)


def test_the_real_suite_is_the_trace_it_is_given() -> None:
    real = get_suite("real")
    assert real.needs_trace
    assert real.requests(trace=[SOON, LATE]) == [SOON, LATE]
    assert real.requests(trace=[SOON, LATE], duration=60) == [SOON]
    with pytest.raises(WorkloadError, match="real needs a trace"):
        real.requests()
    with pytest.raises(WorkloadError, match="overload takes no trace"):
        get_suite("overload").requests(trace=[SOON])


def test_one_decorated_function_adds_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlane.workloads.suites.SUITES", {})

    @workload(
        "one-each",
        title="one request per client",
        config=WorkloadConfig(num_adapters=2, req_rate=(1, 1)),
    )
    def one_each(config: WorkloadConfig, seed: int) -> list[TracedRequest]:
        return [TracedRequest(i, str(i), float(seed), 1, 1) for i in range(config.num_adapters)]

    assert [r.client for r in get_suite("one_each").requests(seed=7)] == ["0", "1"]
    assert get_suite("one-each").requests(seed=7)[0].arrival_s == 7.0


def test_names_are_unique_and_plain() -> None:
    taken = SUITES["overload"]
    with pytest.raises(WorkloadError, match="already"):
        register(taken)
    with pytest.raises(WorkloadError, match="lower case"):
        register(Suite("Over_load", "x", taken.config))

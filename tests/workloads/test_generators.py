"""The generators draw what the artifact drew, and refuse what it cannot mean."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import UnknownNameError
from fairlane.workloads import SUITES, WorkloadConfig, WorkloadError, generate, get_suite
from fairlane.workloads.trace import TracedRequest


def measured_experiments(
    reference_dir: Path,
) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    files = sorted((reference_dir / "measured").rglob("*.jsonl"))
    assert len(files) >= 13
    found = []
    for path in files:
        experiment = json.loads(path.read_text())
        name = str(path.relative_to(reference_dir / "measured"))
        found.append((name, experiment["config"], experiment["result"]["responses"]))
    return found


def test_every_measured_synthetic_workload_is_drawn_bit_for_bit(reference_dir: Path) -> None:
    compared = 0
    for name, config, responses in measured_experiments(reference_dir):
        if config["mode"] == "real":
            continue
        ours = generate(WorkloadConfig.from_mapping(config))
        assert [(r.client, r.arrival_s, r.prompt_len, r.output_len) for r in ours] == [
            (r["adapter_dir"].split("-")[-1], r["req_time"], r["prompt_len"], r["output_len"])
            for r in responses
        ], name
        compared += 1
    assert compared >= 10


def test_suites_have_the_settings_that_were_measured(reference_dir: Path) -> None:
    settings = [suite.config for suite in SUITES.values()]
    for name, measured, _ in measured_experiments(reference_dir):
        config = WorkloadConfig.from_mapping(measured)
        if name == "FCFS/all_results_overload.jsonl":  # measured before the suite was shortened
            config = WorkloadConfig(**{**asdict(config), "duration": 360})
        if "rpm10" in name:  # states a rate that its requests do not have
            config = WorkloadConfig(**{**asdict(config), "req_rate": 3.5})
        assert config in settings, name


def test_uniform_spaces_each_client_evenly_from_a_random_phase() -> None:
    requests = generate(WorkloadConfig(num_adapters=2, req_rate=(0.5, 2), duration=10))
    for client, rate, count in (("0", 0.5, 5), ("1", 2, 20)):
        times = [r.arrival_s for r in requests if r.client == client]
        assert len(times) == count
        assert 1 / rate <= times[0] < 2 / rate
        assert all(b - a == pytest.approx(1 / rate) for a, b in pairwise(times))
    assert [r.arrival_s for r in requests] == sorted(r.arrival_s for r in requests)
    assert sorted(r.id for r in requests) == list(range(25))


def test_only_client_0_is_silent_in_odd_windows() -> None:
    requests = get_suite("on-off-overload").requests()
    assert {int(r.arrival_s // 60) % 2 for r in requests if r.client == "0"} == {0}
    assert {int(r.arrival_s // 60) % 2 for r in requests if r.client == "1"} == {0, 1}


def test_dist_shift_changes_rates_by_thirds() -> None:
    requests = get_suite("dist-shift").requests()

    def count(client: str, begin: float, end: float) -> int:
        return sum(r.client == client and begin < r.arrival_s <= end for r in requests)

    # 0.5 a second on two and a half minutes of five, then 1, then 0.5; and 2, then 1, then 1.5
    assert count("0", 60, 120) == 0
    assert [count("0", a, a + 60) for a in (400, 700)] == [60, 30]
    assert [count("1", a, a + 60) for a in (60, 400, 700)] == [120, 60, 90]


def test_increase_ends_near_its_final_rate() -> None:
    requests = get_suite("increase").requests()
    late = [r for r in requests if r.client == "1" and 570 <= r.arrival_s < 600]
    early = [r for r in requests if r.client == "1" and r.arrival_s < 30]
    assert len(late) == pytest.approx(30 * 2, abs=3)
    assert len(early) == pytest.approx(30 * 0.25, abs=2)
    assert [r.arrival_s for r in requests if r.client == "0"][:2] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("suite", "client_0", "client_1"),
    [("poisson-short-long", (64, 64), (256, 256)), ("poisson-short-long-2", (512, 32), (32, 512))],
)
def test_poisson_pairs_differ_in_lengths(
    suite: str, client_0: tuple[int, int], client_1: tuple[int, int]
) -> None:
    requests = get_suite(suite).requests()
    assert {(r.prompt_len, r.output_len) for r in requests if r.client == "0"} == {client_0}
    assert {(r.prompt_len, r.output_len) for r in requests if r.client == "1"} == {client_1}
    share = sum(r.client == "0" for r in requests) / len(requests)
    assert share == pytest.approx(8 / 9.5, abs=0.02)


def test_a_scalar_rate_is_spread_by_a_power_law() -> None:
    config = WorkloadConfig(num_adapters=4, alpha=0.3, req_rate=5, cv=1, duration=400)
    requests = generate(config)
    counts = [sum(r.client == str(c) for r in requests) for c in range(4)]
    assert sum(counts) == 2000
    # P(u^(1/alpha) < 1/4) = (1/4)^0.3
    assert counts[0] / 2000 == pytest.approx(0.25**0.3, abs=0.03)
    assert counts == sorted(counts, reverse=True)


def test_seeds_differ_and_repeat() -> None:
    def draw(seed: int) -> list[TracedRequest]:
        return get_suite("poisson-on-off-overload").requests(seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"req_rate": (1.0, 1.0, 1.0)}, "3 rates for 2 clients"),
        ({"req_rate": (1.0, 0.0)}, "positive"),
        ({"duration": -5}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"input_range": (0, 10)}, "input_range"),
        ({"output_range": (10, 10)}, "output_range"),
        ({"on_off": 0}, "on_off"),
        ({"mode": "dist_shift"}, "-1, -1"),
        ({"mode": "poisson-short-long", "input_range": (2, 9)}, "at least 4"),
        ({"req_rate": 2.0}, "alpha"),
    ],
)
def test_settings_that_make_no_workload_are_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(WorkloadError, match=complaint):
        generate(WorkloadConfig(**{"num_adapters": 2, "req_rate": (1.0, 2.0), **settings}))


def test_two_client_modes_refuse_a_third() -> None:
    config = WorkloadConfig(num_adapters=3, req_rate=(1, 1, 1), mode="poisson")
    with pytest.raises(WorkloadError, match="for two clients, not 3"):
        generate(config)


def test_an_unknown_mode_names_the_nearest() -> None:
    config = WorkloadConfig(num_adapters=1, req_rate=(1,), mode="uniforn")
    with pytest.raises(UnknownNameError, match="did you mean uniform"):
        generate(config)


def test_settings_are_read_from_a_result_file() -> None:
    assert WorkloadConfig.from_mapping({"num_adapters": 1, "req_rate": [2]}) == WorkloadConfig(
        num_adapters=1, req_rate=(2,)
    )
    with pytest.raises(WorkloadError, match="called rate"):
        WorkloadConfig.from_mapping({"num_adapters": 1, "rate": [2]})
    with pytest.raises(WorkloadError, match="req_rate"):
        WorkloadConfig.from_mapping({"num_adapters": 1})

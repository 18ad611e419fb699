"""vLLM's loop on a clock: who waits for what, in cases worked by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.settings import Settings
from fairlane.metrics import headline
from fairlane.policies.registry import create_policy
from fairlane.records import Run
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.randomness import Noise
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import VllmConfig
from fairlane.simulator.step_latency import StepLatency
from fairlane.workloads.trace import TracedRequest

TEN_MS = ((0, 0.010), (1, 0.010))
LATENCY = StepLatency(
    decode=TEN_MS, mixed=TEN_MS, per_context_token=0.0, per_attention=0.0,
    schedule_s=0.0, schedule_per_request=0.0, graph_tokens=512, graph_s=0.0,
    pieces_s=(0.0, 0.0), eager_s=(0.0, 0.0),
    update_s=0.0, update_per_request=0.0, hand_out_s=0.0, reply_s=0.0,
)  # fmt: skip
PROFILE = VllmProfile(
    name="ten milliseconds a step", summary="", memory_tokens=1600, max_num_seqs=8,
    max_num_batched_tokens=512, max_model_len=1024, block_size=16, async_scheduling=False,
    latency=LATENCY, noise=Noise(),
)  # fmt: skip


def serve(
    requests: Sequence[tuple[float, int, int]], *, run_ahead: bool = False, **latency: Any
) -> Run:
    """Requests as (arrival, prompt, output), first come, first served."""
    traced = [TracedRequest(i, "a", *request) for i, request in enumerate(requests)]
    profile = replace(PROFILE, latency=replace(LATENCY, **latency), async_scheduling=run_ahead)
    return simulate(traced, create_policy("fcfs"), VllmConfig(profile=profile, noise=profile.noise))


def ttfts(run: Run) -> list[float | None]:
    return [record.ttft_s for record in run.records]


@pytest.mark.parametrize(("run_ahead", "wait"), [(False, 0.005), (True, 0.015)])
def test_running_ahead_costs_who_arrives_a_step(run_ahead: bool, wait: float) -> None:
    """The second comes in the middle of a step; run ahead, the next is scheduled already."""
    run = serve([(0.0, 16, 100), (0.025, 16, 1)], run_ahead=run_ahead)
    assert ttfts(run) == pytest.approx([0.010, wait + 0.010])
    assert run.total_time_s == pytest.approx(1.0)


@pytest.mark.parametrize(("run_ahead", "step"), [(False, 0.018), (True, 0.010)])
def test_running_ahead_hides_the_engine_behind_the_gpu(run_ahead: bool, step: float) -> None:
    run = serve([(0.0, 16, 100)], run_ahead=run_ahead, schedule_s=0.006, update_s=0.002)
    assert run.total_time_s == pytest.approx(100 * step, abs=0.009)


def test_a_slow_engine_sets_the_pace() -> None:
    run = serve([(0.0, 16, 100)], run_ahead=True, schedule_s=0.009, update_s=0.005)
    assert run.total_time_s == pytest.approx(100 * 0.014, abs=0.014)


def test_a_step_too_large_for_a_graph_takes_its_launch() -> None:
    small, large = (
        serve([(0.0, prompt, 1)], graph_tokens=100, eager_s=(0.020, 0.040)).total_time_s
        for prompt in (100, 101)
    )
    assert (small, large) == pytest.approx((0.010, 0.030))


def test_tokens_are_handed_out_one_after_the_other() -> None:
    run = serve([(0.0, 16, 1)] * 3, hand_out_s=0.002, reply_s=0.001)
    assert ttfts(run) == pytest.approx([0.013, 0.015, 0.017])


def test_a_slow_front_end_falls_behind() -> None:
    run = serve([(0.0, 16, 10)] * 8, hand_out_s=0.002)
    assert run.total_time_s == pytest.approx(0.010 + 80 * 0.002)


def test_an_idle_server_waits_for_requests() -> None:
    run = serve([(5.0, 16, 2), (9.0, 16, 1)], run_ahead=True)
    assert ttfts(run) == pytest.approx([0.010, 0.010])
    assert run.total_time_s == pytest.approx(9.010)


def test_a_request_that_never_fits_is_refused_at_once() -> None:
    with pytest.raises(FairlaneError, match=r"request 0 of client a: .* is 1025, and at most 1024"):
        serve([(0.0, 1000, 25)])


def test_a_server_has_two_blocks_at_least() -> None:
    with pytest.raises(FairlaneError, match="memory-tokens must be at least 32, not 31"):
        VllmConfig(profile=PROFILE, memory_tokens=31)


def test_a_cache_that_was_not_measured_is_refused() -> None:
    requests = [TracedRequest(0, "a", 0.0, 16, 1)]
    config = VllmConfig(profile=PROFILE)
    with pytest.raises(FairlaneError, match="without a prefix cache"):
        simulate(requests, create_policy("fcfs"), config, cache=PrefixCache(requests, 100))


def test_who_is_turned_away_is_not_served() -> None:
    requests = [TracedRequest(i, "a", 0.001 * i, 16, 2) for i in range(5)]
    policy = create_policy("rpm", rate_limit=3)
    run = simulate(requests, policy, VllmConfig(profile=PROFILE))
    outcomes = [record.outcome for record in run.records]
    assert outcomes == ["finished"] * 3 + ["rejected"] * 2


def test_a_run_is_repeatable_and_seeds_differ() -> None:
    settings = Settings(
        suite="overload", scheduler="vtc", profile="h200-llama-2-7b", memory_tokens=51488,
        duration=5, rate_scale=10,
    )  # fmt: skip
    times = [replace(settings, seed=seed).run().total_time_s for seed in (0, 0, 1)]
    assert times[0] == times[1] != times[2]


@pytest.mark.parametrize("scheduler", ["fcfs", "vtc"])
def test_the_h200_serves_ten_times_the_a10gs_load(scheduler: str) -> None:
    """28 requests of 512 tokens a second, of 45 that are sent."""
    settings = Settings(
        suite="overload", scheduler=scheduler, profile="h200-llama-2-7b", memory_tokens=51488,
        duration=20, rate_scale=10,
    )  # fmt: skip
    assert isinstance(get_profile("h200-llama-2-7b"), VllmProfile)
    assert headline(settings.run())["throughput"] == pytest.approx(14_100, rel=0.05)

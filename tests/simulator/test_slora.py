"""The fast serving loop gives the times of the plain one, to the last bit, and obeys its server."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.cost import QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.policies.registry import create_policy, get_policy, policy_names
from fairlane.simulator.profile import get_profile
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import MEASURED_NOISE, NO_NOISE, Charging, ServerConfig
from fairlane.simulator.slora import ServingLoop
from fairlane.workloads.suites import get_suite
from fairlane.workloads.trace import TracedRequest
from tests.simulator.plain_loop import PlainLoop, id_of

Stamps = tuple[list[float | None], list[float | None]]

A10G = ServerConfig(profile=get_profile("a10g-llama-2-7b"), noise=MEASURED_NOISE)


def workload(
    seed: int, count: int = 150, clients: int = 5, rate: float = 3.0, longest: int = 500
) -> list[TracedRequest]:
    """Poisson arrivals of mixed lengths, single tokens among them."""
    rng = random.Random(seed)
    now = 0.0
    requests: list[TracedRequest] = []
    for i in range(count):
        now += rng.expovariate(rate)
        prompt, output = rng.randint(1, longest), rng.choice((1, 2, rng.randint(1, longest)))
        requests.append(TracedRequest(i, str(rng.randrange(clients)), now, prompt, output))
    return requests


def options_of(name: str, requests: list[TracedRequest]) -> dict[str, Any]:
    """What a policy cannot do without."""
    if "true_length" in get_policy(name).options:
        return {"true_length": lambda request: requests[id_of(request)].output_len}
    return {}


def both(
    requests: list[TracedRequest],
    make_policy: Callable[[], Policy[Any]],
    config: ServerConfig,
    seed: int = 0,
) -> tuple[Stamps, Stamps]:
    """(first tokens, ends) of the plain loop and of the fast one."""
    plain = PlainLoop(requests, make_policy(), config, Randomness(seed, config.noise)).run()
    fast = ServingLoop(requests, make_policy(), config, Randomness(seed, config.noise)).run()
    assert set(fast.rejection) == {i for i, times in plain.items() if times.rejected is not None}
    return (
        ([plain[r.id].first_token for r in requests], [plain[r.id].end for r in requests]),
        (fast.first_token, fast.end),
    )


@pytest.mark.parametrize("charging", Charging)
@pytest.mark.parametrize("name", policy_names())
def test_fast_loop_equals_plain_loop_for_every_policy(name: str, charging: Charging) -> None:
    requests = workload(seed=7)
    config = replace(A10G, charging=charging)
    plain, fast = both(requests, lambda: create_policy(name, **options_of(name, requests)), config)
    assert fast == plain


@pytest.mark.parametrize("suite", ["overload", "on-off-less", "poisson-short-long-2"])
def test_fast_loop_equals_plain_loop_on_suites(suite: str) -> None:
    requests = get_suite(suite).requests(duration=60)
    plain, fast = both(requests, lambda: create_policy("vtc"), A10G, seed=3)
    assert fast == plain


@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.2, 2.0, 40.0]),
    clients=st.sampled_from([1, 2, 40]),
    memory=st.sampled_from([2500, 10_000]),
    noisy=st.booleans(),
    charging=st.sampled_from(list(Charging)),
)
def test_fast_loop_equals_plain_loop_for_any_workload(
    seed: int, rate: float, clients: int, memory: int, noisy: bool, charging: Charging
) -> None:
    requests = workload(seed, count=60, clients=clients, rate=rate)
    config = replace(
        A10G,
        memory_tokens=memory,
        noise=MEASURED_NOISE if noisy else NO_NOISE,
        charging=charging,
        first_prefill_delay_s=(seed % 2) * 1.1,
    )
    weights = {str(i): 1 + i % 3 for i in range(clients)}
    policies: tuple[Callable[[], Policy[Any]], ...] = (
        lambda: create_policy("vtc", weights=weights, cost=QuadraticCost()),
        lambda: create_policy("vtc-predict", weights=weights),
        lambda: create_policy("rpm", rate_limit=3),
    )
    for make_policy in policies:
        plain, fast = both(requests, make_policy, config, seed)
        assert fast == plain


def test_one_request_alone_takes_prefill_and_decodes() -> None:
    profile = get_profile("a10g-llama-2-7b")
    config = ServerConfig(profile=profile)
    run = simulate([TracedRequest(0, "a", 1.0, 98, 3)], create_policy("fcfs"), config)
    [record] = run.records
    # It reaches the router at 1.003 and is found by the poll at 1.01.
    first = 1.01 + profile.prefill(100)
    end = first + profile.decode(1, 101, 101) + profile.decode(1, 102, 102)
    assert record.ttft_s == pytest.approx(first + 0.004 - 1.0, abs=1e-12)
    assert record.latency_s == pytest.approx(end + 0.004 - 1.0, abs=1e-12)
    assert run.total_time_s == pytest.approx(end + 0.004, abs=1e-12)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    requests = workload(1)
    first, again, other = (
        simulate(requests, create_policy("vtc"), A10G, seed=seed) for seed in (5, 5, 6)
    )
    assert first.records == again.records
    assert first.records != other.records


def test_rejected_requests_are_recorded_with_their_reason() -> None:
    requests = [TracedRequest(i, "a", 0.1 * i, 10, 5) for i in range(4)]
    run = simulate(requests, create_policy("rpm", rate_limit=3), A10G)
    assert [record.outcome for record in run.records] == ["finished"] * 3 + ["rejected"]
    assert run.records[3].reason == "rate_limit"
    assert run.records[3].ttft_s is None
    assert run.total_time_s == pytest.approx(0.3 + 5.0)


@pytest.mark.parametrize(("prompt", "output"), [(2047, 1), (2000, 1071), (1, 3070)])
def test_a_request_that_can_never_fit_is_refused_by_name(prompt: int, output: int) -> None:
    with pytest.raises(
        FairlaneError, match=r"request 0 of client big: .*, and at most (2046|3070) tok"
    ):
        simulate([TracedRequest(0, "big", 0.0, prompt, output)], create_policy("fcfs"), A10G)


@pytest.mark.parametrize(("prompt", "output"), [(2046, 1024), (1, 3069)])
def test_the_longest_requests_that_fit_are_served(prompt: int, output: int) -> None:
    requests = [TracedRequest(0, "big", 0.0, prompt, output)]
    run = simulate(requests, create_policy("fcfs"), A10G)
    assert run.records[0].outcome == "finished"


def test_memory_bounds_the_batch() -> None:
    """With memory for one request at a time, each waits for the one before it."""
    config = replace(A10G, memory_tokens=300, noise=NO_NOISE)
    requests = [TracedRequest(i, "a", 0.0, 100, 150) for i in range(3)]
    run = simulate(requests, create_policy("fcfs"), config)
    firsts = [record.ttft_s or 0.0 for record in run.records]
    ends = [record.latency_s or 0.0 for record in run.records]
    assert 0 < firsts[0] < ends[0] < firsts[1] < ends[1] < firsts[2]

"""A cluster is what one server is, many times, and fair over all of them where they share."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.audit import Auditor
from fairlane.policies.registry import create_policy
from fairlane.simulator.cluster import RoutedCluster
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import AnyServer, VllmConfig
from fairlane.workloads.trace import TracedRequest
from tests.simulator.floods import (
    GAIN,
    SERVER,
    WEIGHTS,
    flood,
    make_cluster,
    ratio,
    serve,
    served,
    without_replicas,
)

H200 = get_profile("h200-llama-2-7b")
assert isinstance(H200, VllmProfile)
SERVERS: dict[str, AnyServer] = {
    "slora": replace(SERVER, noise=H200.noise),
    "vllm": VllmConfig(profile=replace(H200, max_num_seqs=8), memory_tokens=4096, noise=H200.noise),
}
SHORT_OF_MEMORY = VllmConfig(profile=H200, memory_tokens=2048, preemption="fairest")
each_server = pytest.mark.parametrize("server", SERVERS)
B_ON_A_QUARTER = {"B": 0.25}


def workload(seed: int, count: int = 80, mean_gap_s: float = 0.15) -> list[TracedRequest]:
    """Bursts of three clients, with gaps in which everything falls idle."""
    rng, now = random.Random(seed), 0.0
    requests = []
    for i in range(count):
        now += rng.expovariate(1 / mean_gap_s) if rng.random() < 0.95 else 30.0
        output = rng.choice((1, 2, rng.randint(1, 200)))
        requests.append(TracedRequest(i, rng.choice("abc"), now, rng.randint(1, 400), output))
    return requests


# -- one replica -----------------------------------------------------------------------------


@each_server
@pytest.mark.parametrize("scheduler", ["fcfs", "vtc", "vtc-predict", "rpm", "drr"])
@pytest.mark.parametrize("router", ["round-robin", "random", "least-tokens", "sticky"])
def test_one_replica_gives_the_times_of_one_server_to_the_last_bit(
    server: str, scheduler: str, router: str
) -> None:
    requests = workload(3)
    options: dict[str, Any] = {"rate_limit": 10} if scheduler == "rpm" else {}
    alone = simulate(requests, create_policy(scheduler, **options), SERVERS[server], seed=5)
    cluster = make_cluster(requests, 1, "off", scheduler=scheduler, router=router, **options)
    run = serve(cluster, SERVERS[server], seed=5)
    assert without_replicas(run) == without_replicas(alone)
    assert any(record.outcome == "rejected" for record in run.records) == (scheduler == "rpm")


@each_server
@given(seed=st.integers(0, 10_000), exchange=st.sampled_from([0.0, 0.05, 1.0]))
def test_one_replica_that_shares_with_nobody_is_as_if_it_did_not(
    server: str, seed: int, exchange: float
) -> None:
    requests = workload(seed, count=40, mean_gap_s=0.05)
    alone = simulate(requests, create_policy("vtc"), SERVERS[server], seed=seed)
    cluster = make_cluster(requests, 1, exchange)
    assert without_replicas(serve(cluster, SERVERS[server], seed)) == without_replicas(alone)


# -- many ------------------------------------------------------------------------------------


@each_server
@given(
    seed=st.integers(0, 10_000),
    replicas=st.integers(2, 5),
    router=st.sampled_from(["round-robin", "random", "least-tokens", "skewed", "sticky"]),
    exchange=st.sampled_from(["off", "central", 0.0, 0.2]),
)
def test_every_request_is_served_once_by_one_replica_whoever_routes(
    server: str, seed: int, replicas: int, router: str, exchange: float | str
) -> None:
    requests = workload(seed, count=60, mean_gap_s=0.02)
    cluster = make_cluster(requests, replicas, exchange, router=router)
    run = serve(cluster, SERVERS[server])
    assert all(record.outcome == "finished" for record in run.records)
    assert all(record.replica in range(replicas) for record in run.records)
    assert all(loop.load()[:2] == (0, 0) for loop in cluster.loops)
    assert not any(loop.requests for loop in cluster.loops)


@pytest.mark.parametrize("exchange", ["off", "central", 0.0, 0.2])
def test_a_seed_is_a_run(exchange: float | str) -> None:
    def run(seed: int) -> Any:
        cluster = make_cluster(workload(1), 3, exchange, router="random")
        return serve(cluster, SERVERS["slora"], seed)

    assert run(7) == run(7)
    assert run(7).records != run(8).records


def test_replicas_have_noise_of_their_own() -> None:
    twice = [TracedRequest(i, "a", 0.0, 100, 100) for i in range(2)]
    first, second = serve(make_cluster(twice, 2, "off"), SERVERS["slora"]).records
    assert (first.replica, second.replica) == (0, 1)
    assert first.latency_s != second.latency_s


def test_in_vllms_loop_a_central_queues_preempted_requests_end_where_they_ran() -> None:
    requests = [TracedRequest(i, "ab"[i % 2], 0.01 * i, 64, 600) for i in range(40)]
    cluster = make_cluster(requests, 2, "central")
    run = serve(cluster, SHORT_OF_MEMORY)
    assert sum(loop.load().preemptions for loop in cluster.loops) > 0
    assert all(record.outcome == "finished" for record in run.records)


def test_a_central_queue_turns_a_request_away_once() -> None:
    requests = [TracedRequest(i, "a", 0.01 * i, 64, 8) for i in range(30)]
    run = serve(make_cluster(requests, 3, "central", scheduler="rpm", rate_limit=10))
    outcomes = [record.outcome for record in run.records]
    assert outcomes == ["finished"] * 10 + ["rejected"] * 20
    assert [record.replica for record in run.records[10:]] == [None] * 20


# -- fairness --------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("exchange", ["central", 0.0, 0.2, 1.0])
def test_who_is_kept_to_a_quarter_of_the_replicas_gets_its_share_of_all(
    replicas: int, exchange: float | str
) -> None:
    run = serve(
        make_cluster(flood(replicas), replicas, exchange, reach=B_ON_A_QUARTER, weights=WEIGHTS)
    )
    assert ratio(run) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("scheduler", ["vtc", "drr"])
def test_without_sharing_it_does_not(replicas: int, scheduler: str) -> None:
    cluster = make_cluster(
        flood(replicas), replicas, "off", scheduler=scheduler, reach=B_ON_A_QUARTER, weights=WEIGHTS
    )
    assert ratio(serve(cluster)) > 8.0


@pytest.mark.parametrize("exchange", ["central", "off", 0.0, 0.2])
def test_where_all_flood_all_replicas_everyone_gets_its_share_in_any_case(
    exchange: float | str,
) -> None:
    assert ratio(serve(make_cluster(flood(4), 4, exchange, weights=WEIGHTS))) == pytest.approx(
        4.0, rel=0.05
    )


def test_a_very_stale_exchange_is_worse_than_none_there() -> None:
    def run(exchange: float | str) -> float:
        return ratio(serve(make_cluster(flood(8), 8, exchange, weights=WEIGHTS)))

    stale, none = run(10.0), run("off")
    assert abs(none - 4.0) < 0.1 < 0.4 < abs(stale - 4.0)


def test_told_at_once_everyone_gets_what_one_queue_would_give() -> None:
    queue, told = (served(serve(make_cluster(flood(4), 4, how))) for how in ("central", 0.0))
    assert told == pytest.approx(queue, rel=0.03)


def test_a_debt_smaller_than_what_reports_miss_forgives_what_is_owed() -> None:
    def run(max_debt: float | None) -> float:
        cluster = make_cluster(flood(8), 8, 0.5, max_debt=max_debt, weights=WEIGHTS)
        return ratio(serve(cluster))

    assert run(None) == pytest.approx(4.0, rel=0.06)
    assert run(GAIN / 1000) < 3.5


@pytest.mark.parametrize("exchange", [0.0, 0.2, 10.0, "off"])
def test_two_that_wait_everywhere_stay_within_the_bound(exchange: float | str) -> None:
    cluster = make_cluster(flood(4), 4, exchange, weights=WEIGHTS)
    auditor = Auditor(weights=WEIGHTS, places=4)
    for replica, policy in enumerate(cluster.policies):
        policy.watch(auditor.at(replica))
    serve(cluster)
    assert isinstance(cluster, RoutedCluster)
    bound = 2 * 4 * GAIN if cluster.exchange is None else cluster.exchange.bound(2)
    assert 0 < auditor.report().observed <= auditor.report().at_most <= bound


def test_sharing_wastes_no_capacity() -> None:
    def tokens(exchange: float | str) -> float:
        run = serve(make_cluster(flood(4), 4, exchange, reach=B_ON_A_QUARTER, weights=WEIGHTS))
        return sum(served(run).values())

    alone = tokens("off")
    assert tokens(0.2) == pytest.approx(alone, rel=0.01)
    assert tokens(0.0) == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize(("guard", "least"), [(0.05, 0.03), (0.10, 0.07)])
def test_the_guard_serves_at_every_replica_who_is_ahead_by_service_elsewhere(
    guard: float, least: float
) -> None:
    assert part_of_b_at_home(guard) > least


def test_without_a_guard_it_may_get_nothing_there() -> None:
    assert part_of_b_at_home(0.0) < 0.01


def part_of_b_at_home(guard: float) -> float:
    """A floods one replica, B both: B's part of what the one that they share serves."""
    requests = flood(2)
    cluster = make_cluster(requests, 2, 0.2, guard=guard, reach={"A": 0.5})
    run = serve(cluster)
    home = next(record.replica for record in run.records if record.client == "A")
    here = [record for record in run.records if record.replica == home]
    amounts = served(replace(run, records=here))
    return amounts["B"] / sum(amounts.values())

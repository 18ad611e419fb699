"""One fairness over many schedulers: its bounds, and each part's need, on small servers.

A cluster of small servers (benchmarks/adversary_cluster.py) exchanges charges as real ones do. For
each part of the algorithm stands an example that goes wrong without it, which is run too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from benchmarks.adversary import LIMITS, Job
from benchmarks.adversary_cluster import Cluster, PlacedWave
from hypothesis import given, target
from hypothesis import strategies as st

from fairlane.core.audit import service_bound
from fairlane.core.counters import Node
from fairlane.core.fair_queue import FairQueue
from fairlane.core.policy import Policy
from fairlane.policies.registry import create_policy
from tests.driving import fewer_examples
from tests.properties.waves import any_wave

MEMORY = 200
LONGEST = LIMITS["prompt"][1]
U = service_bound(MEMORY, LONGEST) / 2  # of one server
WEIGHTS = {"c1": 2.0, "c2": 0.5}
PROMPT, OUTPUT = 5, 20
JOBS = 80


def shared(
    count: int,
    *,
    max_debt: float | None = 1.5,
    guard: float = 0.0,
    make: Callable[..., FairQueue] | None = None,
    **options: Any,
) -> list[Policy[Any]]:
    """Policies that share. max_debt: in units of all servers' U, per least weight."""
    least = min({1.0, *(options.get("weights") or {}).values()})
    policies: list[Policy[Any]] = []
    for _ in range(count):
        policy = create_policy("vtc", **options) if make is None else make(**options)
        limit = None if max_debt is None else max_debt * count * U / least
        policy.share(max_debt=limit, guard=guard, most_credit=U / 4)
        policies.append(policy)
    return policies


# -- the bounds ------------------------------------------------------------------------------


def placed(members: int) -> st.SearchStrategy[list[PlacedWave]]:
    """What three clients send to servers of their choice."""
    return st.lists(
        st.builds(
            PlacedWave,
            wave=any_wave,
            members=st.frozensets(st.integers(0, members - 1), min_size=1),
        ),
        min_size=2,
        max_size=6,
    )


@fewer_examples()
@given(
    data=st.data(),
    members=st.integers(1, 4),
    every=st.integers(0, 3),
    settles=st.sampled_from([None, 1, 3, 10]),
    weighted=st.booleans(),
    preempts=st.booleans(),
)
def test_b1_and_b2(
    data: st.DataObject,
    members: int,
    every: int,
    settles: int | None,
    weighted: bool,
    preempts: bool,
) -> None:
    """With n clients: (n - 1) H + U + 2A where they wait everywhere, and B2 where at one server.

    Where servers preempt, U grows as it does for one (test_theorems.py); all jobs may run at once.
    """
    sent = data.draw(placed(members))
    weights = WEIGHTS if weighted else None
    least = min({1.0, *(weights or {}).values()})
    reuse = sum(1 / k for k in range(1, JOBS + 1)) if preempts else 1.0
    policies = shared(members, max_debt=2.0 * reuse, weights=weights)
    cluster = Cluster(
        policies, MEMORY, every=every, settles=settles, weights=weights, preempts=preempts
    )
    ledger = cluster.run([job for wave in sent for job in wave.jobs()][:JOBS])
    one = U * reuse / least
    u, stale = members * one, ledger.most_charged(cluster.oldest) / least
    h = 2.0 * u
    if h < u + 2 * stale:
        return  # the exchange is too slow for this max_debt: nothing is claimed
    target(ledger.at_all / u, label="B1")
    target(ledger.at_one / u, label="B2")
    assert ledger.at_all <= 2 * h + u + 2 * stale
    assert ledger.at_one <= 2 * h + one + 2 * stale


@given(data=st.data(), guard=st.sampled_from([0.0, 0.05]))
def test_who_stands_alone_decides_as_without_sharing(data: st.DataObject, guard: float) -> None:
    sent = data.draw(placed(1))
    orders = []
    alone: tuple[Policy[Any], int | None] = (create_policy("vtc"), None)
    for policy, every in ((shared(1, max_debt=0.1, guard=guard)[0], 1), alone):
        watch = Order()
        policy.watch(watch)
        Cluster([policy], MEMORY, every=every).run([job for w in sent for job in w.jobs()][:JOBS])
        orders.append(watch.admitted)
    assert orders[0] == orders[1]


class Order:
    """Writes down who is admitted."""

    def __init__(self) -> None:
        self.admitted: list[Any] = []

    def admit(self, request_id: Any, *, cached_tokens: int) -> None:
        self.admitted.append(request_id)

    def enqueue(self, request: Any) -> None: ...
    def record_tokens(self, tokens: Any) -> None: ...
    def settle(self, request: Any, *, cached_tokens: int, output_tokens: int | None) -> None: ...
    def requeue(self, request_id: Any, *, undo: bool) -> None: ...
    def finish(self, request_id: Any) -> None: ...
    def set_weight(self, name: str, weight: float) -> None: ...


# -- floods ----------------------------------------------------------------------------------


def flood(
    cluster: Cluster, floods: Mapping[str, Sequence[int]], steps: int, output: int = OUTPUT
) -> dict[str, float]:
    """Keep each of these clients waiting at its members for so many steps; what each got."""
    before = {client: cluster.ledger.total.get(client, 0.0) for client in floods}
    for _ in range(steps):
        for client, members in floods.items():
            for member in members:
                while cluster.ledger.queued(member, client) < 20:
                    cluster.take(member, Job(client, cluster.step, PROMPT, output))
        cluster.turn()
    return {client: cluster.ledger.total.get(client, 0.0) - before[client] for client in floods}


def forget_waiting(cluster: Cluster, client: str) -> None:
    """The client takes back all that waits."""
    for server in cluster.servers:
        for number, job in list(server.jobs.items()):
            if job.client == client and number not in server.running:
                server.policy.finish(number, 0.0)
                del server.jobs[number]


def share_of(client: str, got: dict[str, float]) -> float:
    return got[client] / sum(got.values())


@pytest.mark.parametrize("members", [2, 4, 8])
def test_a_client_of_few_replicas_gets_its_share_of_all(members: int) -> None:
    """A floods everywhere, B a quarter of the replicas; their weights are 4 and 1."""

    def ratio(every: int | None) -> float:
        weights = {"a": 4.0}
        cluster = Cluster(shared(members, weights=weights), MEMORY, every=every)
        some = range(max(1, members // 4))
        got = flood(cluster, {"a": range(members), "b": some}, 600)
        return got["a"] / got["b"]

    assert ratio(2) == pytest.approx(4.0, rel=0.1)
    assert ratio(None) > 7  # the control: each for itself


def test_a_new_weight_counts_at_once_and_everywhere() -> None:
    cluster = Cluster(shared(3, weights={"a": 4.0}), MEMORY, every=2)
    where = {"a": [0, 1, 2], "b": [0, 1]}
    flood(cluster, where, 200)
    got = flood(cluster, where, 600)
    assert got["a"] / got["b"] == pytest.approx(4.0, rel=0.05)
    for policy in cluster.policies:
        policy.set_weight("a", 1.0)
    got = flood(cluster, where, 600)
    assert got["a"] / got["b"] == pytest.approx(1.0, rel=0.05)


# -- what goes wrong without each part -------------------------------------------------------


class LiftsWhoIsIdleEverywhere(FairQueue):
    """The control of local levels: lifts only who waits or runs nowhere."""

    cluster: Cluster

    def _reorder(self, node: Node, *, lifted: bool = True, keep_lead: bool = False) -> None:
        live = {job.client for server in self.cluster.servers for job in server.jobs.values()}
        super()._reorder(node, lifted=lifted and node.client not in live, keep_lead=keep_lead)


def test_levels_belong_to_those_who_wait_at_the_same_replica() -> None:
    """A keeps one request alive at one replica while B floods the other; then A comes there."""

    def share(make: Callable[..., FairQueue] | None) -> float:
        policies = shared(2, max_debt=None, make=make)
        cluster = Cluster(policies, MEMORY, every=2)
        for policy in policies:
            policy.cluster = cluster  # type: ignore[attr-defined]
        flood(cluster, {"a": [0], "b": [0]}, 20)
        forget_waiting(cluster, "a")
        for _ in range(605):
            if not any(job.client == "a" for job in cluster.servers[1].jobs.values()):
                cluster.take(1, Job("a", cluster.step, 1, 20))
            flood(cluster, {"b": [0]}, 1)
        flood(cluster, {"a": [0], "b": [0]}, 30)  # until the batch is not only B's
        return share_of("b", flood(cluster, {"a": [0], "b": [0]}, 100))

    assert share(None) == pytest.approx(0.5, abs=0.1)
    assert share(LiftsWhoIsIdleEverywhere) < 0.1


def test_the_level_is_not_that_of_other_replicas() -> None:
    """Eight clients crowd one replica, B has the other alone; then A comes to B's."""

    def share(level_of_all: bool) -> float:
        policies: list[Any] = []

        def least(here: float | None, last: float | None) -> float | None:
            levels = [p._tree.root.order.least_counter() for p in policies]
            return min((level for level in levels if level is not None), default=last)

        make = partial(FairQueue, lift=least) if level_of_all else None
        policies += shared(2, max_debt=None, make=make)
        cluster = Cluster(policies, MEMORY, every=2)
        crowd = {f"c{n}": [1] for n in range(8)}
        flood(cluster, {"b": [0], **crowd}, 400)
        return share_of(
            "b", flood(cluster, {"a": [0], "b": [0], **crowd}, 100) | dict.fromkeys(crowd, 0.0)
        )

    assert share(level_of_all=False) == pytest.approx(0.5, abs=0.1)
    assert share(level_of_all=True) < 0.1


def test_debts_are_limited() -> None:
    """A has three of four replicas alone; then it comes to B's, and is known there."""

    def share(max_debt: float | None) -> float:
        cluster = Cluster(shared(4, max_debt=max_debt), MEMORY, every=2)
        flood(cluster, {"a": [0], "b": [0]}, 20)
        forget_waiting(cluster, "a")
        flood(cluster, {"a": [1, 2, 3], "b": [0]}, 400)
        forget_waiting(cluster, "a")
        return share_of("a", flood(cluster, {"a": [0], "b": [0]}, 400))

    assert share(1.5) > 0.25
    assert share(None) < 0.02


def test_limits_to_debts_that_are_too_small_forgive_the_flood() -> None:
    def ratio(max_debt: float) -> float:
        weights = {"a": 4.0}
        cluster = Cluster(shared(4, max_debt=max_debt, weights=weights), MEMORY, every=10)
        got = flood(cluster, {"a": range(4), "b": [0]}, 800)
        return got["a"] / got["b"]

    assert ratio(1.5) == pytest.approx(4.0, rel=0.1)
    assert ratio(1 / 80) > 4.8


def test_the_guard_serves_who_has_its_share_elsewhere() -> None:
    """B waits at both replicas, A at one: by totals B's requests there would never be served."""

    def served(guard: float) -> float:
        cluster = Cluster(shared(2, guard=guard), MEMORY, every=2)
        flood(cluster, {"a": [0], "b": [0, 1]}, 200)
        before = cluster.ledger.served[0]["b"]
        got = flood(cluster, {"a": [0], "b": [0, 1]}, 600)
        return (cluster.ledger.served[0]["b"] - before) / (sum(got.values()) / 2)

    assert served(0.05) == pytest.approx(0.05, rel=0.3)
    assert served(0.1) == pytest.approx(0.1, rel=0.3)
    assert served(0.0) < 0.01


def with_contradicting_levels(guard: float, settles: int | None = None) -> Cluster:
    """Cut off from each other, each replica lifted who came last to the level of the other's."""
    cluster = Cluster(shared(2, guard=guard), MEMORY, every=2, settles=settles)
    flood(cluster, {"a": [0, 1], "b": [0, 1]}, 20)
    forget_waiting(cluster, "a")
    forget_waiting(cluster, "b")
    cluster.hub.cut_off = {0, 1}
    flood(cluster, {"b": [0], "a": [1]}, 200)
    flood(cluster, {"a": [0, 1], "b": [0, 1]}, 20)
    cluster.hub.cut_off = set()
    flood(cluster, {"a": [0, 1], "b": [0, 1]}, 20)
    return cluster


def least_part(cluster: Cluster) -> float:
    """The least part of a replica that one of two who flood it gets there; half of all is right."""
    before = [dict(served) for served in cluster.ledger.served]
    got = flood(cluster, {"a": [0, 1], "b": [0, 1]}, 200)
    assert share_of("a", got) == pytest.approx(0.5, abs=0.05)
    least = [
        min(now[c] - then[c] for c in "ab")
        for now, then in zip(cluster.ledger.served, before, strict=True)
    ]
    return min(least) / (sum(got.values()) / 2)


def test_the_guard_serves_both_where_levels_contradict_each_other() -> None:
    assert least_part(with_contradicting_levels(guard=0.05)) > 0.03
    assert least_part(with_contradicting_levels(guard=0.0)) < 0.01


@pytest.mark.parametrize("guard", [0.0, 0.05])
def test_levels_that_contradict_each_other_settle(guard: float) -> None:
    """So that nobody waits at a replica for what it is given at another."""
    cluster = with_contradicting_levels(guard, settles=10)
    flood(cluster, {"a": [0, 1], "b": [0, 1]}, 200)
    assert least_part(cluster) > 0.4


def test_who_is_cut_off_is_served_as_without_sharing_and_comes_back() -> None:
    cluster = Cluster(shared(2), MEMORY, every=2)
    where = {"a": [0, 1], "b": [0]}
    flood(cluster, where, 200)
    cluster.hub.cut_off = {0, 1}
    got = flood(cluster, where, 400)
    assert share_of("b", got) == pytest.approx(0.25, abs=0.03)  # half of one of the two
    cluster.hub.cut_off = set()
    flood(cluster, where, 200)
    got = flood(cluster, where, 400)
    assert share_of("b", got) == pytest.approx(0.5, abs=0.05)

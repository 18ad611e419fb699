"""The paper's theorems about VTC, asserted over random and adversarial workloads on a small server.

U is what `service_bound` halves; with weights everything is per weight and U grows by 1 / least
weight. Where the host preempts, memory is used more than once: of k requests that a client has
running since it was admitted last, the first to be put back has produced no more than M / k tokens
since, the next M / (k - 1), and so on. So U grows by the k-th harmonic number.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, floor
from typing import Any, cast

import pytest
from benchmarks.adversary import LIMITS, Job, Server, Wave
from hypothesis import given, target
from hypothesis import strategies as st

from fairlane.core.audit import Auditor, service_bound
from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.policy import Policy
from fairlane.core.tree import split_path
from fairlane.core.types import Request, RequestId
from fairlane.policies.registry import policy_names
from tests.driving import fresh
from tests.properties.estimates import Estimates
from tests.properties.ledger import Ledger
from tests.properties.waves import CLIENTS, any_wave

MEMORY = 200
LONGEST = LIMITS["prompt"][1]
WEIGHTS = {"c1": 2.0, "c2": 0.5}

waves = st.lists(any_wave, min_size=2, max_size=6)


class SpreadWatch:
    """Lemma 4.3: the widest spread of the counters of backlogged clients, after every event."""

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy
        self.widest = 0.0

    def look(self) -> None:
        states = self.policy.snapshot().clients.values()
        levels = [s.counter for s in states if s.queued and s.counter is not None]
        if levels:
            self.widest = max(self.widest, max(levels) - min(levels))

    def enqueue(self, request: Request) -> None:
        self.look()

    def admit(self, request_id: RequestId, *, cached_tokens: int) -> None:
        self.look()

    def record_tokens(self, tokens: Mapping[RequestId, int]) -> None:
        self.look()

    def settle(self, request: Request, *, cached_tokens: int, output_tokens: int | None) -> None:
        self.look()

    def requeue(self, request_id: RequestId, *, undo: bool) -> None:
        self.look()

    def finish(self, request_id: RequestId) -> None:
        self.look()

    def set_weight(self, name: str, weight: float) -> None:
        self.look()


def serve(
    sent: list[Wave],
    *,
    name: str = "vtc",
    cost: Cost | None = None,
    weights: dict[str, float] | None = None,
    preempts: bool = False,
) -> tuple[Ledger, float]:
    """Serve the waves; what was written down, and Lemma 4.3's spread."""
    policy = fresh(name, cost=cost, weights=weights)
    ledger, spread = Ledger(cost, weights), SpreadWatch(policy)
    policy.watch(ledger)
    policy.watch(spread)
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    Server(policy, MEMORY, preempts=preempts).run(jobs)
    return ledger, spread.widest


def half_bound(cost: Cost | None, weights: dict[str, float] | None) -> float:
    """U per weight."""
    least = min({1.0, *(weights or {}).values()})
    return service_bound(MEMORY, LONGEST, cost, LIMITS["output"][1], least) / 2


def reuse(ledger: Ledger, preempts: bool) -> float:
    """By how much preemption lets U grow; see the module."""
    return sum(1 / k for k in range(1, ledger.most_running + 1)) if preempts else 1.0


COSTS = st.sampled_from([LinearCost(), LinearCost(10, 1), QuadraticCost()])


@given(sent=waves, cost=COSTS, weights=st.sampled_from([None, WEIGHTS]), preempts=st.booleans())
def test_lemma_4_3_and_theorems_4_4_and_4_9(
    sent: list[Wave], cost: Cost, weights: dict[str, float] | None, preempts: bool
) -> None:
    ledger, spread = serve(sent, cost=cost, weights=weights, preempts=preempts)
    u = half_bound(cost, weights) * reuse(ledger, preempts)
    difference, lag = ledger.largest_difference(), ledger.largest_lag()
    target(difference / u, label="difference")
    target(lag / u, label="lag")
    assert spread <= u
    assert difference <= 2 * u
    assert lag <= 4 * u


def test_where_the_host_preempts_the_papers_u_is_too_small() -> None:
    """A client's older requests fill the memory that its preempted ones had filled before."""
    sent = [
        Wave("c0", 95, 2, 34, 10, 43, 2), Wave("c1", 104, 24, 29, 19, 65, 8),
        Wave("c2", 105, 37, 3, 9, 85, 6), Wave("c0", 181, 30, 4, 17, 84, 6),
        Wave("c1", 151, 18, 3, 8, 66, 6), Wave("c2", 99, 27, 30, 20, 91, 6),
    ]  # fmt: skip
    u = half_bound(None, None)
    _, spread = serve(sent)
    assert spread <= u
    ledger, spread = serve(sent, preempts=True)
    assert u < spread <= u * reuse(ledger, True)


def test_where_prompts_are_dear_the_papers_u_is_too_small() -> None:
    """max(w_p L_in, w_q M) leaves out that a client's output goes on beside a prompt's charge."""
    sent = [Wave("c0", 0, 1, 1, 1, 1, 1), Wave("c0", 132, 40, 13, 1, 1, 4)]
    sent.append(Wave("c1", 108, 25, 12, 2, 8, 5))
    cost = LinearCost(10, 1)
    _, spread = serve(sent, cost=cost)
    assert max(10 * LONGEST, MEMORY) < spread <= half_bound(cost, None)


@given(sent=waves, cost=COSTS)
def test_theorems_4_11_and_4_13(sent: list[Wave], cost: Cost) -> None:
    ledger, _ = serve(sent, cost=cost)
    u = half_bound(cost, None)
    clients = len(ledger.service)
    until_dispatch, refusal = ledger.latest_dispatch(), ledger.largest_refusal()
    target(until_dispatch / u, label="service of others until dispatch")
    target(refusal / u, label="refused")
    assert until_dispatch <= 2 * (clients - 1) * u
    assert refusal <= 5 * u


TEAMS = {"c0": "x/a", "c1": "x/b", "c2": "y/a"}


@given(sent=waves, weight=st.sampled_from([1.0, 4.0]), preempts=st.booleans())
def test_theorem_4_4_holds_on_every_level_of_a_tree(
    sent: list[Wave], weight: float, preempts: bool
) -> None:
    """Between organisations by their weights, and between the members of one."""
    weights = {"x": weight, "x/b": weight}
    policy = fresh("vtc", path_of=split_path, weights=weights)
    between = Auditor(name_of=lambda client: client.split("/")[0], weights=weights)
    within = Ledger(weights=weights)
    policy.watch(between)
    policy.watch(within)
    jobs = [replace(job, client=TEAMS[job.client]) for wave in sent for job in wave.jobs()][:60]
    Server(policy, MEMORY, preempts=preempts).run(jobs)
    siblings = within.largest_difference("x/a", "x/b")
    target(siblings, label="between siblings")
    u = half_bound(None, None) * reuse(within, preempts)
    assert between.report().observed <= 2 * u
    assert siblings <= 2 * u


@given(sent=waves)
def test_knowing_the_output_costs_the_bound_no_more_than_what_is_prepaid(sent: list[Wave]) -> None:
    """Counters stay within one admission; service lags them by what is prepaid, w_q M at most."""
    difference = serve_by_oracle(sent, preempts=False).largest_difference()
    assert difference <= 2 * (ONE_ADMISSION + 2 * MEMORY)


def test_where_the_host_preempts_more_is_prepaid_than_its_memory_holds() -> None:
    """It lets requests in whose outputs do not fit all at once."""
    sent = [Wave("c0", 0, 1, 1, 1, 1, 1), Wave("c0", 0, 1, 1, 1, 1, 2)]
    sent.append(Wave("c1", 0, 8, 35, 22, 1, 2))
    without = 2 * (ONE_ADMISSION + 2 * MEMORY)
    assert serve_by_oracle(sent, preempts=False).largest_difference() <= without
    assert serve_by_oracle(sent, preempts=True).largest_difference() > without


ONE_ADMISSION = LONGEST + 2 * LIMITS["output"][1]


def serve_by_oracle(sent: list[Wave], preempts: bool) -> Ledger:
    policy = fresh("vtc-oracle", true_length=lambda request: request.max_output_tokens)
    ledger = Ledger()
    policy.watch(ledger)
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    Server(policy, MEMORY, preempts=preempts).run(jobs)
    return ledger


@given(sent=waves, limit=st.sampled_from([0.0, 40.0, 400.0]), preempts=st.booleans())
def test_a_limit_on_advances_bounds_what_wrong_predictions_cost(
    sent: list[Wave], limit: float, preempts: bool
) -> None:
    policy = fresh("vtc-predict", max_advance=limit)
    ledger = Ledger()
    policy.watch(ledger)
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    Server(policy, MEMORY, preempts=preempts).run(jobs)
    difference = ledger.largest_difference()
    target(difference, label="difference")
    assert difference <= 2 * (half_bound(None, None) * reuse(ledger, preempts) + 2 * limit)


@pytest.mark.parametrize(("name", "quanta"), [("drr", 3), ("dlpm", 2)])
@given(sent=waves, quantum=st.sampled_from([10.0, 400.0, 1000.0]))
def test_policies_that_pay_quanta_keep_a_bound_wider_by_some_of_them(
    name: str, quanta: int, sent: list[Wave], quantum: float
) -> None:
    policy, auditor = fresh(name, quantum=quantum), Auditor()
    policy.watch(auditor)
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    Server(policy, MEMORY).run(jobs)
    difference = auditor.report().observed
    target(difference, label="difference")
    assert difference <= 2 * half_bound(None, None) + quanta * quantum


# -- where prompts are known by estimates, and settled later ---------------------------------

GUESSES = st.fixed_dictionaries({c: st.sampled_from([0.25, 0.8, 1.0, 1.25, 4.0]) for c in CLIENTS})


def estimated(
    sent: list[Job], guesses: Mapping[str, float], after: int | None, policy: Policy[Any],
    truth: Ledger, *, preempts: bool = False, steps: int | None = None,
) -> Estimates:  # fmt: skip
    """Serve jobs whose prompts the policy takes for `guesses` times as long, but for rounding."""

    def guess(request: Request) -> int:
        factor = guesses[request.client]
        exact = request.prompt_tokens * factor
        return floor(exact) if factor > 1 else ceil(exact)

    host = Estimates(policy, guess, after, truth)
    Server(cast(Any, host), MEMORY, preempts=preempts).run(sent, steps)
    return host


@given(
    sent=waves,
    guesses=GUESSES,
    after=st.sampled_from([1, 10, 1000]),
    cost=COSTS,
    weights=st.sampled_from([None, WEIGHTS]),
    preempts=st.booleans(),
)
def test_estimates_that_are_settled_widen_theorem_4_4_by_what_they_were_wrong_by(
    sent: list[Wave],
    guesses: Mapping[str, float],
    after: int,
    cost: Cost,
    weights: dict[str, float] | None,
    preempts: bool,
) -> None:
    """U is that of the longest true prompt; what was settled is charged to the last bit."""
    policy = fresh("vtc", cost=cost, weights=weights)
    truth, told = Ledger(cost, weights), Ledger(cost, weights)
    policy.watch(told)
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    host = estimated(jobs, guesses, after, policy, truth, preempts=preempts)
    u = half_bound(cost, weights) * reuse(truth, preempts)
    difference = truth.largest_difference()
    target((difference - 2 * u) / (2 * host.error or 1), label="of what estimates may add")
    assert difference <= 2 * (u + host.error)
    assert told.service == truth.service
    factor = max(max(guess, 1 / guess) for guess in guesses.values())
    if isinstance(cost, LinearCost) and weights is None and not preempts:
        assert host.error <= (factor - 1) * cost.input_price * MEMORY


def test_the_papers_bound_is_too_small_for_estimates_that_are_settled_late() -> None:
    """A client in the batch was charged four times its prompts, waits, and gets it all back."""
    jobs = [Job("c0", 0, 40, 10)] * 40 + [Job("c1", 0, 38, 2)] * 300
    cost = LinearCost(10, 1)
    u = half_bound(cost, None)
    differences = []
    for factor in (4.0, 1.0):
        guesses, truth = {"c0": factor, "c1": 1.0}, Ledger(cost)
        host = estimated(jobs, guesses, 1000, fresh("vtc", cost=cost), truth, steps=300)
        differences.append(truth.largest_difference())
        assert differences[-1] <= 2 * (u + host.error)
    assert differences[0] > 2 * u >= differences[1]


@pytest.mark.parametrize(("name", "quanta"), [("drr", 3), ("dlpm", 2)])
@given(sent=waves, guesses=GUESSES, after=st.sampled_from([1, 10, 1000]))
def test_so_it_is_for_policies_that_pay_quanta(
    name: str, quanta: int, sent: list[Wave], guesses: Mapping[str, float], after: int
) -> None:
    truth = Ledger()
    jobs = [job for wave in sent for job in wave.jobs()][:60]
    host = estimated(jobs, guesses, after, fresh(name, quantum=400.0), truth)
    u = half_bound(None, None)
    assert truth.largest_difference() <= 2 * (u + host.error) + quanta * 400


@pytest.mark.parametrize("name", ["vtc", "drr", "dlpm"])
def test_estimates_that_are_never_settled_lose_the_bound(name: str) -> None:
    """Negative control: whose prompts look short is served more, for as long as both wait."""
    jobs = [Job(client, n // 4, 40, 1) for n in range(4000) for client in ("c0", "c1")]
    differences = []
    for after in (1, None):
        truth, options = Ledger(), {"quantum": 100.0} if name != "vtc" else {}
        policy = fresh(name, **options)
        host = estimated(jobs, {"c0": 0.25, "c1": 1.0}, after, policy, truth, steps=300)
        differences.append(truth.largest_difference())
    bound = 2 * (half_bound(None, None) + host.error) + 3 * options.get("quantum", 0.0)
    assert differences[0] <= bound
    assert differences[1] > 2 * bound


# -- what no policy can do better, and what unfair ones do worse -----------------------------


def observed(name: str, jobs: list[Job], memory: int, steps: int | None = None) -> float:
    """The largest service difference of two backlogged clients."""
    policy, auditor = fresh(name), Auditor()
    policy.watch(auditor)
    Server(policy, memory).run(jobs, steps)
    return auditor.report().observed


@pytest.mark.parametrize("name", policy_names())
def test_theorem_4_8_no_scheduler_that_always_works_and_never_preempts_does_better(
    name: str,
) -> None:
    """One client fills the memory a moment before the other comes."""
    jobs = [Job("early", 0, 1, 99)] * 15 + [Job("late", 1, 1, 99)]
    difference = observed(name, jobs, memory=1000)
    assert difference >= 0.95 * 2 * 1000


def stream(client: str, every: int, output: int, start: int = 0) -> list[Job]:
    """More requests than there is room for, at a steady pace."""
    return [Job(client, start + every * n, 1, output) for n in range(4000 // every)]


FLOOD = stream("many", 1, 10) + stream("few", 4, 10)
LONG_AND_SHORT = stream("long", 2, 40) + stream("short", 2, 2)
LATE = stream("first", 1, 10) + stream("late", 1, 10, start=1500)
UNFAIR = [
    ("fcfs", FLOOD),
    ("rpm", stream("long", 4, 40) + stream("short", 4, 2)),
    ("round-robin", LONG_AND_SHORT),
    ("lcf", LATE),
]


@pytest.mark.parametrize(("name", "jobs"), UNFAIR, ids=[name for name, _ in UNFAIR])
def test_unfair_policies_exceed_the_bound_where_vtc_keeps_it(name: str, jobs: list[Job]) -> None:
    """Negative controls: the longer both wait, the more they differ; under VTC they never do."""
    bound = service_bound(100, 1)
    if name == "rpm":  # a limit that rejects nothing leaves the order to FCFS
        policy, auditor = fresh("rpm", rate_limit=60), Auditor()
        policy.watch(auditor)
        Server(policy, 100).run(jobs, 3000)
        difference = auditor.report().observed
    else:
        difference = observed(name, jobs, 100, steps=3000)
    assert difference > 2 * bound
    assert observed("vtc", jobs, 100, steps=3000) <= bound
    assert observed("vtc-predict", jobs, 100, steps=3000) <= bound


@pytest.mark.parametrize(("name", "jobs"), UNFAIR[:3], ids=[name for name, _ in UNFAIR[:3]])
def test_the_difference_under_unfair_policies_grows_with_time(name: str, jobs: list[Job]) -> None:
    if name == "rpm":
        name = "fcfs"
    assert observed(name, jobs, 100, 3000) > 1.6 * observed(name, jobs, 100, 1500)


def test_overshooting_predictions_lose_the_bound_and_a_limit_keeps_one() -> None:
    """A client teaches the predictor long outputs, then fills the batch with short ones.

    The other comes at that moment, is lifted to a counter full of advances, and waits while they
    are given back.
    """
    jobs = (
        [Job("sly", 0, 1, 40)] * 5 + [Job("sly", 60, 1, 2)] * 3000 + [Job("late", 61, 1, 2)] * 3000
    )
    u = service_bound(200, 1) / 2
    differences = []
    for limit in (None, u / 4):
        policy, auditor = fresh("vtc-predict", max_advance=limit), Auditor()
        policy.watch(auditor)
        Server(policy, 200).run(jobs, 200)
        differences.append(auditor.report().observed)
    assert differences[0] > 8 * u
    assert differences[1] <= 2 * (u + u / 2)
    assert observed("vtc", jobs, 200, 200) <= 2 * u

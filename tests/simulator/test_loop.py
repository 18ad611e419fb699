"""Loops that learn of requests as they come: the same times, and clients that leave."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.policy import Policy
from fairlane.core.types import Rejection
from fairlane.policies.registry import create_policy
from fairlane.simulator.loop import Loop
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.randomness import Noise, Randomness
from fairlane.simulator.serving import NO_NOISE, AnyServer, ServerConfig, VllmConfig
from fairlane.simulator.slora import ServingLoop
from fairlane.simulator.vllm import VllmLoop
from fairlane.workloads.trace import TracedRequest

H200 = get_profile("h200-llama-2-7b")
assert isinstance(H200, VllmProfile)
SERVERS: dict[str, AnyServer] = {
    "slora": ServerConfig(profile=get_profile("a10g-llama-2-7b"), noise=NO_NOISE),
    "vllm": VllmConfig(
        profile=replace(H200, max_num_seqs=8), memory_tokens=4096, noise=H200.noise.without()
    ),
}
each_server = pytest.mark.parametrize("server", SERVERS)


@dataclass
class Ear:
    """Hears everything."""

    each_token: bool = True
    tokens: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: set[int] = field(default_factory=set)
    turned_away: dict[int, str] = field(default_factory=dict)
    queued: set[int] = field(default_factory=set)

    def accepted(self, position: int) -> None:
        self.queued.add(position)

    def rejected(self, position: int, rejection: Rejection) -> None:
        self.turned_away[position] = rejection.reason

    def token(self, position: int, at: float, last: bool) -> None:
        assert position not in self.ended
        self.tokens[position].append(at)
        if last:
            self.ended.add(position)


def make_loop(
    server: AnyServer, policy: Policy[Any], requests: Sequence[TracedRequest], ear: Ear | None
) -> Loop:
    randomness = Randomness(0, server.noise)
    if isinstance(server, VllmConfig):
        return VllmLoop(requests, policy, server, randomness, ear)
    return ServingLoop(requests, policy, server, randomness, listener=ear)


def workload(seed: int, count: int = 80, mean_gap_s: float = 0.15) -> list[TracedRequest]:
    """Bursts with gaps in which the server falls idle, and single tokens."""
    rng = random.Random(seed)
    now, requests = 0.0, []
    for i in range(count):
        now += rng.expovariate(1 / mean_gap_s) if rng.random() < 0.95 else 30.0
        output = rng.choice((1, 2, rng.randint(1, 200)))
        requests.append(TracedRequest(i, rng.choice("abc"), now, rng.randint(1, 400), output))
    return requests


def advance_to(loop: Loop, time: float) -> None:
    """As a real clock would, which shows `time` now."""
    while loop.due < time:
        loop.advance()


@each_server
@pytest.mark.parametrize("scheduler", ["fcfs", "vtc", "rpm", "drr"])
@pytest.mark.parametrize("seed", range(3))
def test_who_comes_unannounced_is_served_at_the_same_time_to_the_last_bit(
    server: str, scheduler: str, seed: int
) -> None:
    requests, options = workload(seed), {"rate_limit": 10} if scheduler == "rpm" else {}
    known = make_loop(SERVERS[server], create_policy(scheduler, **options), requests, None)
    expected = known.run()
    ear = Ear()
    loop = make_loop(SERVERS[server], create_policy(scheduler, **options), (), ear)
    for request in requests:
        advance_to(loop, request.arrival_s)
        loop.add(request.id, request)
    while loop.due < inf:
        loop.advance()
    assert ear.turned_away == expected.rejection
    for request in requests:
        if request.id not in ear.turned_away:
            times = ear.tokens[request.id]
            first, end = expected.first_token[request.id], expected.end[request.id]
            assert (times[0], times[-1]) == (first, end)
            assert len(times) == request.output_len
            assert times == sorted(times)
    assert bool(ear.turned_away) == (scheduler == "rpm")


@each_server
@given(seed=st.integers(0, 10_000), scheduler=st.sampled_from(["fcfs", "vtc", "dlpm"]))
def test_clients_that_leave_hold_nothing_and_stop_nobody(
    server: str, seed: int, scheduler: str
) -> None:
    rng, ear, policy = random.Random(seed), Ear(), create_policy(scheduler)
    loop = make_loop(SERVERS[server], policy, (), ear)
    requests = workload(seed, count=40, mean_gap_s=0.05)
    leaving = {r.id for r in requests if rng.random() < 0.4}
    events = [(r.arrival_s, 0, r) for r in requests]
    events += [(r.arrival_s + rng.expovariate(1), 1, r) for r in requests if r.id in leaving]
    heard = {}
    for at, leaves, request in sorted(events, key=lambda event: event[:2]):
        advance_to(loop, at)
        if leaves:
            loop.abort(request.id)
            loop.abort(request.id)  # and again, which is nothing
            heard[request.id] = len(ear.tokens[request.id])
        else:
            loop.add(request.id, request)
    while loop.due < inf:
        loop.advance()
    assert loop.load()[:3] == (0, 0, 0.0)
    assert policy.snapshot().clients == {}
    assert not loop.requests
    for request in requests:
        if request.id not in leaving:
            assert len(ear.tokens[request.id]) == request.output_len
        else:
            assert len(ear.tokens[request.id]) == heard[request.id]


@each_server
def test_memory_of_who_leaves_is_free_at_once(server: str) -> None:
    ear = Ear()
    loop = make_loop(SERVERS[server], create_policy("fcfs"), (), ear)
    for i in range(4):
        loop.add(i, TracedRequest(i, str(i), 0.0, 200, 100))
    while len(ear.tokens[3]) < 5:
        loop.advance()
    assert loop.load().running == 4
    held = loop.load().memory_used
    loop.abort(1)
    loop.abort(2)
    assert loop.load().running == 2
    assert loop.load().memory_used == pytest.approx(held / 2, rel=0.05)


def test_noise_of_steps_gone_by_is_forgotten() -> None:
    randomness, all_of_it = (Randomness(0, Noise(step=0.1)) for _ in range(2))
    randomness.grow(10_000)
    all_of_it.grow(12_000)
    assert randomness.forget(100) == 0
    assert randomness.forget(9_000) == 9_000
    randomness.grow(3_000)
    assert randomness.factors[:3_000] == all_of_it.factors[9_000:12_000]
    assert randomness.luck[:3_000] == all_of_it.luck[9_000:12_000]

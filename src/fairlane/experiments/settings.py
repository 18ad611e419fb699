"""One run, fully described: what `fairlane simulate` takes and what a manifest echoes."""

import math
import random
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fairlane.core.audit import Auditor, service_bound
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.policy import Policy
from fairlane.core.preemption import default_preemption
from fairlane.core.types import Request
from fairlane.experiments.profile_cost import read_cost
from fairlane.policies.registry import get_policy
from fairlane.records import Run, read_run
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import (
    MEASURED_NOISE,
    NO_NOISE,
    AnyServer,
    Charging,
    ServerConfig,
    VllmConfig,
)
from fairlane.workloads.artifact_trace import import_artifact_pickle
from fairlane.workloads.suites import Suite, get_suite
from fairlane.workloads.trace import TracedRequest, checked, read_csv

COSTS: dict[str, LinearCost | QuadraticCost] = {
    "linear": LinearCost(),
    "quadratic": QuadraticCost(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one simulated run is made of; None and () leave a setting to its default.

    weights: of the clients, in the order of their names as numbers. cost: a name in COSTS, or a
    TOML file that `fairlane profile-cost` wrote. predict_range: how far the oracle may be off,
    relative. trace: the file with the requests of the suite "real", as `read_requests` takes it.
    duration: seconds. rates: requests per second of each client, in place of the suite's.
    rate_scale: times the rate; a suite's duration and silent windows stay, a trace is sent in so
    much less time.
    quantum: service per turn of drr and dlpm. prefix_cache_tokens: size of the server's prefix
    cache. preemption: where the server preempts, newest or fairest (core/preemption.py).
    artifact_lift, charging: the artifact's deviations from the paper. seed: of the noise and the
    oracle; workload_seed: of the workload.
    """

    suite: str
    scheduler: str
    profile: str | None = None
    memory_tokens: int | None = None
    weights: tuple[float, ...] = ()
    cost: str = "linear"
    rate_limit: int | None = None
    predict_range: float | None = None
    quantum: float | None = None
    prefix_cache_tokens: int | None = None
    preemption: str | None = None
    trace: str | None = None
    duration: float | None = None
    rates: tuple[float, ...] = ()
    rate_scale: float = 1.0
    artifact_lift: bool = False
    charging: str = Charging.DELIVERY.value
    first_prefill_delay_s: float = 0.0
    noise: bool = True
    seed: int = 0
    workload_seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.first_prefill_delay_s < math.inf:
            delay = self.first_prefill_delay_s
            raise FairlaneError(f"the delay of the first prefill must be seconds >= 0, not {delay}")
        if not 0 < self.rate_scale < math.inf:
            raise FairlaneError(f"rate_scale must be a number above 0, not {self.rate_scale}")

    def requests(self) -> list[TracedRequest]:
        """The workload."""
        suite = get_suite(self.suite)
        if self.rates:
            suite = replace(suite, config=replace(suite.config, req_rate=self.rates))
        trace = None
        if self.trace is not None:
            server = self.server()
            most = server.max_total_tokens - server.prompt_overhead
            trace = read_requests(self.trace, max_total_len=most)
        return scaled_requests(suite, self.rate_scale, self.workload_seed, self.duration, trace)

    def server(self) -> AnyServer:
        """The simulated server."""
        profile = get_profile(self.profile or get_suite(self.suite).profile)
        if isinstance(profile, VllmProfile):
            return VllmConfig(
                profile=profile,
                memory_tokens=self.memory_tokens or 0,
                first_prefill_delay_s=self.first_prefill_delay_s,
                noise=profile.noise if self.noise else profile.noise.without(),
                preemption=self.preemption or default_preemption(self.scheduler),
            )
        if self.preemption is not None:
            raise FairlaneError(f"preemption: the server of {profile.name} does not preempt")
        return ServerConfig(
            profile=profile,
            memory_tokens=self.memory_tokens or 0,
            charging=self._charging(),
            first_prefill_delay_s=self.first_prefill_delay_s,
            noise=MEASURED_NOISE if self.noise else NO_NOISE,
        )

    def _charging(self) -> Charging:
        known = [charging.value for charging in Charging]
        if self.charging not in known:
            raise UnknownNameError("charging", self.charging, known)
        return Charging(self.charging)

    def cost_function(self) -> LinearCost | QuadraticCost:
        """What a request's tokens are worth."""
        if self.cost.endswith(".toml"):
            return read_cost(Path(self.cost))
        if self.cost not in COSTS:
            raise UnknownNameError("cost", self.cost, COSTS)
        return COSTS[self.cost]

    def client_weights(self, requests: list[TracedRequest]) -> dict[str, float]:
        """The i-th weight belongs to the i-th client, clients in the order of their numbers."""
        clients = sorted({r.client for r in requests}, key=lambda name: (len(name), name))
        if self.weights and len(self.weights) != len(clients):
            raise FairlaneError(
                f"{len(self.weights)} weights for {len(clients)} clients: give one each"
            )
        return dict(zip(clients, self.weights, strict=False))

    def policy(
        self, requests: list[TracedRequest], cache: PrefixCache | None = None
    ) -> Policy[Any]:
        """A fresh scheduler; options that it does not take are an error."""
        spec = get_policy(self.scheduler)
        options: dict[str, Any] = {}
        if self.cost != "linear":
            options["cost"] = self.cost_function()
        if self.weights:
            options["weights"] = self.client_weights(requests)
        if self.rate_limit is not None:
            options["rate_limit"] = self.rate_limit
        if self.artifact_lift and "artifact_lift" in spec.options:
            options["artifact_lift"] = True
        if self.predict_range is not None:
            options["predict_range"] = self.predict_range
            options["uniform"] = random.Random(self.seed).uniform
        if self.quantum is not None:
            options["quantum"] = self.quantum
        if cache is not None and "cached_tokens" in spec.options:
            options["cached_tokens"] = cache.cached_tokens
        if "true_length" in spec.options:
            options["true_length"] = _true_length(requests)
        return spec.create(**options)

    def run(self, *, audited: bool = False) -> Run:
        """Simulate; the manifest holds these settings and the server's.

        audited: an auditor watches the scheduler, and the manifest says what it saw: the largest
        difference in service per weight while two clients waited, and VTC's bound on it.
        """
        requests = self.requests()
        cache = None
        if self.prefix_cache_tokens is not None:
            cache = PrefixCache(requests, self.prefix_cache_tokens)
        policy = self.policy(requests, cache)
        auditor = self._auditor(requests) if audited else None
        if auditor is not None:
            policy.watch(auditor)
        server = self.server()
        if isinstance(server, VllmConfig):
            server = replace(server, weights=self.client_weights(requests))
        run = simulate(requests, policy, server, seed=self.seed, cache=cache)
        run.manifest = {**asdict(self), **run.manifest}
        if auditor is not None:
            report = auditor.report()
            run.manifest["audit"] = {"observed": report.observed, "bound": report.bound}
        return run

    def _auditor(self, requests: list[TracedRequest]) -> Auditor:
        cost, weights = self.cost_function(), self.client_weights(requests)
        server = self.server()
        prompt = max((r.prompt_len for r in requests), default=0) + server.prompt_overhead
        output = max((r.output_len for r in requests), default=1)
        least = min(weights.values(), default=1.0)
        bound = service_bound(server.memory_tokens, prompt, cost, output, least)
        return Auditor(cost=cost, weights=weights, bound=bound)


def scaled_requests(
    suite: Suite,
    rate_scale: float,
    seed: int,
    duration: float | None = None,
    trace: list[TracedRequest] | None = None,
) -> list[TracedRequest]:
    """A suite at `rate_scale` times its rate: the workload of so many times the duration.

    A suite's silent windows keep their length; a trace is sent in so much less time.
    """
    if rate_scale == 1.0:
        return suite.requests(seed=seed, duration=duration, trace=trace)
    config = suite.config
    if duration is None and trace is None:
        duration = config.duration
    windows = config.on_off * rate_scale if config.on_off > 0 else config.on_off
    requests = replace(suite, config=replace(config, on_off=windows)).requests(
        seed=seed, duration=None if duration is None else duration * rate_scale, trace=trace
    )
    faster = 1 / rate_scale
    return [replace(request, arrival_s=request.arrival_s * faster) for request in requests]


@cache
def read_requests(path: str, *, max_total_len: int | None = None) -> list[TracedRequest]:
    """A trace as CSV, the artifact's as .pkl, or the requests that a result file (.jsonl) holds.

    Those of a result file are as they were asked for, whatever came of them.
    max_total_len: the memory in tokens that prompt and output must fit in. Raises FairlaneError,
    naming file and line, for what is no such trace.
    """
    if path.endswith(".pkl"):
        requests = import_artifact_pickle(path)
    elif path.endswith(".jsonl"):
        requests = [
            TracedRequest(i, r.client, r.arrival_s, *r.asked)
            for i, r in enumerate(read_run(path).records)
        ]
    else:
        return read_csv(path, max_total_len=max_total_len)
    return list(checked(path, requests, max_total_len))


def _true_length(requests: list[TracedRequest]) -> Any:
    def true_length(request: Request) -> int:
        position = request.id
        assert isinstance(position, int)
        return requests[position].output_len

    return true_length

"""One run, fully described: what `fairlane simulate` takes and what a manifest echoes."""

import random
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fairlane.core.audit import Auditor, service_bound
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.options import Count, NotNegative, Positive, Whole
from fairlane.core.policy import Policy
from fairlane.core.preemption import default_preemption
from fairlane.core.types import Request
from fairlane.experiments.cluster_runs import run_cluster
from fairlane.experiments.clusters import ClusterSettings
from fairlane.experiments.profile_cost import read_cost
from fairlane.experiments.traces import Trace, about_trace, scaled_requests, trace_until
from fairlane.experiments.weights import Weights, weights_by_client
from fairlane.policies.registry import get_policy
from fairlane.records import Run
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
from fairlane.validation import checked
from fairlane.workloads.suites import Suite, get_suite
from fairlane.workloads.trace import TracedRequest

COSTS: dict[str, LinearCost | QuadraticCost] = {
    "linear": LinearCost(),
    "quadratic": QuadraticCost(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one simulated run is made of; None and () leave a setting to its default.

    weights: of the clients, see weights.py. cost: a name in COSTS, or a TOML file that
    `fairlane profile-cost` wrote. predict_range: how far the oracle may be off, relative. trace:
    the file with the requests of the suite "real", as `read_requests` takes it. too_long: what
    becomes of those that the server can never hold, a name in TOO_LONG, refuse by default.
    duration: seconds. rates: requests per second of each client, in place of the suite's.
    rate_scale: times the rate; a suite's duration and silent windows stay, a trace is sent in so
    much less time.
    quantum: service per turn of drr and dlpm. prefix_cache_tokens: size of the server's prefix
    cache. preemption: where the server preempts, newest or fairest (core/preemption.py).
    artifact_lift, charging: the artifact's deviations from the paper. seed: of the noise and the
    oracle; workload_seed: of the workload. cluster: of several such servers; one by default.
    """

    suite: str
    scheduler: str
    profile: str | None = None
    memory_tokens: Count | None = None
    weights: Weights = ()
    cost: str = "linear"
    rate_limit: int | None = None
    predict_range: float | None = None
    quantum: float | None = None
    prefix_cache_tokens: Whole | None = None
    preemption: str | None = None
    trace: str | None = None
    too_long: str | None = None
    duration: Positive | None = None
    rates: tuple[Positive, ...] = ()
    rate_scale: Positive = 1.0
    artifact_lift: bool = False
    charging: str = Charging.DELIVERY.value
    first_prefill_delay_s: NotNegative = 0.0
    noise: bool = True
    seed: Whole = 0
    workload_seed: Whole = 42
    cluster: ClusterSettings | None = None

    def __post_init__(self) -> None:
        checked(Settings, {f.name: getattr(self, f.name) for f in fields(self)})

    def requests(self) -> list[TracedRequest]:
        """The workload; of a trace, what is sent in time and the server can hold."""
        trace = self.read_trace()
        requests = None if trace is None else trace.requests
        return scaled_requests(
            self._suite(), self.rate_scale, self.workload_seed, self.duration, requests
        )

    def read_trace(self) -> Trace | None:
        """What of the trace is served, at its own rate; None for a suite that needs none."""
        self._suite().check_trace(self.trace is not None)
        if self.trace is None:
            if self.too_long is not None:
                raise FairlaneError("too-long is for a trace; a suite's requests are all served")
            return None
        trace = trace_until(self.trace, self.duration, self.rate_scale)
        return trace.within(self.server().longest, self.too_long)

    def _suite(self) -> Suite:
        suite = get_suite(self.suite)
        if self.duration is not None:
            suite = replace(suite, config=replace(suite.config, duration=self.duration))
        if not self.rates:
            return suite
        own = suite.config.req_rate
        if not isinstance(own, tuple) or min(own) < 0:
            raise FairlaneError(f"suite {suite.name} takes no rates: it has its own")
        return replace(suite, config=replace(suite.config, req_rate=self.rates))

    def server(self) -> AnyServer:
        """The simulated server."""
        profile = get_profile(self.profile or get_suite(self.suite).profile)
        charging = self._charging()
        if isinstance(profile, VllmProfile):
            if charging is not Charging.DELIVERY:
                raise FairlaneError(
                    f"charging: the server of {profile.name} reports tokens as they are delivered; "
                    "leave out --charging and --artifact"
                )
            return VllmConfig(
                profile=profile,
                memory_tokens=self.memory_tokens or 0,
                first_prefill_delay_s=self.first_prefill_delay_s,
                noise=profile.noise if self.noise else profile.noise.without(),
                preemption=self.preemption or default_preemption(get_policy(self.scheduler).name),
            )
        if self.preemption is not None:
            raise FairlaneError(f"preemption: the server of {profile.name} does not preempt")
        return ServerConfig(
            profile=profile,
            memory_tokens=self.memory_tokens or 0,
            charging=charging,
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
        """Every client's weight; {} where all weigh 1."""
        return weights_by_client(self.weights, requests)

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
        if self.artifact_lift:
            if "artifact_lift" not in spec.options:
                raise FairlaneError(
                    f"scheduler {spec.name} lifts nobody, so --artifact cannot act; where tokens "
                    "are charged, --charging alone charges them as the artifact did"
                )
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
        difference in service per weight while two clients waited, and the bound on it. Of a
        cluster, while they waited at every replica, and also what was seen at each.
        """
        requests = self.requests()
        server = self.server()
        if isinstance(server, VllmConfig):
            server = replace(server, weights=self.client_weights(requests))
        if self.cluster is not None:
            run = run_cluster(self, requests, server, audited=audited)
        else:
            run = self._run_alone(requests, server, audited)
        run.manifest = {**self.described(), **run.manifest}
        return run

    def _run_alone(self, requests: list[TracedRequest], server: AnyServer, audited: bool) -> Run:
        cache = self.prefix_cache(requests)
        policy = self.policy(requests, cache)
        auditor = self.auditor(requests, self.bound(requests)) if audited else None
        if auditor is not None:
            policy.watch(auditor)
        run = simulate(requests, policy, server, seed=self.seed, cache=cache)
        if auditor is not None:
            report = auditor.report()
            run.manifest["audit"] = {"observed": report.observed, "bound": report.bound}
        return run

    def prefix_cache(self, requests: list[TracedRequest]) -> PrefixCache | None:
        """The server's, empty. Raises FairlaneError where nothing could ever be found in it."""
        if self.prefix_cache_tokens is None:
            return None
        cache = PrefixCache(requests, self.prefix_cache_tokens)
        if not cache.prefixes_are_shared():
            raise FairlaneError(
                f"prefix-cache-tokens: no two requests of {self.trace or self.suite} say that they "
                "share a prefix, so a cache changes nothing; the suite shared-prefix has some"
            )
        return cache

    def described(self) -> dict[str, Any]:
        """These settings for a manifest, weights by client, and what became of the trace."""
        return {
            **asdict(self),
            "weights": self.client_weights(self.requests()) if self.weights else {},
            **about_trace(self.read_trace(), self.too_long),
        }

    def bound(self, requests: list[TracedRequest]) -> float:
        """VTC's on one server, per weight: `service_bound`."""
        server = self.server()
        prompt = max((r.prompt_len for r in requests), default=0) + server.prompt_overhead
        output = max((r.output_len for r in requests), default=1)
        least = min(self.client_weights(requests).values(), default=1.0)
        return service_bound(server.memory_tokens, prompt, self.cost_function(), output, least)

    def auditor(
        self, requests: list[TracedRequest], bound: float | None = None, places: int = 1
    ) -> Auditor:
        """One that prices and weighs service as the scheduler does."""
        cost, weights = self.cost_function(), self.client_weights(requests)
        return Auditor(cost=cost, weights=weights, bound=bound, places=places)


def _true_length(requests: list[TracedRequest]) -> Any:
    def true_length(request: Request) -> int:
        position = request.id
        assert isinstance(position, int)
        return requests[position].output_len

    return true_length

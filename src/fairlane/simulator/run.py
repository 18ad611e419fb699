"""Run a workload through a policy on a simulated server."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.records import RequestRecord, Run
from fairlane.simulator.cluster import Cluster
from fairlane.simulator.loop import Listener, Loop
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import AnyServer, ServerConfig, Times, VllmConfig
from fairlane.simulator.slora import ServingLoop
from fairlane.simulator.vllm import VllmLoop
from fairlane.workloads.trace import TracedRequest


def simulate(
    requests: Sequence[TracedRequest],
    policy: Policy[Any],
    config: AnyServer,
    *,
    seed: int = 0,
    cache: PrefixCache | None = None,
) -> Run:
    """Serve `requests` (in arrival order) and record what each client saw.

    cache: holds what is shared between prompts, beside the memory of the running batch. The policy
    is handed requests whose id is their position in `requests`. Raises FairlaneError for a
    request that the server could never hold, and for a cache where the loop knows none.
    """
    check_lengths(requests, config)
    times = make_loop(requests, policy, config, seed, cache).run()
    manifest = {"server": _settings(config), "seed": seed}
    return Run(manifest, _records(requests, times, config), _total_time(requests, times, config))


def simulate_cluster(
    cluster: Cluster,
    config: AnyServer,
    *,
    seed: int = 0,
    caches: Sequence[PrefixCache] = (),
) -> Run:
    """The same for a cluster of such servers; each record says which replica it was served by.

    caches: one for each replica, or none. Raises FairlaneError as `simulate` does.
    """
    requests = cluster.requests
    check_lengths(requests, config)
    here = cluster.server(config)
    for replica, policy in enumerate(cluster.policies):
        cache = caches[replica] if caches else None
        seed_there = seed + (replica << 32)  # the first has that of a single server
        cluster.loops.append(make_loop((), policy, here, seed_there, cache, cluster))
    cluster.run()
    times = cluster.times
    records = _records(requests, times, config)
    for record, replica in zip(records, cluster.placed, strict=True):
        record.replica = replica if replica >= 0 else None
    manifest = {"server": _settings(config), "seed": seed, "replicas": len(cluster.loops)}
    return Run(manifest, records, _total_time(requests, times, config))


def make_loop(
    requests: Sequence[TracedRequest],
    policy: Policy[Any],
    config: AnyServer,
    seed: int,
    cache: PrefixCache | None = None,
    listener: Listener | None = None,
) -> Loop:
    """The server's loop; see `Loop`. Raises FairlaneError for a cache where it knows none."""
    randomness = Randomness(seed, config.noise)
    if not isinstance(config, VllmConfig):
        return ServingLoop(requests, policy, config, randomness, cache, listener)
    if cache is not None:
        raise FairlaneError(f"{config.profile.name} was measured without a prefix cache")
    return VllmLoop(requests, policy, config, randomness, listener)


def check_lengths(requests: Sequence[TracedRequest], config: AnyServer) -> None:
    """Raise FairlaneError, naming the request, where one is too long for the server."""
    limit = config.longest
    for i in limit.exceeded_by(requests)[:1]:
        request = requests[i]
        raise FairlaneError(
            f"request {request.id} of client {request.client}: {limit.complaint(request)}; "
            "give more memory, or send shorter requests"
        )


def _records(
    requests: Sequence[TracedRequest], times: Times, config: AnyServer
) -> list[RequestRecord]:
    delay = config.reply_delay_s
    records = []
    for i, request in enumerate(requests):
        record = RequestRecord(
            request.id, request.client, request.arrival_s, request.prompt_len, request.output_len
        )
        first, end = times.first_token[i], times.end[i]
        if first is None or end is None:
            record.outcome, record.reason = "rejected", times.rejection[i]
        else:
            record.ttft_s = first + delay - request.arrival_s
            record.latency_s = end + delay - request.arrival_s
        records.append(record)
    return records


def _total_time(requests: Sequence[TracedRequest], times: Times, config: AnyServer) -> float:
    """When the last client has its answer; a rejected one learns of it with a delay."""
    ends = [end + config.reply_delay_s for end in times.end if end is not None]
    ends += [requests[i].arrival_s + config.abort_notice_s for i in times.rejection]
    return max(ends, default=0.0)


def _settings(config: AnyServer) -> dict[str, Any]:
    """The server's settings, for a manifest."""
    settings = asdict(config)
    settings["profile"] = config.profile.name
    if isinstance(config, ServerConfig):
        settings["charging"] = config.charging.value
    return settings

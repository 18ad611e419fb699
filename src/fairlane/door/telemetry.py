"""What a server tells of its tenants: its metrics, and GET /fairlane/tenants.

Both ask the schedulers at the time of asking, so every API server gives the same answer.
Metrics are labelled by at most N clients, those served most, and `other` for the rest together.
Operators see everyone, a client sees itself; everyone sees everyone where that is configured.
Servers that share their charges by a hub hear there of each other: who sees everyone sees what
everyone gets of all of them.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairlane.cluster.config import Cluster
from fairlane.cluster.hub import Hub, HubError
from fairlane.door.access import Access
from fairlane.door.admission import Admission, Caller
from fairlane.door.shares import entitlements
from fairlane.door.sharing import told
from fairlane.door.tenants import Tenants

log = logging.getLogger(__name__)
_OTHER = "other"
_POSTS_S = 1.0  # how long a hub may take to say what other servers told

_COUNTERS = {
    "service": "Service charged, in the unit of the cost function.",
    "input_tokens": "Prompt tokens computed.",
    "cached_tokens": "Prompt tokens found in the prefix cache.",
    "output_tokens": "Output tokens delivered.",
    "arrivals": "Requests that reached the scheduler.",
    "admissions": "Requests admitted to the running batch.",
    "preemptions": "Running requests that were put back.",
    "finished": "Requests that ended by themselves.",
    "aborted": "Requests that were aborted.",
    "wait_s": "Seconds that admitted requests had waited, summed.",
}
_GAUGES = {
    "queued": "Requests waiting in the scheduler.",
    "running": "Requests in the running batch.",
}
_OWN_GAUGES = {  # these mean nothing for several clients together
    "counter": "Service per weight, as lifted: who has least is next.",
    "weight": "Weight of the client among its siblings.",
    "entitlement": "Part of the server that the client is entitled to while it is active.",
}
_RENAMED = {"wait_s": "wait_seconds"}
_CLUSTER_GAUGES = {
    "connected": "Whether the hub answers.",
    "members": "Servers that share their charges, this one included.",
    "schedulers": "Schedulers of all of them.",
    "exchange_age_seconds": "How long ago the hub last answered.",
    "stale": "The most service that others charged between two exchanges, lately.",
    "max_debt": "Service per weight that a client may be ahead for service elsewhere.",
    "bound": "How far two clients that wait everywhere may differ; without others and a guard.",
}
_CLUSTER_COUNTERS = {
    "exchanges": "Exchanges with the hub.",
    "exchange_failures": "Exchanges with the hub that failed.",
    "heard": "Service that others charged, as told to each scheduler here.",
}
_CLUSTER_KEYS = {"exchange_age_seconds": "age_s", "exchange_failures": "failures"}
_USAGE_GAUGES = {
    "up": "Whether usage is written.",
    "pending": "Rows of usage that are not written yet.",
    "age_seconds": "How long ago usage was last written.",
}
_USAGE_COUNTERS = {"failures": "Times that usage could not be written."}
_USAGE_KEYS = {"age_seconds": "age_s"}
Clients = dict[str, dict[str, Any]]
AskSchedulers = Callable[[], Awaitable[list[dict[str, Any] | None]]]
"""The snapshots of all schedulers (Books.snapshot). May raise anything."""


class Telemetry:
    """Answers for one API server. cluster: with whom its schedulers share."""

    def __init__(
        self,
        access: Access,
        admission: Admission,
        ask: AskSchedulers,
        cluster: Cluster = Cluster(),  # noqa: B008 - it does not change
    ) -> None:
        self._access = access
        self._admission = admission
        self._schedulers = ask
        self._cluster = cluster
        self._hub: Hub | None = None
        self.usage: Callable[[], Mapping[str, Any]] | None = None  # how its keeping goes

    async def close(self) -> None:
        """Let go of the hub."""
        if self._hub is not None:
            await self._hub.close()

    async def tenants(self, caller: Caller, tenants: Tenants) -> dict[str, Any]:
        """GET /fairlane/tenants: everyone for operators, else the caller alone."""
        seen = await self._ask()
        clients = self._clients(seen)
        everyone = caller.operator or self._access.public
        for path, client in clients.items():
            limits = tenants.limits(path) or self._access.limits
            if limits is not None:
                client["limits"] = asdict(limits)
        if not everyone:
            clients = {path: c for path, c in clients.items() if path == caller.client}
            seen = {name: seen.get(name) for name in ("policy", "problem")}
        else:
            seen["problem"] = seen.get("problem") or self._access.problem or None
            if self._cluster.hub is not None and "cluster" in seen:
                seen["cluster"] |= await self._everywhere()
        return {**seen, "clients": clients}

    async def metrics(self, caller: Caller | None) -> bytes:
        """The metrics in Prometheus' text format; nothing for those who may not see them."""
        if not self._access.public and (caller is None or not caller.operator):
            return b""
        seen = await self._ask()
        if self.usage is not None:
            seen["usage"] = self.usage()
        return render(self._clients(seen), seen, self._access.top, self._access.problem)

    async def _ask(self) -> dict[str, Any]:
        """The schedulers' snapshots as one; one that says what is wrong if they do not answer."""
        try:
            found = await self._schedulers()
        except Exception as error:
            problem = f"the scheduler did not answer: {type(error).__name__}"
            log.warning("%s", problem)
            return {"problem": problem, "clients": {}}
        return merge([dict(one or {"clients": {}}) for one in found])

    def _clients(self, seen: dict[str, Any]) -> Clients:
        """The clients of a snapshot, with what this API server knows of them."""
        known = self._admission.lowered(self._access.tenants().weights(), self._access.weights)
        clients: Clients = seen.pop("clients")
        for path, waiting in self._admission.waiting.items():
            clients.setdefault(path, {})["waiting"] = waiting
        for client in clients.values():  # by the policy; others were turned away before it
            client["rejected"] = dict(client.get("rejected") or {})
        for (path, reason), count in self._admission.rejected.items():
            clients.setdefault(path, {}).setdefault("rejected", {})[reason] = count
        weights = {path: float(client.get("weight", 1.0)) for path, client in clients.items()}
        if seen.pop("weighted", False):  # else a tenant's weight changes nothing
            for path, weight in known.items():
                weights[path] = weight
                if path in clients:
                    clients[path]["weight"] = weight
        if seen.pop("shares", False):
            active = {p for p, c in clients.items() if c.get("queued") or c.get("running")}
            for path, part in entitlements(active, weights).items():
                clients[path]["entitlement"] = part
        return clients

    async def _everywhere(self) -> dict[str, Any]:
        """Clients by server, and all together, as the servers told each other lately."""
        try:
            async with asyncio.timeout(_POSTS_S):
                servers = told(await self._posts())
        except (HubError, TimeoutError) as error:
            return {"problem": f"the hub did not answer: {error}", "servers": {}, "clients": {}}
        clients: Clients = {}
        own = self._access.tenants().weights()
        weights = self._admission.lowered({**self._access.weights, **own}, {})
        for part in servers.values():
            for path, totals in part.items():
                into = clients.setdefault(path, {"weight": weights.get(path, 1.0)})
                for name, value in totals.items():
                    into[name] = into.get(name, 0.0) + value
        active = {p for p, c in clients.items() if c.get("queued") or c.get("running")}
        for path, entitled in entitlements(active, weights).items():
            clients[path]["entitlement"] = entitled
        return {"servers": servers, "clients": clients}

    async def _posts(self) -> Mapping[str, str]:
        if self._hub is None:
            self._hub = self._cluster.connect()
        return {} if self._hub is None else await self._hub.posts()


def merge(snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    """Snapshots of several schedulers (data parallelism) as one: sums, and the worst difference."""
    if len(snapshots) == 1:
        return snapshots[0]
    worst = max(snapshots, key=lambda one: one.get("observed_difference") or 0.0)
    merged = {**worst, "clients": {}}
    merged["difference_now"] = _most(*(one.get("difference_now") for one in snapshots))
    merged["policy_errors"] = sum(int(one.get("policy_errors") or 0) for one in snapshots)
    for one in snapshots:
        for path, client in one["clients"].items():
            into = merged["clients"].setdefault(path, {"weight": client.get("weight", 1.0)})
            for name in (*_COUNTERS, *_GAUGES):
                into[name] = into.get(name, 0) + client.get(name, 0)
            into["oldest_s"] = _most(into.get("oldest_s"), client.get("oldest_s"))
            reasons = Counter(into.get("rejected") or {})
            into["rejected"] = dict(reasons + Counter(client.get("rejected") or {}))
    heard = sum(float(one.get("cluster", {}).get("heard", 0.0)) for one in snapshots)
    if "cluster" in merged:
        merged["cluster"] = {**merged["cluster"], "heard": heard}
    return merged


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def render(clients: Clients, seen: Mapping[str, Any], top: int, problem: str) -> bytes:
    """The metrics in Prometheus' text format."""
    order = sorted(clients, key=lambda path: (-float(clients[path].get("service", 0.0)), path))
    shown = [path for path in order if path != _OTHER][:top]
    rest = [path for path in order if path not in set(shown)]
    of_clients = [*_summed(clients, shown, rest), *_own(clients, shown)]
    of_all = [_rejections(clients, shown), *_server(clients, seen, problem)]
    of_all += _told_as(
        "cluster", seen.get("cluster"), _CLUSTER_GAUGES, _CLUSTER_COUNTERS, _CLUSTER_KEYS
    )
    of_all += _told_as("usage", seen.get("usage"), _USAGE_GAUGES, _USAGE_COUNTERS, _USAGE_KEYS)
    registry = CollectorRegistry()  # none of the process's own metrics: vLLM tells these
    registry.register(_Told(of_clients + of_all))
    return generate_latest(registry)


class _Told(Collector):
    """Hands a registry what is known already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _summed(clients: Clients, shown: list[str], rest: list[str]) -> Iterator[Metric]:
    """What is told of each shown client, and of the rest together."""
    for kind, names in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, meaning in names.items():
            metric = f"fairlane_client_{_RENAMED.get(name, name)}"
            family = kind(metric, meaning, labels=["client"])
            for path in shown:
                family.add_metric([_printable(path)], float(clients[path].get(name) or 0))
            others = math.fsum(float(clients[path].get(name) or 0) for path in rest)
            family.add_metric([_OTHER], others)
            yield family


def _own(clients: Clients, shown: list[str]) -> Iterator[Metric]:
    """What is told of each shown client alone, where it is known."""
    for name, meaning in _OWN_GAUGES.items():
        family = GaugeMetricFamily(f"fairlane_client_{name}", meaning, labels=["client"])
        for path in shown:
            if clients[path].get(name) is not None:
                family.add_metric([_printable(path)], float(clients[path][name]))
        yield family


def _rejections(clients: Clients, shown: list[str]) -> Metric:
    counts: Counter[tuple[str, str]] = Counter()
    named = set(shown)
    for path, client in clients.items():
        label = path if path in named else _OTHER
        for reason, count in client.get("rejected", {}).items():
            counts[label, reason] += count
    meaning = "Requests that were turned away, by the limit or rule that did."
    labels = ["client", "reason"]
    family = CounterMetricFamily("fairlane_client_rejections", meaning, labels=labels)
    for names, count in sorted(counts.items()):
        family.add_metric([_printable(name) for name in names], float(count))
    return family


def _server(clients: Clients, seen: Mapping[str, Any], problem: str) -> Iterator[Metric]:
    """What is true of the server as a whole, where it is known."""
    difference = "Largest difference in service per weight between two backlogged clients"
    gauges = [
        ("clients", "Clients that the scheduler remembers.", len(clients)),
        ("difference_observed", f"{difference}, so far.", seen.get("observed_difference")),
        ("difference_at_most", f"{difference}: never larger.", seen.get("at_most")),
        ("difference_bound", f"{difference}: the guarantee.", seen.get("bound")),
        ("scheduler_up", "Whether the scheduler answered.", not seen.get("problem")),
        ("tenants_broken", "Whether the file of tenants is broken.", bool(problem)),
    ]
    for name, meaning, value in gauges:
        if value is not None:
            yield GaugeMetricFamily(f"fairlane_{name}", meaning, float(value))
    errors = float(seen.get("policy_errors") or 0)
    yield CounterMetricFamily("fairlane_policy_errors", "Errors of the policy.", errors)


def _told_as(
    what: str,
    told: Mapping[str, Any] | None,
    gauges: Mapping[str, str],
    counters: Mapping[str, str],
    keys: Mapping[str, str],
) -> Iterator[Metric]:
    """How charges are shared, or usage is kept, where they are; by metric its key in `told`."""
    if told is None:
        return
    for kind, names in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
        for name, meaning in names.items():
            value = told.get(keys.get(name, name))
            if value is not None:
                yield kind(f"fairlane_{what}_{name}", meaning, float(value))


def _printable(label: str) -> str:
    """A label without surrogates, and without line ends that split it for some who read lines."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in label)

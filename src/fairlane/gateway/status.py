"""What the gateway tells of its upstreams: GET /fairlane/upstreams, and metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairlane.gateway.dispatch import Dispatcher
from fairlane.gateway.pool import Pool

_MEANINGS = {
    "window": "Requests that the upstream gets at once, as learned.",
    "in_flight": "Requests that were sent to it and have not ended.",
    "flowing": "Of these, those that have a first token.",
    "in_flight_elsewhere": "Requests that other gateways of the same queue have sent to it.",
    "engine_running": "Requests that run in it, as it says; those of others too.",
    "engine_waiting": "Requests that wait in it, as it says.",
    "up": "Whether it gets requests.",
}


def pools_of(models: Mapping[str, Dispatcher]) -> list[tuple[list[str], Pool]]:
    """Each pool once, with the models that it serves."""
    found: dict[int, tuple[list[str], Pool]] = {}
    for name, dispatcher in models.items():
        pool = dispatcher.pool
        found.setdefault(id(pool), ([], pool))[0].append(name)
    return list(found.values())


def upstreams(models: Mapping[str, Dispatcher]) -> list[dict[str, Any]]:
    """Each upstream of each pool, ready for JSON. None: the engine does not tell."""
    return [
        {
            "upstream": lane.name,
            "models": names,
            "waiting_here": pool.waiting,
            "window": lane.window.size,
            "in_flight": lane.window.in_flight,
            "flowing": lane.window.flowing,
            "in_flight_elsewhere": lane.window.elsewhere,
            "engine_running": lane.window.running,
            "engine_waiting": lane.window.waiting,
            "up": lane.accepts,
        }
        for names, pool in pools_of(models)
        for lane in pool.lanes.values()
    ]


def shown(models: Mapping[str, Dispatcher]) -> list[dict[str, Any]]:
    """The same as a dashboard shows it; of several models the first."""
    return [
        {
            "name": one["upstream"],
            "model": one["models"][0],
            "up": one["up"],
            "window": round(one["window"], 1),
            "running": one["in_flight"],
            "engine_running": one["engine_running"],
            "engine_waiting": one["engine_waiting"],
            "kv_usage": None,
        }
        for one in upstreams(models)
    ]


def metrics(models: Mapping[str, Dispatcher]) -> bytes:
    """The same in Prometheus' text format; labelled by upstream and the first of its models."""
    registry = CollectorRegistry()
    registry.register(_Told(models))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, models: Mapping[str, Dispatcher]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        seen = upstreams(self._models)
        for name, meaning in _MEANINGS.items():
            labels = ["upstream", "model"]
            family = GaugeMetricFamily(f"fairlane_upstream_{name}", meaning, labels=labels)
            for one in seen:
                if one[name] is not None:
                    family.add_metric([one["upstream"], one["models"][0]], float(one[name]))
            yield family
        waiting = "Requests that wait here for their turn."
        family = GaugeMetricFamily("fairlane_gateway_waiting", waiting, labels=["model"])
        for names, pool in pools_of(self._models):
            family.add_metric([names[0]], pool.waiting)
        yield family

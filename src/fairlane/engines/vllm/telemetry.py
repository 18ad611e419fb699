"""What the server tells of its tenants: /metrics additions and GET /fairlane/tenants.

Both ask the scheduler's process at the time of asking, so every API server gives the same answer.
Metrics are labelled by at most N clients, those served most, and `other` for the rest together.
Operators see everyone, a client sees itself; everyone sees everyone where that is configured.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from fairlane.engines.admission import Admission, Caller
from fairlane.engines.shares import entitlements
from fairlane.engines.tenants import Tenants
from fairlane.engines.vllm.access import Access
from fairlane.engines.vllm.answers import App, Message, Receive, Scope, Send
from fairlane.engines.vllm.frontend import ask_engine

log = logging.getLogger("vllm.fairlane")
_ANSWER_S = 2.0  # the engine answers between two steps; scrapes must not hang on it
_OTHER = "other"
_PLAIN = frozenset({b"accept", b"accept-encoding"})  # without them /metrics answers in plain text

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
Clients = dict[str, dict[str, Any]]


class Telemetry:
    """Answers for one API server."""

    def __init__(self, access: Access, admission: Admission) -> None:
        self._access = access
        self._admission = admission

    async def tenants(self, engine: Any, caller: Caller, tenants: Tenants) -> dict[str, Any]:
        """GET /fairlane/tenants: everyone for operators, else the caller alone."""
        seen = await self._ask(engine)
        clients = self._clients(seen)
        everyone = caller.operator or self._access.public
        for path, client in clients.items():
            limits = tenants.limits(path) or self._access.limits
            if limits is not None:
                client["limits"] = {name: getattr(limits, name) for name in limits.__slots__}
        if not everyone:
            clients = {path: c for path, c in clients.items() if path == caller.client}
            seen = {name: seen.get(name) for name in ("policy", "problem")}
        else:
            seen["problem"] = seen.get("problem") or self._access.problem or None
        return {**seen, "clients": clients}

    async def metrics(
        self,
        app: App,
        scope: Scope,
        receive: Receive,
        send: Send,
        engine: Any,
        caller: Caller | None,
    ) -> None:
        """The server's own /metrics, and ours after them for those who may see them."""
        plain = [header for header in scope["headers"] if header[0] not in _PLAIN]
        may_see = self._access.public or (caller is not None and caller.operator)
        text = b""
        if may_see and scope.get("method") == "GET":
            seen = await self._ask(engine)
            text = render(self._clients(seen), seen, self._access.top, self._access.problem)
        await app({**scope, "headers": plain}, receive, _appending(send, text))

    async def _ask(self, engine: Any) -> dict[str, Any]:
        """The schedulers' snapshots as one; one that says what is wrong if they do not answer."""
        try:
            found = await ask_engine(engine, "fairlane_snapshot", timeout_s=_ANSWER_S)
        except Exception as error:
            problem = f"the scheduler did not answer: {type(error).__name__}"
            log.warning("%s", problem)
            return {"problem": problem, "clients": {}}
        return merge([dict(one or {"clients": {}}) for one in found])

    def _clients(self, seen: dict[str, Any]) -> Clients:
        """The clients of a snapshot, with what this API server knows of them."""
        known = self._access.tenants().weights()
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


def merge(snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    """Snapshots of several schedulers (data parallelism) as one: sums, and the worst difference."""
    if len(snapshots) == 1:
        return snapshots[0]
    worst = max(snapshots, key=lambda one: one.get("observed_difference") or 0.0)
    merged = {**worst, "clients": {}}
    merged["policy_errors"] = sum(int(one.get("policy_errors") or 0) for one in snapshots)
    for one in snapshots:
        for path, client in one["clients"].items():
            into = merged["clients"].setdefault(path, {"weight": client.get("weight", 1.0)})
            for name in (*_COUNTERS, *_GAUGES):
                into[name] = into.get(name, 0) + client.get(name, 0)
    return merged


def render(clients: Clients, seen: Mapping[str, Any], top: int, problem: str) -> bytes:
    """The metrics in Prometheus' text format."""
    order = sorted(clients, key=lambda path: (-float(clients[path].get("service", 0.0)), path))
    shown = [path for path in order if path != _OTHER][:top]
    rest = [path for path in order if path not in set(shown)]
    lines: list[str] = []
    for kind, names in (("counter", _COUNTERS), ("gauge", _GAUGES)):
        for name, meaning in names.items():
            values = {p: float(clients[p].get(name) or 0) for p in shown}
            values[_OTHER] = math.fsum(float(clients[p].get(name) or 0) for p in rest)
            metric = f"fairlane_client_{_RENAMED.get(name, name)}"
            metric += "_total" if kind == "counter" else ""
            lines += _family(metric, kind, meaning, _labelled(values))
    for name, meaning in _OWN_GAUGES.items():
        found = {p: clients[p][name] for p in shown if clients[p].get(name) is not None}
        lines += _family(f"fairlane_client_{name}", "gauge", meaning, _labelled(found))
    lines += _rejections(clients, shown)
    for name, kind, meaning, value in _server(clients, seen, problem):
        if value is not None:
            lines += _family(f"fairlane_{name}", kind, meaning, [("", float(value))])
    return ("\n".join(lines) + "\n").encode()


def _server(
    clients: Clients, seen: Mapping[str, Any], problem: str
) -> list[tuple[str, str, str, Any]]:
    """What is true of the server as a whole: name, kind, meaning, value."""
    difference = "Largest difference in service per weight between two backlogged clients"
    return [
        ("clients", "gauge", "Clients that the scheduler remembers.", len(clients)),
        ("difference_observed", "gauge", f"{difference}, so far.", seen.get("observed_difference")),
        ("difference_at_most", "gauge", f"{difference}: never larger.", seen.get("at_most")),
        ("difference_bound", "gauge", f"{difference}: the guarantee.", seen.get("bound")),
        ("policy_errors_total", "counter", "Errors of the policy.", seen.get("policy_errors", 0)),
        ("scheduler_up", "gauge", "Whether the scheduler answered.", not seen.get("problem")),
        ("tenants_broken", "gauge", "Whether the file of tenants is broken.", bool(problem)),
    ]


def _rejections(clients: Clients, shown: Iterable[str]) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    labels = set(shown)
    for path, client in clients.items():
        for reason, count in client.get("rejected", {}).items():
            key = (path if path in labels else _OTHER, reason)
            counts[key] = counts.get(key, 0) + count
    samples = [
        (f'{{client="{escape(path)}",reason="{escape(reason)}"}}', float(count))
        for (path, reason), count in sorted(counts.items())
    ]
    meaning = "Requests that were turned away, by the limit or rule that did."
    return _family("fairlane_client_rejections_total", "counter", meaning, samples)


def _labelled(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(f'{{client="{escape(path)}"}}', float(value)) for path, value in values.items()]


def _family(name: str, kind: str, meaning: str, samples: list[tuple[str, float]]) -> list[str]:
    heading = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    return heading + [f"{name}{labels} {value!r}" for labels, value in samples]


def escape(label: str) -> str:
    """A label's value in Prometheus' text format; other line ends would split it for some."""
    plain = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in label.replace("\n", " "))
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _appending(send: Send, text: bytes) -> Send:
    """`send` that puts `text` after the body."""

    async def appending(message: Message) -> None:
        if message["type"] == "http.response.start" and text:
            headers = [h for h in message["headers"] if h[0].lower() != b"content-length"]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and text and not message.get("more_body"):
            message = {**message, "body": message.get("body", b"") + text}
        await send(message)

    return appending

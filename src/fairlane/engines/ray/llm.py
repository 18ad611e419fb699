"""Ray Serve LLM with Fairlane: who a request is from at the ingress, and at each engine's door.

By default Ray's ingress is the only HTTP server, and replicas get requests by handle. `FairIngress`
finds out whose each is, takes the credentials off it, and writes the client's name into a header
that no client can send; `FairServer` in each replica reads it there and stands at the engine's
door, as vLLM's middleware does elsewhere. Whoever holds a handle in the Ray cluster can be anybody.
What a replica refuses, and what it knows of its clients, the ingress tells as that middleware does.

With direct streaming vLLM's own HTTP server answers in each replica, with Fairlane's middleware.
"""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fairlane.core.errors import FairlaneError
from fairlane.door.admission import Caller, Refused
from fairlane.door.answers import App, Receive, Scope, Send, send_json, send_refusal
from fairlane.door.asking import Asking
from fairlane.door.dashboard import DashboardOptions
from fairlane.door.door import Door
from fairlane.door.telemetry import Telemetry
from fairlane.engines.ray.parts import Parts
from fairlane.engines.ray.private import check_version, replicas_here
from fairlane.engines.ray.private_llm import (
    IngressHooks,
    LLMServingArgs,
    ServerHooks,
    build_openai_app,
    streams_directly,
)
from fairlane.engines.vllm.config import VARIABLE, FairlaneConfig
from fairlane.engines.vllm.frontend import (
    CALLER,
    EngineDoor,
    TenantWeights,
    ask_engine,
    set_weights,
)
from fairlane.engines.vllm.middleware import ANSWER_S, Identity, answer_itself, answer_refusals
from fairlane.engines.vllm.relay import Relay
from fairlane.engines.vllm.routes import route_path
from fairlane.engines.vllm.serve import SCHEDULER

log = logging.getLogger("ray.serve")
CLIENT = "x-fairlane-client"
_TAKEN_OFF = frozenset({b"authorization", b"x-api-key", b"x-data-parallel-rank", CLIENT.encode()})


def build_app(arguments: Mapping[str, Any]) -> Any:
    """See fairlane.engines.ray.build_fair_openai_app."""
    check_version()
    rest = dict(arguments)
    file = rest.pop("fairlane", None)
    config = FairlaneConfig.read(file) if file else FairlaneConfig()
    built = LLMServingArgs.model_validate(rest)
    direct = streams_directly()
    if not direct and config.access.rules.adapters:
        raise FairlaneError(
            "[identity] lora: Ray's ingress cannot tell clients apart by their adapters; use keys, "
            "or direct streaming (RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1)"
        )
    if not direct and config.usage.on:
        raise FairlaneError(
            "[usage] Ray's ingress keeps none; stream directly "
            "(RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1), or put a gateway before it"
        )
    if not direct and (unseen := config.tells_requests):
        raise FairlaneError(
            f"{unseen}: Ray's ingress tells nothing of single requests; remove it, or stream "
            "directly (RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1)"
        )
    if not direct and config.dashboard != DashboardOptions():
        raise FairlaneError(
            "[dashboard]: Ray's ingress has no page; remove it, or stream directly "
            "(RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1)"
        )
    if config.cluster.hub is not None and len(built.llm_configs) > 1:
        raise FairlaneError(
            "[cluster] one app of several models would share among them what each was charged; "
            "make an app for each, with a pool of its own"
        )
    for one in built.llm_configs:
        _add(one, file, direct)
    rest["llm_configs"] = built.llm_configs
    if not direct:
        if rest.get("ingress_cls_config"):
            raise FairlaneError("ingress_cls_config: Fairlane's ingress takes its place; remove it")
        more = {"fairlane": str(Path(file).resolve()) if file else ""}
        rest["ingress_cls_config"] = {"ingress_cls": FairIngress, "ingress_extra_kwargs": more}
    return build_openai_app(rest)


def _add(config: Any, file: str | None, direct: bool) -> None:
    """Put scheduler, door and configuration into the LLMConfig of one model."""
    options = dict(config.engine_kwargs)
    if "scheduler_cls" in options:
        raise FairlaneError("engine_kwargs: Fairlane sets scheduler_cls; remove it")
    if options.get("scheduling_policy", "fcfs") != "fcfs":
        raise FairlaneError(
            "engine_kwargs: Fairlane takes the place of scheduling_policy; remove it"
        )
    if config.server_cls is not None:
        raise FairlaneError("server_cls: Fairlane's server takes its place; remove it")
    options["scheduler_cls"] = SCHEDULER
    if direct:
        options["middleware"] = [*options.get("middleware", ()), "fairlane.engines.ray.identity"]
    elif options.get("middleware"):
        raise FairlaneError("engine_kwargs: Ray installs no middleware, unless it streams directly")
    else:
        config.server_cls = FairServer
    config.engine_kwargs = options
    if file:
        env = dict(config.runtime_env or {})
        env["env_vars"] = {**env.get("env_vars", {}), VARIABLE: str(Path(file).resolve())}
        config.runtime_env = env


class FairIngress(IngressHooks):
    """The ingress; see the module. fairlane: the configuration's file, "" for none."""

    def __init__(self, *args: Any, fairlane: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = FairlaneConfig.read(fairlane) if fairlane else FairlaneConfig()
        self._door = Door(config.access, time.monotonic, log)
        self._door.warn()

    async def serves(self, scope: Scope, receive: Receive, send: Send, app: App) -> None:
        """Answer for the clients' totals, and for requests that are refused; pass the rest."""
        if route_path(scope) == "/fairlane/tenants":
            await answer_itself(self._tell, scope, receive, send)
        else:
            refused = partial(self.refusal, scope)
            await app(scope, receive, answer_refusals(scope, receive, send, refused, dict))

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /fairlane/tenants, as a replica of the model sees it."""
        try:
            self._door.look_for_changes()
            caller = self._door.identify(scope)
            [model] = parse_qs(scope["query_string"].decode("latin-1")).get("model", [None])[:1]
            asked = ("fairlane_tenants", caller.client, caller.operator)
            await send_json(send, await self.ask_replica(model, *asked))
        except Refused as refused:
            await send_refusal(send, refused)

    def checked(self, scope: Any) -> list[tuple[bytes, bytes]]:
        """The headers without credentials, and with the client's name. Raises Refused."""
        self._door.look_for_changes()
        caller = self._door.identify(scope)
        assert caller.client is not None, "adapters were refused"
        left = [h for h in scope["headers"] if h[0].lower().replace(b"_", b"-") not in _TAKEN_OFF]
        # Ray carries headers as text in Latin-1, as HTTP does.
        return [*left, (CLIENT.encode(), caller.client.encode())]


class FairServer(ServerHooks):
    """A replica; see the module."""

    async def started(self, engine_client: Any) -> None:
        """Close in the engine, and share what it charges. Raises FairlaneError."""
        config = FairlaneConfig.from_environment()
        self._door = door = Door(config.access, time.monotonic, log)
        self._weights = TenantWeights(door, engine_client, log)
        name, replicas = replicas_here()
        door.admission.share(replicas)
        inside = EngineDoor(
            engine_client, door.admission, door.turns, door.by_adapter, door.clock,
            config.cached_part,
        )  # fmt: skip
        await set_weights(engine_client, door.weights())
        self._relay = Relay(engine_client, config.cluster, name)
        await self._relay.start()
        self._asking = Asking(config.cluster, door.admission, log)
        self._asking.start()
        ask = partial(ask_engine, engine_client, "fairlane_snapshot", timeout_s=ANSWER_S)
        self._telemetry = Telemetry(config.access, door.admission, ask, config.cluster)
        self._parts = Parts(door.admission)
        inside.close_in()

    async def fairlane_tenants(self, client: str, operator: bool) -> dict[str, Any]:
        """What that client, or an operator, sees of all: see docs/vllm.md."""
        return await self._telemetry.tenants(Caller(client, operator), self._door.tenants)

    @asynccontextmanager
    async def arrives(self, headers: Mapping[str, str], generates: bool) -> AsyncIterator[None]:
        """A request, as the ingress says whose. Raises Refused."""
        self._weights.look()
        named = headers.get(CLIENT)
        if not named:
            raise Refused(401, "unknown_sender", "This request did not come by Fairlane's ingress.")
        caller = Caller(named.encode("latin-1").decode())
        if generates:
            await self._door.arrive(caller)
        CALLER.set(caller)  # for this task, and for those that it starts
        try:
            yield
        except Exception:
            if caller.refused is not None:  # vLLM wraps what the engine's door raises
                raise caller.refused from None
            raise
        finally:
            CALLER.set(None)
            self._door.admission.served(caller)


class ReplicaIdentity(Identity):
    """vLLM's middleware in a replica that streams directly: one of several, all on one port."""

    async def _start(self, scope: Scope) -> None:
        await super()._start(scope)
        self._parts = Parts(self._door.admission)

    def place(self, app: Any, engine: Any) -> tuple[str, int]:
        """The replica's name, and how many there are."""
        return replicas_here()

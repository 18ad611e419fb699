"""Fair scheduling in Ray Serve: of any deployment's requests, and of Ray Serve LLM's.

    from fairlane.engines.ray import fair_router, report_tokens

    @serve.deployment(request_router_config=fair_router("vtc", who="header:x-tenant"))
    class Model:
        async def __call__(self, request):
            answer = await self.generate(request)
            await report_tokens(len(answer.tokens), prompt=len(answer.prompt_tokens))
            return answer.text

Importing this package needs no Ray. docs/ray.md says how clients are told apart. `identity` is a
middleware of vLLM's, for replicas that answer HTTP themselves: no module here may be called so.
"""

from collections.abc import Mapping
from typing import Any


def fair_router(
    scheduler: str = "vtc",
    *,
    who: str | list[str],
    anonymous: str = "anonymous",
    weights: Mapping[str, float] | None = None,
    prices: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A RequestRouterConfig by which all requests of one deployment wait in one fair queue.

    scheduler: a name from `fairlane schedulers`, and `options` its own. weights, prices: as the
    tables of a configuration file have them.
    who: "header:NAME", for requests that come by HTTP, or "argument:NAME", a keyword argument of
    calls by a handle; or both. Whoever can send that header can be anybody: name one that a proxy
    before Ray Serve sets itself and takes from everyone else. anonymous: the client of requests
    without, or with a name that cannot be.

    Raises FairlaneError for whatever would fail later.
    """
    from fairlane.engines.ray.router import router_config

    tables = {"scheduler": {"name": scheduler, **options}, "prices": prices, "weights": weights}
    return router_config({k: v for k, v in tables.items() if v}, who=who, anonymous=anonymous)


async def report_tokens(output: int = 0, *, prompt: int | None = None) -> bool:
    """Inside a replica: charge the client of the request that is being served.

    output: output tokens since the last report. prompt: input tokens of the whole request; until
    it is told, none. Await it before the request is answered: afterwards nobody is charged.
    Answers whether the queue knows the request, which it does not when it has just restarted.
    Raises FairlaneError where no request of a deployment with a fair router is being served.
    """
    from fairlane.engines.ray.reports import report

    return await report(output, prompt)


async def queue_state(deployment: str, app: str = "default") -> dict[str, Any]:
    """What the fair queue of a deployment has counted since it started; see Books.snapshot.

    Beside that "waiting" and "running", numbers of requests by router and by replica, and "queue",
    which is another for each start of it. Raises FairlaneError where the deployment has no queue,
    as before its first request.
    """
    from fairlane.engines.ray.reports import state

    return await state(deployment, app)


def build_fair_openai_app(arguments: Mapping[str, Any]) -> Any:
    """An application of Ray Serve LLM whose clients are served fairly.

    arguments: as ray.serve.llm.build_openai_app takes them, and "fairlane", the name of a
    configuration's file (docs/vllm.md), which must be there under that name on every machine.
    Raises FairlaneError for what cannot go together.
    """
    from fairlane.engines.ray.llm import build_app

    return build_app(arguments)


def __getattr__(name: str) -> Any:
    if name == "identity":
        from fairlane.engines.ray.llm import ReplicaIdentity

        return ReplicaIdentity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Every name of Ray Serve LLM that its documentation does not promise, in one place.

Tested with Ray 2.60; older ones lack some of them, and say so by an AttributeError when an app is
built or a replica starts. By default a request's way is: HTTP proxy, ingress (a FastAPI app),
handle, server (the replica that holds vLLM), engine. `IngressHooks` stands before the middlewares
of the ingress, and where every route that reaches a model passes; `ServerHooks` where a replica
hands a request to its engine. A refusal crosses the handle as an error with one field more,
`_REJECTION`.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.llm._internal.serve.constants import RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ErrorInfo,
    ErrorResponse,
    OpenAIHTTPException,
)
from ray.serve import get_replica_context
from ray.serve.llm import LLMServingArgs, build_openai_app
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import OpenAiIngress
from starlette.requests import Request

from fairlane.core.types import Rejection
from fairlane.door.admission import Refused
from fairlane.door.answers import App, Receive, Scope, Send

__all__ = ["IngressHooks", "LLMServingArgs", "ServerHooks", "build_openai_app", "streams_directly"]

_REFUSED = "fairlane.refused"  # in the scope of a request: a list, of what it was refused for
_REJECTION = "fairlane_rejection"
_ENDING = frozenset({"STOPPING", "STOPPED"})  # states of a replica that counts no more
_GENERATES = frozenset({"chat", "completions", "embeddings", "score", "transcriptions"})


def streams_directly() -> bool:
    """Whether vLLM's own HTTP server answers in each replica, with its middlewares."""
    return bool(RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING)


def replicas_here() -> tuple[str, int]:
    """The name of this replica, and how many there are of its deployment."""
    context = get_replica_context()
    return f"{context.app_name}:{context.replica_tag}", max(1, int(context.world_size))


def replicas_now() -> int:
    """How many replicas of the deployment that this one is of there are now, or are starting.

    Asks Serve's controller, and blocks until it answers. Raises anything.
    """
    context = get_replica_context()
    app = serve.status().applications[context.app_name]
    states = app.deployments[context.deployment].replica_states
    count = sum(number for state, number in states.items() if state not in _ENDING)
    return max(1, int(count))


class IngressHooks(OpenAiIngress):  # type: ignore[misc]
    """An ingress that asks its subclass about each request.

    serves(scope, receive, send, app)   every HTTP request, in the place of Ray's `app`
    checked(scope)                      the headers that go on with one for a model, in place of
                                        those that came; or raises Refused
    """

    def _set_asgi_app(self, app: Any) -> None:
        app.add_middleware(_Before, ingress=self)  # the last that is added is outermost
        super()._set_asgi_app(app)

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Any = None
    ) -> AsyncIterator[Any]:
        scope = raw_request.scope
        try:
            checked = Request({**scope, "headers": self.checked(scope)})
            passed = super()._get_response(body=body, call_method=call_method, raw_request=checked)
            async for response in passed:
                _raise_refusal(response)
                yield response
        except Refused as refused:
            scope[_REFUSED].append(refused)
            raise OpenAIHTTPException(
                status_code=refused.status, message=refused.message, type=refused.code
            ) from None

    async def ask_replica(self, model: str | None, method: str, *args: Any) -> Any:
        """What any replica of the model answers. model: None where there is one. Raises Refused."""
        handles: Mapping[str, Any] = self._default_serve_handles
        named = next(iter(handles)) if model is None and len(handles) == 1 else model or ""
        if named not in handles:
            known = ", ".join(sorted(handles))
            raise Refused(400, "no_model", f"Say which model by ?model=NAME: {known}.")
        return await getattr(handles[named], method).remote(*args)

    @staticmethod
    def refusal(scope: Scope) -> Refused | None:
        """What the request of that scope was refused for, once Ray's app answers it."""
        return next(iter(scope[_REFUSED]), None)

    @abstractmethod
    async def serves(self, scope: Scope, receive: Receive, send: Send, app: App) -> None:
        """See the class."""

    @abstractmethod
    def checked(self, scope: Any) -> list[tuple[bytes, bytes]]:
        """See the class."""


class _Before:
    """The middleware by which an ingress is asked first."""

    def __init__(self, app: App, ingress: IngressHooks) -> None:
        self._app, self._ingress = app, ingress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[_REFUSED] = []
            await self._ingress.serves(scope, receive, send, self._app)
        else:
            await self._app(scope, receive, send)


def _raise_refusal(response: Any) -> None:
    """Raise the Refused that a replica's answer stands for, if it does; see ServerHooks."""
    first = response[0] if isinstance(response, list) and response else response
    error: Any = getattr(first, "error", None)
    if hasattr(error, _REJECTION):
        rejection = getattr(error, _REJECTION)
        raise Refused(
            error.code,
            error.type,
            error.message,
            None if rejection is None else Rejection(*rejection),
        )


class ServerHooks(LLMServer):  # type: ignore[misc]
    """A replica that tells its subclass of its engine, and of each request to it.

    started(engine_client)          before any request
    arrives(headers, generates)     a request; an async context manager around its time in the
                                    engine, or Refused. `generates`: not for such as tokenizing
    """

    async def start(self) -> None:
        """Start the engine."""
        await super().start()
        await self.started(self.engine._engine_client)

    async def _run_request(
        self,
        request: Any,
        *,
        engine_method: str,
        batch_output_stream: bool = False,
        raw_request_info: Any = None,
    ) -> Any:
        headers = {} if raw_request_info is None else raw_request_info.headers
        run = super()._run_request

        async def running() -> AsyncIterator[Any]:
            try:
                async with self.arrives(headers, engine_method in _GENERATES):
                    answers = await run(
                        request,
                        engine_method=engine_method,
                        batch_output_stream=batch_output_stream,
                        raw_request_info=raw_request_info,
                    )
                    async for answer in answers:
                        yield answer
            except Refused as refused:
                error = _as_error(refused)
                yield [error] if batch_output_stream and request.stream else error

        return running()

    @abstractmethod
    async def started(self, engine_client: Any) -> None:
        """See the class."""

    @abstractmethod
    def arrives(self, headers: Mapping[str, str], generates: bool) -> Any:
        """See the class."""


def _as_error(refused: Refused) -> Any:
    """A refusal as Ray carries it from a replica to the ingress."""
    rejection = refused.rejection
    told = None if rejection is None else (rejection.reason, rejection.retry_after_s)
    info = ErrorInfo(
        message=refused.message, type=refused.code, code=refused.status, **{_REJECTION: told}
    )
    return ErrorResponse(error=info)

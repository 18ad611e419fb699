"""Every name of Ray Serve LLM that its documentation does not promise, in one place.

Tested with Ray 2.60; older ones lack some of them, and say so by an AttributeError when an app is
built or a replica starts. By default a request's way is: HTTP proxy, ingress (a FastAPI app),
handle, server (the replica that holds vLLM), engine. `IngressHooks` stands where every route that
reaches a model passes, `ServerHooks` where a replica hands a request to its engine.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any

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

from fairlane.door.admission import Refused

__all__ = ["IngressHooks", "LLMServingArgs", "ServerHooks", "build_openai_app", "streams_directly"]

_GENERATES = frozenset({"chat", "completions", "embeddings", "score", "transcriptions"})


def streams_directly() -> bool:
    """Whether vLLM's own HTTP server answers in each replica, with its middlewares."""
    return bool(RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING)


def replicas_here() -> tuple[str, int]:
    """The name of this replica, and how many there are of its deployment."""
    context = get_replica_context()
    return f"{context.app_name}:{context.replica_tag}", max(1, int(context.world_size))


class IngressHooks(OpenAiIngress):  # type: ignore[misc]
    """An ingress that asks its subclass which headers go on with a request.

    checked(scope)  the headers, in place of those that came; or raises Refused
    """

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Any = None
    ) -> AsyncIterator[Any]:
        try:
            headers = self.checked(raw_request.scope)
        except Refused as refused:
            raise OpenAIHTTPException(
                status_code=refused.status, message=refused.message, type=refused.code
            ) from None
        checked = Request({**raw_request.scope, "headers": headers})
        passed = super()._get_response(body=body, call_method=call_method, raw_request=checked)
        async for response in passed:
            yield response

    @abstractmethod
    def checked(self, scope: Any) -> list[tuple[bytes, bytes]]:
        """See the class."""


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
                told = ErrorInfo(message=refused.message, type=refused.code, code=refused.status)
                error = ErrorResponse(error=told)
                yield [error] if batch_output_stream and request.stream else error

        return running()

    @abstractmethod
    async def started(self, engine_client: Any) -> None:
        """See the class."""

    @abstractmethod
    def arrives(self, headers: Mapping[str, str], generates: bool) -> Any:
        """See the class."""

"""What a server's door answers itself, as the clients of OpenAI's API understand it."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fairlane.core.types import Rejection
from fairlane.door.admission import QUOTA_EXCEEDED, Refused
from fairlane.door.limits import retry_after

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # of a WebSocket


def as_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def query_of(scope: Scope) -> str:
    """What stands behind the question mark."""
    return bytes(scope.get("query_string", b"")).decode("latin-1")


async def send_json(
    send: Send, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """A whole JSON response."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    start = as_headers({"content-type": "application/json", "cache-control": "no-store"})
    start += as_headers({"content-length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(
    send: Send, refused: Refused, headers: Mapping[str, str] | None = None
) -> None:
    """A refusal in the shape of OpenAI's errors; with Retry-After where that helps."""
    headers = dict(headers or {})
    rejection = refused.rejection
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    if rejection is not None:
        headers["retry-after"] = retry_after(rejection)
    if refused.code == QUOTA_EXCEEDED:
        headers["x-should-retry"] = "false"  # clients of OpenAI's API would try at once, in vain
    error = {
        "message": _sentence(refused.message, rejection),
        "type": _type(refused.code, rejection),
        "param": None,
        "code": refused.code,
    }
    await send_json(send, {"error": error}, refused.status, headers)


async def close_websocket(receive: Receive, send: Send, refused: Refused) -> None:
    """A refusal of a WebSocket, before it is opened."""
    await receive()
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refused.message})


def _sentence(message: str, rejection: Rejection | None) -> str:
    if rejection is None or rejection.retry_after_s is None:
        return message
    return f"{message} Try again in {retry_after(rejection)} s."


def _type(code: str, rejection: Rejection | None) -> str:
    """OpenAI names the limit that was reached."""
    if code == QUOTA_EXCEEDED:
        return "insufficient_quota"
    if rejection is None:
        return "invalid_request_error"
    return "tokens" if rejection.reason == "tokens_per_minute" else "requests"

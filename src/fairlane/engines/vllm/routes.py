"""Which of a vLLM server's routes are for whom. What is not listed is for operators alone.

Compared with the routes of vLLM 0.25 to 0.33. A route that a later vLLM adds is closed to clients
until it is listed here, or under [identity] routes in the configuration.
"""

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any


class Audience(Enum):
    """Who may use a route."""

    EVERYONE = "everyone"  # says nothing about tenants and reaches no engine
    METRICS = "metrics"  # everyone's, with more in it for operators
    CLIENTS = "clients"
    OPERATORS = "operators"


_EVERYONE = frozenset(
    {"/health", "/ping", "/version", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
)
_CLIENTS = frozenset(
    {
        "/classify",
        "/cohere/v2/chat",
        "/detokenize",
        "/fairlane/me",
        "/fairlane/tenants",
        "/fairlane/usage",
        "/generate",
        "/generative_scoring",
        "/inference/v1/generate",
        "/invocations",
        "/load",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/derender",
        "/v1/chat/completions/render",
        "/v1/completions",
        "/v1/completions/derender",
        "/v1/completions/render",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/messages/render",
        "/v1/models",
        "/v1/realtime",
        "/v1/rerank",
        "/v1/responses",
        "/v1/responses/render",
        "/v1/score",
        "/v1/systemone",
        "/v2/embed",
        "/v2/rerank",
    }
)
_CLIENTS_BELOW = ("/v1/models/", "/v1/responses/")


def audience(path: str, more_for_clients: Collection[str] = ()) -> Audience:
    """Who may use the route of that path (as `route_path` gives it)."""
    if path.startswith("/metrics"):  # vLLM mounts its metrics at everything that begins so
        return Audience.METRICS
    if path in _EVERYONE or path.startswith("/static/"):
        return Audience.EVERYONE
    if path in _CLIENTS or path in more_for_clients or path.startswith(_CLIENTS_BELOW):
        return Audience.CLIENTS
    return Audience.OPERATORS


def route_path(scope: Mapping[str, Any]) -> str:
    """The path that the server's router will look at: without its root path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    below = path[len(root) :] if root and path.startswith(root) else path
    return below if below.startswith("/") or not below else path


def exists(scope: Mapping[str, Any]) -> bool:
    """Whether the server's router knows the path, for any method, by its own matching.

    Only a refusal is worded by it, so where the router cannot be asked a path is taken to exist.
    """
    routes = getattr(scope.get("app"), "routes", None)
    if routes is None:
        return True
    try:
        return any(route.matches(dict(scope))[0].value for route in routes)  # 0 for no match
    except Exception:
        return True

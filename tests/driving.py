"""How tests drive a policy: requests in one line, policies by name, the usual turns of a host."""

from collections.abc import Iterable
from typing import Any

from hypothesis import settings

from fairlane.core.policy import Policy
from fairlane.core.types import Request, RequestId
from fairlane.policies.registry import get_policy


def fewer_examples() -> settings:
    """A fifth of the examples, for tests that run once for every policy."""
    assert settings.default is not None
    return settings(max_examples=max(20, settings.default.max_examples // 5))


def req(request_id: RequestId, client: str, prompt: int = 10) -> Request:
    """A request of `prompt` input tokens."""
    return Request(request_id, client, prompt)


def true_length(request: Request) -> int:
    """An output length that follows from the prompt's, for policies that ask an oracle."""
    return request.prompt_tokens % 7 + 1


def fresh(name: str, **options: Any) -> Policy[Any]:
    """A new policy of that name, given the oracle that it may need."""
    if "true_length" in get_policy(name).options:
        options.setdefault("true_length", true_length)
    return get_policy(name).create(**options)


def enqueue_all(policy: Policy[Any], requests: Iterable[Request], now: float = 0.0) -> None:
    """Queue requests that must all be accepted."""
    for request in requests:
        assert policy.enqueue(request, now) is None


def admit_next(policy: Policy[Any], now: float = 0.0) -> RequestId:
    """Admit what the policy picks; there must be something."""
    request = policy.peek(now)
    assert request is not None
    policy.admit(request.id, now)
    return request.id


def admit_all(policy: Policy[Any], now: float = 0.0) -> list[RequestId]:
    """Admit until nothing waits; the ids in order."""
    order: list[RequestId] = []
    while policy.peek(now) is not None:
        order.append(admit_next(policy, now))
    return order


def counters(policy: Policy[Any]) -> dict[str, float | None]:
    """Counters of the active clients."""
    return {name: state.counter for name, state in policy.snapshot().clients.items()}

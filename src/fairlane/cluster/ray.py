"""A hub in a Ray cluster, for whatever runs in that: an actor, and no server beside.

The actor is detached, and named after the pool. Whoever needs it first makes it; Ray starts it
again when it dies, empty, and that is a new era as for any hub that forgot. It is slower than a
server of Redis' kind by ten times, and fast enough for some hundred members.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fairlane.cluster.hub import MOST_CLIENTS, HubError, Pull, Push
from fairlane.cluster.limits import Ask, Verdicts
from fairlane.cluster.memory import HubState, MemoryHub
from fairlane.core.errors import FairlaneError

try:
    import ray
    from ray.exceptions import RayError
except ImportError as error:
    raise FairlaneError(
        "a hub in Ray needs Ray, which is not installed: pip install ray"
    ) from error

NAMESPACE = "fairlane"  # Ray's, in which all of Fairlane's actors have their names
_TIMEOUT_S = 5.0
T = TypeVar("T")


class RayHub:
    """A Hub; see the module. It works in processes that are part of a Ray cluster.

    pool, namespace: of the schedulers that share. timeout_s: for an answer.
    """

    def __init__(
        self,
        *,
        pool: str,
        namespace: str = "default",
        most_clients: int = MOST_CLIENTS,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self.name = f"hub {namespace} {pool}"
        self._most_clients = most_clients
        self._timeout_s = timeout_s
        self._actor: Any = None

    async def exchange(self, push: Push) -> Pull:
        """Apply a push, once, and tell what changed."""
        return await self._ask(lambda actor: actor.exchange.remote(push))

    async def limit(self, ask: Ask) -> Verdicts:
        """Let requests in by limits that hold over all servers."""
        return await self._ask(lambda actor: actor.limit.remote(ask))

    async def post(self, origin: str, text: str, lives_s: float) -> None:
        """Tell the others of oneself."""
        await self._ask(lambda actor: actor.post.remote(origin, text, lives_s))

    async def posts(self, most: int | None = None) -> Mapping[str, str]:
        """What members told of themselves, by origin."""
        return await self._ask(lambda actor: actor.posts.remote(most))

    async def close(self) -> None:
        """Let go of the actor, which lives on for others."""
        self._actor = None

    async def _ask(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._make)
                return await ask(self._actor)
        except (RayError, TimeoutError, ValueError) as error:
            self._actor = None  # of one that was killed for good the handle is dead
            cause = str(error).strip().partition("\n")[0] or type(error).__name__
            raise HubError(f"the hub in Ray: {cause}") from error

    def _make(self) -> Any:
        """The actor, which is made unless it is there."""
        if not ray.is_initialized():
            raise HubError("the hub in Ray: this process is not part of a Ray cluster")
        return ray.remote(MemoryHub).options(
            name=self.name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True,
            num_cpus=0, max_restarts=-1, max_concurrency=1000,
        ).remote(HubState(self._most_clients))  # fmt: skip

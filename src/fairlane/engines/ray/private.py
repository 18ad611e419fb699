"""Every name of Ray Serve that its documentation does not promise, in one place.

Tested with Ray 2.55 to 2.60; another version is tried, with a warning. (Older ones do not tell a
router when a request has ended.) The classes that a router may be made of are public, but alpha;
that a router may put requests in order, by `_choose_replica_for_request`, is private, as is the
name by which a replica knows the request that it serves. private_llm.py has those of Serve LLM.
"""

import logging
import pickle
from abc import abstractmethod
from typing import Any

from ray import __version__ as RAY_VERSION
from ray import serve
from ray.serve import get_replica_context
from ray.serve.context import _get_serve_request_context
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from fairlane.core.errors import FairlaneError
from fairlane.engines.versions import was_tested

_ENDING = frozenset({"STOPPING", "STOPPED"})  # states of a replica that counts no more
OLDEST, NEWEST = (2, 55), (2, 60)
logger = logging.getLogger("ray.serve")


def check_version(version: str = RAY_VERSION) -> bool:
    """Whether this Ray is one that was tested; warns when it is not."""
    return was_tested("Ray", version, OLDEST, NEWEST, logger)


def http_headers(pending: Any) -> list[tuple[bytes, bytes]]:
    """The headers of a request that came by HTTP to this proxy; of any other, none."""
    if not pending.metadata.is_http_request:  # which is so in a proxy alone
        return []
    packed = pending.args[0]  # by this very process, for the replica
    request = pickle.loads(packed) if isinstance(packed, bytes) else packed
    return list(request.asgi_scope["headers"])


def request_name(pending: Any) -> str:
    """What the replica calls the request, too; calls that one request makes share its name."""
    return str(pending.metadata.internal_request_id)


def served_here() -> tuple[str, str, str, str]:
    """Of the request that this replica serves: app, deployment, replica, and its name.

    Raises FairlaneError where none is served.
    """
    try:
        context = get_replica_context()
    except Exception as error:
        raise FairlaneError(f"no replica of Ray Serve runs here: {error}") from error
    request = _get_serve_request_context()._internal_request_id
    if not request:
        raise FairlaneError("no request is being served here; call this while one is")
    return context.app_name, context.deployment, context.replica_tag, request


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


class Hooks(RequestRouter):  # type: ignore[misc]
    """A router that asks its subclass where each request goes, and tells what became of it.

    choose(pending, again)       the replica's name, awaited; `again` when the last turned it away
    accepted(pending, replica)   that replica took it
    ended(request, replica)      one of that name ended there, or was turned away there
    replicas_changed()           `capacity` differs from before

    By Serve's setting a replica may have no limit: then it takes all, without a word.
    """

    _by_name: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        self_node_id: Any = None,
        prefer_local_node_routing: Any = None,
        prefer_local_az_routing: Any = None,
        self_availability_zone: Any = None,
        use_replica_queue_len_cache: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, use_replica_queue_len_cache=use_replica_queue_len_cache, **kwargs)
        self.asks = use_replica_queue_len_cache  # whether replicas are asked to accept
        self._by_name = {}

    @property
    def address(self) -> tuple[str, str]:
        """App and deployment that requests are sent to."""
        return str(self._deployment_id.app_name), str(self._deployment_id.name)

    @property
    def capacity(self) -> dict[str, int]:
        """How many requests each replica takes at once."""
        return {name: int(one.max_ongoing_requests) for name, one in self._by_name.items()}

    def update_replicas(self, replicas: list[Any]) -> None:
        """Serve's controller says which replicas there are."""
        super().update_replicas(replicas)
        self._by_name = {str(one.replica_id.unique_id): one for one in replicas}
        self.replicas_changed()

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        again = is_retry
        while True:
            replica = self._by_name.get(await self.choose(pending_request, again))
            if replica is not None:
                return replica
            again = True  # it left in the meantime

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """What Serve's own queue would ask, which has no requests here."""
        return [candidate_replicas]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """A replica took a request."""
        self.accepted(pending_request, str(replica_id.unique_id))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A replica is done with a request, or did not take it."""
        self.ended(str(internal_request_id), str(replica_id.unique_id))

    @abstractmethod
    async def choose(self, pending: Any, again: bool) -> str:
        """See the class."""

    @abstractmethod
    def accepted(self, pending: Any, replica: str) -> None:
        """See the class."""

    @abstractmethod
    def ended(self, request: str, replica: str) -> None:
        """See the class."""

    @abstractmethod
    def replicas_changed(self) -> None:
        """See the class."""

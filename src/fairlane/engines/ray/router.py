"""The request router: in every process that sends requests to a deployment, for `fair_router`.

It keeps no order of its own: each request asks the deployment's queue (queue_actor.py), waits there
among those of all other processes, and goes where it is told. Every second it says what it has.
While the queue is gone requests wait here, and ask the next one.
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig

from fairlane.core.errors import FairlaneError
from fairlane.door.config import Configuration
from fairlane.door.tenants import TenantError, check_name
from fairlane.engines.ray.private import Hooks, check_version, http_headers, request_name
from fairlane.engines.ray.queue_actor import LOST, MOST_WAITING, make_queue
from fairlane.engines.ray.shared_queue import Call
from fairlane.policies.registry import get_policy

_SAY_EVERY_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 1.0  # between two attempts to reach the queue
_ANSWER_S = 5.0
logger = logging.getLogger("ray.serve")


def router_config(document: Mapping[str, Any], *, who: str | list[str], anonymous: str) -> Any:
    """See fairlane.engines.ray.fair_router. document: the configuration, as from a file."""
    config = Configuration.parse(document, Path())
    if unseen := config.tells_requests:
        raise FairlaneError(f"{unseen}: a router tells nothing of single requests; remove it")
    name = get_policy(config.scheduler.name).name
    if name == "rpm":
        raise FairlaneError("rpm turns requests away, which no router of Ray Serve can; take vtc")
    Identifier(who, anonymous)
    check_version()
    told = {"document": document, "who": who, "anonymous": anonymous}
    return RequestRouterConfig(
        request_router_class="fairlane.engines.ray.router:FairRouter", request_router_kwargs=told
    )


class Identifier:
    """Tells whose a request is; see fairlane.engines.ray.fair_router."""

    def __init__(self, who: str | list[str], anonymous: str) -> None:
        self._headers: list[bytes] = []
        self._arguments: list[str] = []
        for one in [who] if isinstance(who, str) else who:
            kind, _, name = one.partition(":")
            if kind not in ("header", "argument") or not name:
                raise FairlaneError(f'who must be "header:NAME" or "argument:NAME", not {one!r}')
            if kind == "header":
                self._headers.append(name.lower().encode())
            else:
                self._arguments.append(name)
        check_name(anonymous)
        self._anonymous = anonymous

    def client(self, pending: Any) -> str:
        """The client, or the anonymous one where it has no name or none that can be."""
        sent = [(name.lower(), value) for name, value in http_headers(pending)]
        for header in self._headers:
            found = [value for name, value in sent if name == header]
            if found:  # of two, one is not from whom it should be
                return self._checked(found[0].decode("utf-8", "replace") if not found[1:] else "")
        given = [pending.kwargs[name] for name in self._arguments if name in pending.kwargs]
        return self._checked(given[0]) if given else self._anonymous

    def _checked(self, name: Any) -> str:
        try:
            check_name(name)
        except (TenantError, TypeError):
            return self._anonymous
        return str(name)


class FairRouter(Hooks):
    """See the module."""

    def initialize_state(
        self, document: Mapping[str, Any], who: str | list[str], anonymous: str
    ) -> None:
        """Serve hands over what `router_config` wrote."""
        check_version()
        self._document = document
        self._identifier = Identifier(who, anonymous)
        self._name = uuid.uuid4().hex
        self._numbers = count()
        self._queue: Any = None
        self._reaching = asyncio.Lock()
        self._room = asyncio.Semaphore(MOST_WAITING)  # beyond, requests wait here in their order
        self._waiting: dict[str, Call] = {}
        self._running: dict[str, Call] = {}
        self._accepted: set[str] = set()
        self._saying: asyncio.Task[None] | None = None
        self._warned = False

    # -- what Serve tells --------------------------------------------------------------------

    async def choose(self, pending: Any, again: bool) -> str:
        """Wait in the queue for a replica; however often the queue is lost."""
        async with self._room:
            return await self._choose(self._call(pending))

    async def _choose(self, call: Call) -> str:
        self._running.pop(call.key, None)
        self._waiting[call.key] = call
        call.replica = None
        queue = turn = None
        wait = _FIRST_WAIT_S
        try:
            while True:
                try:
                    queue = await self._reach()
                    turn = queue.enter.remote(call)
                    replica = str(await turn)
                    if replica != LOST:
                        call.replica = replica
                        self._running[call.key] = call
                        return replica
                except RayActorError as error:
                    self._lose(queue, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
        except asyncio.CancelledError:
            if turn is not None:
                ray.cancel(turn)
            self._leave(call.key, False)
            raise
        finally:
            self._waiting.pop(call.key, None)

    def accepted(self, pending: Any, replica: str) -> None:
        """A replica took a request."""
        call = self._call(pending)
        self._running[call.key] = call
        self._accepted.add(call.key)

    def ended(self, request: str, replica: str) -> None:
        """A replica is done with a request; one that it turned away asks again, or is given up."""
        there = (request, replica)
        key = next((k for k, c in self._running.items() if (c.request, c.replica) == there), None)
        if key is None:
            return
        del self._running[key]
        if key in self._accepted or not self.asks:
            self._accepted.discard(key)
            self._leave(key, True)

    def replicas_changed(self) -> None:
        """Tell the queue, unless there is none yet."""
        if self._queue is not None:
            self._say()

    # -- inside ------------------------------------------------------------------------------

    def _call(self, pending: Any) -> Call:
        """The call of a request, the same for each attempt to send it."""
        call = getattr(pending, "fairlane_call", None)
        if call is None:
            key = f"{self._name}-{next(self._numbers)}"
            client = self._identifier.client(pending)
            call = pending.fairlane_call = Call(key, self._name, client, request_name(pending))
        return call

    async def _reach(self) -> Any:
        """The queue, which has heard of this router."""
        async with self._reaching:
            if self._queue is None:
                self._queue = await asyncio.to_thread(make_queue, *self.address, self._document)
                self._say()
            if self._saying is None or self._saying.done():
                self._saying = asyncio.get_running_loop().create_task(self._keep_saying())
            return self._queue

    def _say(self) -> Any:
        return self._queue.hear.remote(
            self._name, self._document, self.capacity, list(self._waiting),
            list(self._running.values()),
        )  # fmt: skip

    async def _keep_saying(self) -> None:
        """Until there are neither replicas nor requests."""
        while self.capacity or self._waiting or self._running:
            queue = None
            try:
                queue = await self._reach()
                same = await asyncio.wait_for(self._say(), _ANSWER_S)
            except (RayActorError, TimeoutError) as error:
                self._lose(queue, error)
            else:
                self._warn_of(same)
            await asyncio.sleep(_SAY_EVERY_S)

    def _lose(self, queue: Any, error: Exception) -> None:
        """The queue does not answer: look for it anew."""
        if self._queue is queue and queue is not None:
            self._queue = None
            logger.warning("The fair queue of %s does not answer (%s); its requests ask again",
                           self.address[1], type(error).__name__)  # fmt: skip

    def _warn_of(self, same: bool) -> None:
        if not same and not self._warned:
            self._warned = True
            logger.warning(
                "The fair queue of %s was started with other options, which hold until the "
                "deployment had no routers for a minute; take a new name for others at once",
                self.address[1],
            )

    def _leave(self, key: str, finished: bool) -> None:
        if self._queue is not None:
            self._queue.leave.remote(key, finished)

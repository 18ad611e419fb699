"""The fair queue of one deployment as an actor, and how routers and replicas find it.

The actor is detached and named after the deployment. Whoever needs it first makes it; Ray starts it
again when it dies, empty, and its routers then tell it what runs and what waits; when no router was
heard of for a while it ends by itself. It runs on any node, which must have Fairlane installed.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from fairlane.cluster.hub import new_name
from fairlane.cluster.ray import NAMESPACE
from fairlane.core.audit import Auditor
from fairlane.core.errors import FairlaneError
from fairlane.core.types import Outcome
from fairlane.door.books import Books
from fairlane.door.config import Configuration
from fairlane.engines.ray.shared_queue import Call, SharedQueue

LOST = ""  # in place of a replica: ask again
# Calls of `enter` of one router at once. All of all routers must be fewer than the actor takes, or
# no word that a call has ended would reach it. (Groups of calls do not help: Ray gives each group
# a thread and an event loop of its own.)
MOST_WAITING = 5_000
_LOOK_EVERY_S = 0.5
_IDLE_S = 60.0
_COMEBACK_S = 0.06  # a replica that turned a call away is full for less
logger = logging.getLogger("ray.serve")


def queue_name(app: str, deployment: str) -> str:
    """The actor's name in NAMESPACE."""
    return f"queue {app} {deployment}"


def make_queue(app: str, deployment: str, document: Mapping[str, Any]) -> Any:
    """The handle of a deployment's queue, which is made unless it is there."""
    return ray.remote(QueueActor).options(
        name=queue_name(app, deployment), namespace=NAMESPACE, lifetime="detached",
        get_if_exists=True, max_restarts=-1, num_cpus=0, max_concurrency=20 * MOST_WAITING,
    ).remote(document)  # fmt: skip


def find_queue(app: str, deployment: str) -> Any:
    """The handle of a deployment's queue. Raises FairlaneError where there is none."""
    try:
        return ray.get_actor(queue_name(app, deployment), namespace=NAMESPACE)
    except ValueError as error:
        raise FairlaneError(
            f"the deployment {deployment} of the app {app} has no fair queue; one is made with "
            "its first request, if its request_router_config is a fair_router"
        ) from error


class QueueActor:
    """See the module. document: the configuration, as from a file."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        config = Configuration.parse(document, Path())
        policy = config.policy()
        weights = config.weights if policy.has_weights else {}
        auditor = Auditor(cost=config.cost, weights=weights, name_of=config.name_of)
        books = Books(policy, auditor, config.cost, time.monotonic)
        self._queue = SharedQueue(books, time.monotonic)
        self._name = new_name()
        self._turns: dict[str, asyncio.Future[str]] = {}
        self._looks: asyncio.Task[None] | None = None

    async def hear(
        self,
        router: str,
        document: Mapping[str, Any],
        capacity: Mapping[str, int],
        waiting: list[str],
        running: list[Call],
    ) -> bool:
        """A router says what it has; whether this is the queue that it was configured for."""
        self._queue.hear(router, capacity, waiting, running)
        self._go_on()
        return document == self._document

    async def enter(self, call: Call) -> str:
        """The replica that a call is to be sent to, when it is its turn; or LOST.

        Again for a call that it turned away. Raises FairlaneError when it must not wait.
        """
        again = call.key in self._queue
        reason = self._queue.enter(call)
        if reason is not None:
            raise FairlaneError(f"the request was turned away: {reason}")
        turn: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        before = self._turns.get(call.key)
        if before is not None and not before.done():
            before.set_result(LOST)  # its caller asks anew, as after a loss of connection
        self._turns[call.key] = turn
        if again:
            asyncio.get_running_loop().call_later(_COMEBACK_S, self._go_on)
        self._go_on()
        try:
            return await turn
        except asyncio.CancelledError:
            if self._turns.get(call.key, turn) is turn:
                await self.leave(call.key, False)
            raise

    async def leave(self, key: str, finished: bool) -> None:
        """A call ended, or waits no more."""
        self._turns.pop(key, None)
        self._queue.leave(key, Outcome.FINISHED if finished else Outcome.ABORTED)
        self._go_on()

    async def report(self, request: str, replica: str, output: int, prompt: int | None) -> bool:
        """A replica tells tokens; see SharedQueue.report."""
        return self._queue.report(request, replica, output, prompt)

    async def state(self) -> dict[str, Any]:
        """See fairlane.engines.ray.queue_state."""
        return {"queue": self._name, **self._queue.books.snapshot(), **self._queue.counts()}

    def _go_on(self) -> None:
        """Wake all whose turn it is."""
        if self._looks is None:
            self._looks = asyncio.get_running_loop().create_task(self._look())
        for key, replica in self._queue.turns():
            turn = self._turns.pop(key, None)
            if turn is not None and not turn.done():
                turn.set_result(replica)
            else:  # its caller is gone
                self._queue.leave(key, Outcome.ABORTED)
        for key in self._queue.take_failed():
            turn = self._turns.pop(key, None)
            if turn is not None and not turn.done():
                turn.set_exception(FairlaneError("the request was turned away: policy_error"))

    async def _look(self) -> None:
        """Forget routers that died, and end when nobody is left."""
        idle_since = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for key in self._queue.forget_silent():
                turn = self._turns.pop(key, None)
                if turn is not None and not turn.done():
                    turn.set_result(LOST)
            self._go_on()
            if not self._queue.idle:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _IDLE_S:
                ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

"""vLLM's schedulers with a fair waiting queue: what `--scheduler-cls` makes.

A request's way: it arrives with its client's name in its params (clients.py) and waits in the
fair queue (waiting.py); vLLM admits whom the policy offers; each step's tokens are reported to
the policy; when it ends, however it ends, it is settled (books.py). The client is read once, at
arrival. Policies are fairlane.policies, unchanged.
"""

import time
from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from fairlane.core.audit import Auditor, service_bound
from fairlane.core.errors import FairlaneError
from fairlane.core.preemption import put_last_who_holds_most
from fairlane.core.tree import split_path
from fairlane.core.types import Outcome, Request
from fairlane.door.access import ANONYMOUS
from fairlane.door.books import Books
from fairlane.door.sharing import Sharing
from fairlane.engines.vllm.clients import client_of
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.frontend import refuse_unguarded_front_ends
from fairlane.engines.vllm.private import (
    AsyncScheduler,
    Hooks,
    Scheduler,
    check_version,
    end_failed,
    finished,
    has_room,
    under_memory_pressure,
)
from fairlane.engines.vllm.waiting import FairRequestQueue


class FairHooks(Hooks):
    """The fair side of a scheduler, for any of vLLM's as the next base."""

    _books: Books
    _queue: FairRequestQueue
    _config: FairlaneConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.is_first_come_first_served:
            return
        check_version()
        self._sharing: Sharing | None = None
        self._exchanged: tuple[float, Mapping[str, Any]] = (time.monotonic(), {})
        self._config = config = FairlaneConfig.from_environment()
        policy = config.policy()
        self._weights = dict(config.weights) if policy.has_weights else {}
        auditor = Auditor(
            cost=config.cost,
            weights=self._weights,
            bound=self._bound(config, policy.slack),
            name_of=config.name_of,
        )
        self._books = Books(policy, auditor, config.cost, time.monotonic)
        patience = config.scheduler.patience
        self._queue = FairRequestQueue(self._books, self._arrive, partial(has_room, self), patience)
        self._path_of = split_path if config.scheduler.groups else None
        self._reorders = config.scheduler.preempts == "fairest"
        self.take_over(self._queue)

    # -- events ------------------------------------------------------------------------------

    def step_begins(self) -> None:
        """Put who holds most memory at the end of the list, where vLLM preempts first."""
        if self._reorders and under_memory_pressure(self):
            running: list[Any] = self.running  # type: ignore[attr-defined]
            put_last_who_holds_most(
                running, self._client, attrgetter("num_computed_tokens"),
                self._weights, self._path_of,
            )  # fmt: skip

    def step_scheduled(self) -> None:
        """Admissions are settled while num_computed_tokens is what the prefix cache held."""
        self._queue.end_step()

    def delivered(self, tokens: Mapping[str, int], ended: list[Any], outputs: Any) -> None:
        """Charge what was generated, then settle who ended, then end whom nobody will serve."""
        self._books.delivered(tokens)
        for request in ended:
            self.ended(request)
        if self._books.failed or self._queue.refused:
            doomed = {**self._queue.refused, **dict.fromkeys(self._books.failed, True)}
            self._books.failed.clear()
            end_failed(self, outputs, doomed)

    def ended(self, request: Any) -> None:
        """Settle a request."""
        outcome = Outcome.FINISHED if finished(request) else Outcome.ABORTED
        self._books.finish(request.request_id, outcome)

    def session_goes_on(self, request: Any, tokens: int) -> None:
        """New input of a streaming request: where vLLM keeps it apart, it is admitted at once."""
        self._books.next_turn(request.request_id, tokens)
        if not self._queue.wake(request):
            self._books.admit(request.request_id, 0)

    # -- telemetry and control, from the HTTP server -----------------------------------------

    def fairlane_snapshot(self) -> dict[str, Any]:
        """What this scheduler knows of its clients, ready for JSON."""
        if not self._taken_over:
            return {"policy": "vllm-priority", "clients": {}}
        found = {"policy": self._config.scheduler.name, **self._books.snapshot()}
        if self._sharing is not None:
            found["cluster"] = self._cluster(self._sharing)
            if self._sharing.has_heard:  # who was served elsewhere is behind here, without limit
                found["bound"] = None
        return found

    def fairlane_set_weights(self, weights: dict[str, float]) -> None:
        """From now on these clients have these weights, where the policy has any."""
        if self._taken_over and self._books.set_weights(weights):
            self._weights.update(weights)
            if self._sharing is not None:
                self._sharing.limits_changed()

    def fairlane_share(self) -> str:
        """Begin to share, if it did not yet; why it cannot, or ""."""
        if not self._taken_over:
            return "vLLM's --scheduling-policy priority shares nothing; leave it out"
        if self._sharing is None:
            try:
                self._sharing = Sharing(
                    self._books, self._config.cluster, self._unit(), self._weights
                )
            except FairlaneError as error:
                return str(error)
        return ""

    def fairlane_swap(
        self, heard: dict[str, float], schedulers: int, exchange: dict[str, Any]
    ) -> dict[str, float]:
        """Hear what others charged, by client; what was charged here since the last time.

        schedulers: how many share. exchange: how it goes, for telemetry.
        """
        if self._sharing is None:
            raise FairlaneError("this scheduler does not share")
        self._exchanged = (time.monotonic(), exchange)
        return self._sharing.swap(heard, schedulers)

    def fairlane_settle(self, amounts: dict[str, float]) -> dict[str, Any]:
        """Raise levels by so much, by path; then, where everyone stands who waits."""
        if self._sharing is None:
            raise FairlaneError("this scheduler does not share")
        return dict(self._books.settle_levels(amounts))

    def fairlane_part(self) -> dict[str, Any]:
        """What other servers hear of this scheduler's clients."""
        return self._books.part(self._config.access.top) if self._taken_over else {}

    def fairlane_take_usage(self) -> tuple[list[Any], list[Any]]:
        """What was served and refused since this was last asked; see Grown.rows."""
        return self._books.take_usage().rows() if self._taken_over else ([], [])

    # -- inside ------------------------------------------------------------------------------

    def _client(self, request: Any) -> str | None:
        """Whose it is; nobody's if it is about to be ended, and out of the books."""
        known = request.request_id in self._books
        return self._books.client(request.request_id) if known else None

    def _arrive(self, request: Any) -> str | None:
        rules = self._config.access.rules
        client = client_of(request)
        adapter = "" if request.lora_request is None else str(request.lora_request.lora_name)
        if client is None and rules.adapters and adapter:
            client = adapter
        return self._books.arrive(
            Request(
                request.request_id,
                client or rules.anonymous or ANONYMOUS,
                request.num_prompt_tokens,
                request.max_tokens,
            ),
            adapter,  # is the model that was asked for; else the engine's own
        )

    def _cluster(self, sharing: Sharing) -> dict[str, Any]:
        """How the exchange goes: as was told with the last swap, and how long ago that was."""
        at, exchange = self._exchanged
        cluster = self._config.cluster
        told = {"pool": cluster.pool, "every_s": cluster.every_s, **exchange}
        told |= sharing.report(float(exchange.get("stale", 0.0)))
        if told.get("age_s") is not None:
            told["age_s"] += time.monotonic() - at
        return told

    def _bound(self, config: FairlaneConfig, slack: float | None) -> float | None:
        """Theorem 4.4 for this engine; None without a guarantee."""
        if slack is None:
            return None
        least = min(config.weights.values(), default=1.0)
        return 2 * self._unit() / min(least, 1.0) + slack

    def _unit(self) -> float:
        """U of theorem 4.4 for this engine's KV cache and context length, in service."""
        scheduler: Any = self
        longest = scheduler.max_model_len
        blocks = scheduler.cache_config.num_gpu_blocks
        memory = min(blocks * scheduler.block_size, scheduler.max_num_running_reqs * longest)
        return service_bound(memory, longest, self._config.cost, longest) / 2


class FairScheduler(FairHooks, Scheduler):  # type: ignore[misc]
    """vLLM's Scheduler with a fair queue."""


class FairAsyncScheduler(FairHooks, AsyncScheduler):  # type: ignore[misc]
    """vLLM's AsyncScheduler with a fair queue."""


def make_scheduler(*args: Any, **kwargs: Any) -> Any:
    """The fair scheduler over the base that vLLM's configuration asks for.

    Raises FairlaneError with a front end that nobody says the clients' names in.
    """
    refuse_unguarded_front_ends()
    config = kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
    kind = FairAsyncScheduler if config.scheduler_config.async_scheduling else FairScheduler
    return kind(*args, **kwargs)

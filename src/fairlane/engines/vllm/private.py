"""Every name of vLLM that its documentation does not promise, in one place.

Tested with vLLM 0.25.1 to 0.33.x; another version is tried, with a warning. `Hooks` is the whole
surface: it overrides vLLM's scheduler and speaks of what happens there in five words of ours.
Until 0.30 vLLM kept requests that it had passed over in a second queue, `skipped_waiting`, and
served it first; `Hooks` puts our queue in its place.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vllm import __version__ as VLLM_VERSION
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import RequestStatus

from fairlane.core.preemption import may_run_out
from fairlane.engines.versions import was_tested

__all__ = ["AsyncScheduler", "Hooks", "RequestQueue", "Scheduler", "check_version", "end_failed"]

_MOST_UNREAD = 100_000  # ended requests that are remembered until the HTTP server asks
OLDEST, NEWEST = (0, 25, 1), (0, 33)
_ENTERED = frozenset({RequestStatus.RUNNING, RequestStatus.WAITING_FOR_REMOTE_KVS})
_CUT_SHORT = frozenset(
    {
        RequestStatus.FINISHED_ABORTED,
        RequestStatus.FINISHED_ERROR,
        RequestStatus.FINISHED_IGNORED,
    }
)
logger = logging.getLogger(__name__)


def check_version(version: str = VLLM_VERSION) -> bool:
    """Whether this vLLM is one that was tested; warns when it is not."""
    return was_tested("vLLM", version, OLDEST, NEWEST, logger)


def entered(request: Any) -> bool:
    """Whether a request that was taken from the queue was admitted, or is loading its KV cache."""
    return request.status in _ENTERED


def awaits_input(request: Any) -> bool:
    """Whether the request waits for its client to stream more input."""
    return bool(request.status == RequestStatus.WAITING_FOR_STREAMING_REQ)


def awaits_nothing(request: Any) -> bool:
    """Whether nothing of the request's own (grammar, KV transfer, input) holds it up."""
    return request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def began(request: Any) -> bool:
    """Whether the engine ever began to read the request's prompt, or took it from its cache."""
    return bool(request.num_computed_tokens or request.num_preemptions)


def finished(request: Any) -> bool:
    """Whether an ended request came to its end, rather than being aborted or failing."""
    return request.status not in _CUT_SHORT


def adapter(request: Any) -> int | None:
    """The number of the request's LoRA adapter, or None."""
    return request.lora_request.lora_int_id if request.lora_request else None


def under_memory_pressure(scheduler: Any) -> bool:
    """Whether a step may need more blocks than are free."""
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    free //= len(scheduler.kv_cache_config.kv_cache_groups)
    running = scheduler.running
    missing = (r.num_tokens - r.num_computed_tokens for r in running)
    budget, size = scheduler.max_num_scheduled_tokens, scheduler.block_size
    return may_run_out(free, len(running), missing, budget, size)


def has_room(scheduler: Any) -> bool:
    """Whether so few requests run that vLLM looks who is next; else it only asks if one waits."""
    most = getattr(scheduler, "max_num_active_reqs", scheduler.max_num_running_reqs)
    resting = getattr(scheduler, "num_waiting_for_streaming_input", 0)
    return bool(len(scheduler.running) + resting < most)


def end_failed(scheduler: Any, outputs: dict[int, Any], reasons: dict[str, bool]) -> None:
    """End requests that are not to be served: {id: whether by an error, else turned away}."""
    for request_id, is_error in reasons.items():
        request = scheduler.requests.get(request_id)
        if request is None or request.is_finished():
            continue
        status = RequestStatus.FINISHED_ERROR if is_error else RequestStatus.FINISHED_ABORTED
        scheduler.finish_requests(request_id, status)
        batch = outputs.setdefault(request.client_index, EngineCoreOutputs())
        batch.outputs.append(
            EngineCoreOutput(
                request_id=request_id, new_token_ids=[], finish_reason=request.get_finished_reason()
            )
        )


class PassedOver(RequestQueue):  # type: ignore[misc]
    """In the place of `skipped_waiting`: marks who comes here and gives them to the one queue.

    Of the two, the one is not empty in which the next request would be; so vLLM, which looks
    here first, is offered all in the one queue's order, and counts each where it expects it.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def add_request(self, request: Any) -> None:
        """Into the one queue."""
        self._queue.add_request(request)
        self._queue.skipped.add(request.request_id)

    def prepend_request(self, request: Any) -> None:
        """Into the one queue."""
        self.prepend_requests([request])

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Into the one queue."""
        coming = list(requests)
        self._queue.prepend_requests(coming)
        self._queue.skipped.update(request.request_id for request in coming)

    def remove_request(self, request: Any) -> None:
        """Out of the one queue."""
        self._queue.remove_requests([request])

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Out of the one queue."""
        self._queue.remove_requests(requests)

    def peek_request(self) -> Any:
        """Who is next."""
        return self._queue.peek_request()

    def pop_request(self) -> Any:
        """Take who is next."""
        return self._queue.pop_request()

    def __bool__(self) -> bool:
        return bool(self._queue.offers_skipped())

    def __len__(self) -> int:
        return len(self._queue.skipped)

    def __iter__(self) -> Iterator[Any]:
        skipped = self._queue.skipped
        return iter([r for r in self._queue.everyone() if r.request_id in skipped])


class Hooks:
    """Overrides a vLLM scheduler and tells a subclass of five events.

    step_begins()              before a step is scheduled
    step_scheduled()           its batch is chosen; num_computed_tokens still as at admission
    delivered(tokens, ended, outputs)  a step's results: tokens by request, who ended
    ended(request)             a request ended between steps
    session_goes_on(request, tokens)  a request that streams its input got `tokens` more of it

    They come only after `take_over`; before, and with vLLM's priority scheduling, which no fair
    queue replaces, everything is as in vLLM.
    """

    _taken_over = False
    _ended_in_step: list[Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: dict[str, None] = {}  # requests that ended so, the oldest first

    def take_over(self, queue: Any) -> None:
        """Let our queue be where requests wait, from the start."""
        scheduler: Any = self
        scheduler.waiting = queue
        if hasattr(scheduler, "skipped_waiting"):
            scheduler.skipped_waiting = PassedOver(queue)
        self._taken_over = True

    @property
    def is_first_come_first_served(self) -> bool:
        """Whether vLLM's own policy is the one that a fair queue may replace."""
        scheduler: Any = self
        return bool(scheduler.policy == SchedulingPolicy.FCFS)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Choose a step's batch."""
        if self._taken_over:
            self.step_begins()
        return super().schedule(*args, **kwargs)  # type: ignore[misc]

    def _update_after_schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._taken_over:
            self.step_scheduled()
        return super()._update_after_schedule(*args, **kwargs)  # type: ignore[misc]

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Take in a step's results."""
        if not self._taken_over:
            return super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        ended: list[Any] = []
        self._ended_in_step = ended
        try:
            outputs = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._ended_in_step = None
        tokens = {  # a step has one output a request at most
            output.request_id: len(output.new_token_ids)
            for batch in outputs.values()
            for output in batch.outputs
            if output.new_token_ids
        }
        self.delivered(tokens, ended, outputs)
        return outputs

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._unread.pop(request.request_id, None)  # an older one of that name
        if not began(request):
            self._unread[request.request_id] = None
            if len(self._unread) > _MOST_UNREAD:
                del self._unread[next(iter(self._unread))]
        result = super()._free_request(request, *args, **kwargs)  # type: ignore[misc]
        if self._ended_in_step is not None:
            self._ended_in_step.append(request)
        elif self._taken_over:
            self.ended(request)
        return result

    def _update_request_as_session(self, session: Any, update: Any) -> None:
        super()._update_request_as_session(session, update)  # type: ignore[misc]
        if self._taken_over:
            self.session_goes_on(session, len(update.prompt_token_ids or ()))

    def fairlane_unread(self, request_ids: list[str]) -> list[str]:
        """Which of these ended before their prompt was begun to be read; each is told once."""
        return [i for i in request_ids if self._unread.pop(i, self) is None]

    def step_begins(self) -> None:
        """See the class."""

    def step_scheduled(self) -> None:
        """See the class."""

    def delivered(self, tokens: Mapping[str, int], ended: list[Any], outputs: Any) -> None:
        """See the class."""

    def ended(self, request: Any) -> None:
        """See the class."""

    def session_goes_on(self, request: Any, tokens: int) -> None:
        """See the class."""


def _snapshot(self: Any) -> dict[str, Any] | None:
    """Reached from the HTTP server by call_utility_async("fairlane_snapshot")."""
    found = getattr(self.scheduler, "fairlane_snapshot", None)
    return None if found is None else found()


def _set_weights(self: Any, weights: dict[str, float]) -> None:
    """Reached from the HTTP server by call_utility_async("fairlane_set_weights", weights)."""
    change = getattr(self.scheduler, "fairlane_set_weights", None)
    if change is not None:
        change(weights)


def _unread(self: Any, request_ids: list[str]) -> list[str]:
    """Reached from the HTTP server by call_utility_async("fairlane_unread", request_ids)."""
    found = getattr(self.scheduler, "fairlane_unread", None)
    return [] if found is None else list(found(request_ids))


def _share(self: Any) -> str:
    """Reached from the HTTP server by call_utility_async("fairlane_share")."""
    share = getattr(self.scheduler, "fairlane_share", None)
    return "the scheduler is not Fairlane's" if share is None else str(share())


def _swap(
    self: Any, heard: dict[str, float], schedulers: int, exchange: dict[str, Any]
) -> dict[str, float]:
    """Reached from the HTTP server, for one engine of several; see frontend.ask_one."""
    return dict(self.scheduler.fairlane_swap(heard, schedulers, exchange))


def _settle(self: Any, amounts: dict[str, float]) -> dict[str, Any]:
    """Reached from the HTTP server, for one engine of several; see frontend.ask_one."""
    return dict(self.scheduler.fairlane_settle(amounts))


def _part(self: Any) -> dict[str, Any]:
    """Reached from the HTTP server by call_utility_async("fairlane_part")."""
    return dict(self.scheduler.fairlane_part())


EngineCore.fairlane_snapshot = _snapshot
EngineCore.fairlane_share = _share
EngineCore.fairlane_swap = _swap
EngineCore.fairlane_settle = _settle
EngineCore.fairlane_part = _part
EngineCore.fairlane_unread = _unread
EngineCore.fairlane_set_weights = _set_weights

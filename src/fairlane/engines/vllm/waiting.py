"""The waiting queue of vLLM's scheduler, in a fair policy's order.

vLLM takes a request from its queue before it is decided whether the request is admitted, so what
became of it is settled at the next look: its status says. A request that was passed over (its
grammar is not ready, its LoRA adapter has no slot) is set aside until the step ends, so that the
policy offers the next one; then it comes back to the front, as if nothing had been charged.

LoRA adapters: vLLM runs at most max_loras of them at a time, and passes over requests for others.
A client whose adapter runs could then be admitted for ever while another waits for a slot. So
while a client waits for its adapter, nobody with an adapter who is more than `patience` ahead of it
is admitted: the running adapter drains and the slot changes hands.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fairlane.door.books import POLICY_ERROR, Books
from fairlane.engines.vllm.private import (
    RequestQueue,
    adapter,
    awaits_input,
    awaits_nothing,
    entered,
)

_SCAN = 512  # requests for adapters without a slot that are looked past in one step
_UNKNOWN = object()


class FairRequestQueue(RequestQueue):  # type: ignore[misc]
    """Waiting requests. vLLM's interface, a Books' order.

    arrive: enters a request that is new into the books; answers why it may not wait, or None.
    has_room: whether vLLM will look who is next; while it will not, nobody is sought.
    refused: requests that are to be ended, {id: whether by an error}; they count as waiting
    until whoever ends them takes them out.
    skipped: ids of those that vLLM, until 0.30, counts as skipped before rather than as waiting.
    """

    def __init__(
        self,
        books: Books,
        arrive: Callable[[Any], str | None],
        has_room: Callable[[], bool],
        patience: float,
    ) -> None:
        self._books = books
        self._arrive = arrive
        self._has_room = has_room
        self._patience = patience
        self._waiting: OrderedDict[str, Any] = OrderedDict()
        self._resting: dict[str, Any] = {}  # wait for their clients' input
        self._popped: Any = None  # taken, and not yet known whether admitted
        self._passed: set[str] = set()  # by vLLM in this step; it will bring them back
        self._aside: list[Any] = []  # passed over here in this step
        self._elsewhere: list[str] = []  # vLLM took them away, and they did not end
        self._full: set[int] = set()  # adapters that got no slot in this step
        self._behind: tuple[float, ...] = ()  # the first who waits for an adapter
        self._head: Any = _UNKNOWN
        self.refused: dict[str, bool] = {}
        self.skipped: set[str] = set()

    # -- what vLLM calls ---------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        """A request begins to wait, for the first time or with new input."""
        self._settle()
        request_id = request.request_id
        if request_id in self._books and awaits_input(request):
            self._resting[request_id] = request
        elif request_id in self._books:
            self._books.put_back(request_id)
            self._waiting[request_id] = request
        else:
            reason = self._arrive(request)
            if reason is not None:
                self.refused[request_id] = reason == POLICY_ERROR
            self._waiting[request_id] = request
        self._head = _UNKNOWN

    def peek_request(self) -> Any:
        """Who is next."""
        head = self._next()
        if head is None:
            raise IndexError("peek from an empty queue")
        return head

    def pop_request(self) -> Any:
        """Take who is next."""
        head = self.peek_request()
        del self._waiting[head.request_id]
        self.skipped.discard(head.request_id)
        self._popped = head
        return head

    def prepend_request(self, request: Any) -> None:
        """A request comes back: it was passed over, or preempted."""
        self._settle()
        request_id = request.request_id
        if request_id in self._passed:
            self._passed.discard(request_id)
            self._books.take_back(request_id)
        elif request_id in self._books:
            self._books.put_back(request_id)
        else:
            self.add_request(request)
        self._waiting[request_id] = request
        self._waiting.move_to_end(request_id, last=False)
        self._head = _UNKNOWN

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Several come back, the one that was served last first."""
        self._settle()
        self._bring_back()
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Any) -> None:
        """A request waits no more."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Requests wait no more, if they did."""
        self._settle()
        self._bring_back()
        for request in requests:
            request_id = request.request_id
            self._waiting.pop(request_id, None)
            self._resting.pop(request_id, None)
            self.refused.pop(request_id, None)
            self.skipped.discard(request_id)
        self._head = _UNKNOWN

    def __bool__(self) -> bool:
        if not self._has_room():
            return len(self._waiting) > len(self.refused)
        head = self._next()
        return head is not None and head.request_id not in self.skipped

    def __len__(self) -> int:
        self._settle()
        return len(self._waiting) + len(self._resting) + len(self._aside) - len(self.skipped)

    def __iter__(self) -> Iterator[Any]:
        return iter([r for r in self.everyone() if r.request_id not in self.skipped])

    def offers_skipped(self) -> bool:
        """Whether somebody is next, and is one of the skipped."""
        head = self._next()
        return head is not None and head.request_id in self.skipped

    def everyone(self) -> list[Any]:
        """All who are here, the skipped ones too."""
        self._settle()
        return [*self._resting.values(), *self._waiting.values(), *self._aside]

    def __getitem__(self, position: int) -> Any:
        return list(self)[position]

    # -- what our scheduler calls ------------------------------------------------------------

    def end_step(self) -> None:
        """The step's batch is chosen. Until the next is, counters move: who is next may be new."""
        self._settle()
        self._bring_back()
        self._full.clear()
        self._behind = ()
        self._head = _UNKNOWN

    def wake(self, request: Any) -> bool:
        """The input that a request waited for is there; whether it waited here."""
        self._head = _UNKNOWN
        if self._resting.pop(request.request_id, None) is not None:
            self._waiting[request.request_id] = request
        return request.request_id in self._waiting

    # -- inside ------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out what became of the request that was taken last."""
        request = self._popped
        if request is None:
            return
        self._popped = None
        self._head = _UNKNOWN
        if entered(request):
            self._books.admit(request.request_id, request.num_computed_tokens)
            return
        if awaits_nothing(request) and adapter(request) is not None:
            self._behind = self._behind or self._books.standing(request.request_id)
            self._full.add(adapter(request) or 0)
        self._passed.add(request.request_id)
        self._books.set_aside(request.request_id)

    def _next(self) -> Any:
        """Who is next, or None; found once until something changes."""
        if self._popped is not None:
            self._settle()
        if self._head is _UNKNOWN:
            self._head = self._find()
        return self._head

    def _find(self) -> Any:
        while len(self._waiting) > len(self.refused):
            request_id = self._books.peek()
            if request_id is None:
                return None
            request = self._waiting.get(request_id)
            if request is None:
                self._elsewhere.append(request_id)
                if self._books.set_aside(request_id):
                    continue
                return None
            if not self._full:
                return request
            wanted = adapter(request)
            if wanted is None:
                return request
            if wanted not in self._full:
                return None if self._too_far_ahead(request.request_id) else request
            if len(self._aside) == _SCAN:
                return None
            if not self._books.set_aside(request_id):
                return None
            del self._waiting[request_id]
            self._aside.append(request)
        return None

    def _too_far_ahead(self, request_id: str) -> bool:
        """More than `patience` ahead of who waits for its adapter; counters compare in turn."""
        for ahead, behind in zip(self._books.standing(request_id), self._behind, strict=False):
            if ahead != behind:
                return ahead - behind > self._patience
        return False

    def _bring_back(self) -> None:
        for request in reversed(self._aside):
            self._books.take_back(request.request_id)
            self._waiting[request.request_id] = request
            self._waiting.move_to_end(request.request_id, last=False)
        for request_id in reversed(self._elsewhere):
            if request_id in self._books:
                self._books.take_back(request_id)
        if self._aside or self._elsewhere:
            self._aside.clear()
            self._elsewhere.clear()
            self._head = _UNKNOWN

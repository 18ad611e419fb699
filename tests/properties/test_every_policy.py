"""Any interleaving of events, over every registered policy: the rules that no policy may break.

A plain book of who waits and who runs stands beside the policy and beside a twin of it that sees
the same events but is never peeked at except where a host would.
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fairlane.core.policy import Policy
from fairlane.core.types import Outcome, Request, RequestId
from fairlane.policies.registry import policy_names
from tests.driving import fewer_examples, fresh, req

CLIENTS = st.sampled_from("abcde")


class AnyPolicy(RuleBasedStateMachine):
    """Drives the policy called `name`."""

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.policy: Policy[Any] = fresh(self.name)
        self.twin: Policy[Any] = fresh(self.name)
        self.waiting: dict[str, list[Request]] = {}
        self.running: dict[RequestId, Request] = {}
        self.now = 0.0
        self.arrivals = 0

    def both(self, event: str, *args: Any, **kwargs: Any) -> Any:
        """The same event for policy and twin, and the same answer."""
        answers = [getattr(p, event)(*args, **kwargs) for p in (self.policy, self.twin)]
        assert answers[0] == answers[1]
        return answers[0]

    @rule(client=CLIENTS, prompt=st.integers(0, 300))
    def arrive(self, client: str, prompt: int) -> None:
        self.arrivals += 1
        request = req(self.arrivals, client, prompt)
        if self.both("enqueue", request, self.now) is None:
            self.waiting.setdefault(client, []).append(request)

    @rule(most=st.integers(1, 4))
    def serve(self, most: int) -> None:
        """Whatever is offered is the first of its client; nothing is offered only if nothing is."""
        for _ in range(most):
            offered = self.both("peek", self.now)
            if offered is None:
                assert not self.waiting
                return
            assert offered == self.waiting[offered.client][0]
            self.both("admit", offered.id, self.now)
            self.leave_queue(offered)
            self.running[offered.id] = offered

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def serve_another_than_offered(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([r for queue in self.waiting.values() for r in queue]))
        self.both("admit", request.id, self.now)
        self.leave_queue(request)
        self.running[request.id] = request

    @precondition(lambda self: self.running)
    @rule(counts=st.lists(st.integers(0, 40), min_size=1, max_size=8))
    def decode(self, counts: list[int]) -> None:
        tokens = dict(zip(self.running, counts, strict=False))
        self.both("record_tokens", tokens, self.now)

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data(), prompt=st.integers(0, 300), output=st.none() | st.integers(0, 40))
    def settle(self, data: st.DataObject, prompt: int, output: int | None) -> None:
        """The second time it changes nothing, and whoever waits keeps his place."""
        queues = [*self.waiting.values(), list(self.running.values())]
        old = data.draw(st.sampled_from([request for queue in queues for request in queue]))
        numbers: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": output}
        self.both("settle", old.id, self.now, **numbers)
        self.policy.settle(old.id, self.now, **numbers)  # for the policy alone
        new = req(old.id, old.client, prompt)
        if old.id in self.running:
            self.running[old.id] = new
        else:
            queue = self.waiting[old.client]
            queue[queue.index(old)] = new

    @precondition(lambda self: self.running)
    @rule(data=st.data(), undo=st.booleans())
    def put_back(self, data: st.DataObject, undo: bool) -> None:
        request = self.running.pop(data.draw(st.sampled_from(list(self.running))))
        self.both("requeue", request.id, self.now, undo=undo)
        self.waiting.setdefault(request.client, []).insert(0, request)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        request = self.running.pop(data.draw(st.sampled_from(list(self.running))))
        self.both("finish", request.id, self.now, outcome)
        self.policy.finish(request.id, self.now, outcome)  # a second time, for the policy alone

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([r for queue in self.waiting.values() for r in queue]))
        self.both("finish", request.id, self.now, Outcome.ABORTED)
        self.leave_queue(request)

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_snapshot_is_the_book(self) -> None:
        states = self.policy.snapshot().clients
        assert self.policy.peek(self.now) == self.policy.peek(self.now)
        assert self.policy.snapshot().clients == states == self.twin.snapshot().clients
        queued = {client: len(queue) for client, queue in self.waiting.items()}
        running: dict[str, int] = {}
        for request in self.running.values():
            running[request.client] = running.get(request.client, 0) + 1
        assert {c: s.queued for c, s in states.items() if s.queued} == queued
        assert {c: s.running for c, s in states.items() if s.running} == running

    def teardown(self) -> None:
        """However it got here, everything that waits is served in order of its client."""
        while self.waiting:
            before = sum(map(len, self.waiting.values()))
            self.serve(1)
            assert sum(map(len, self.waiting.values())) == before - 1
        for request_id in list(self.running):
            self.policy.finish(request_id, self.now)
        assert self.policy.snapshot().clients == {}

    def leave_queue(self, request: Request) -> None:
        queue = self.waiting[request.client]
        queue.remove(request)
        if not queue:
            del self.waiting[request.client]


@pytest.mark.parametrize("name", policy_names())
def test_no_interleaving_breaks_the_rules(name: str) -> None:

    machine = type(f"Any{name}", (AnyPolicy,), {"name": name})
    run_state_machine_as_test(machine, settings=fewer_examples())

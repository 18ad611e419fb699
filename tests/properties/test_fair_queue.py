"""FairQueue against an obvious model: any interleaving, any options, counters equal exactly.

Weights are powers of two and prices multiples of 2**-20, so that floating point is exact and the
two can be compared with `==`.
"""

import json
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.counters import Lift, lift_to_least, lift_to_least_or_last, no_lift
from fairlane.core.fair_queue import FairQueue
from fairlane.core.predict import MovingAverage, Oracle, Predictor
from fairlane.core.tree import split_path
from fairlane.core.types import Outcome, Request, RequestId
from tests.driving import req
from tests.properties.model import Model

CLIENTS = ["x/a", "x/b", "y/a", "y/z/a", "y/z/b", "w"]
GROUPS = ["x", "y", "y/z"]
COSTS: list[Cost] = [LinearCost(), LinearCost(1, 2, 0.25), QuadraticCost(cached_price=0.125)]
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0])


def predictor(kind: str) -> Predictor | None:
    """A fresh predictor; the oracle's answers are not whole numbers and sometimes too low."""
    if kind == "oracle":
        return Oracle(lambda request: request.prompt_tokens % 5, 0.5, lambda low, high: high)
    return MovingAverage() if kind == "average" else None


class FairQueueMachine(RuleBasedStateMachine):
    """The same events for a FairQueue and for the model."""

    @initialize(
        cost=st.sampled_from(COSTS),
        lift=st.sampled_from([lift_to_least_or_last, lift_to_least, no_lift]),
        kind=st.sampled_from(["none", "average", "oracle"]),
        tree=st.booleans(),
        weights=st.dictionaries(st.sampled_from(CLIENTS), WEIGHTS, max_size=3),
        max_running=st.sampled_from([None, None, 1, 2]),
        max_running_tokens=st.sampled_from([None, None, 40]),
        max_advance=st.sampled_from([None, 10.0]),
        max_idle=st.sampled_from([1000, 1000, 1, 2, 3, 5]),
    )
    def build(
        self,
        cost: Cost,
        lift: Lift,
        kind: str,
        tree: bool,
        weights: dict[str, float],
        max_running: int | None,
        max_running_tokens: int | None,
        max_advance: float | None,
        max_idle: int,
    ) -> None:
        self.path_of = split_path if tree else (lambda client: (client,))
        self.options: dict[str, Any] = {
            "cost": cost,
            "lift": lift,
            "predictor": predictor(kind),
            "path_of": split_path if tree else None,
            "max_running": max_running,
            "max_running_tokens": max_running_tokens,
            "max_advance": max_advance,
            "max_idle": max_idle,
        }
        self.weights = dict(weights)
        self.policy = FairQueue(weights=self.weights, **self.options)
        by_path = {self.path_of(name): Fraction(weight) for name, weight in weights.items()}
        limits = (max_running, max_running_tokens, max_advance, max_idle)
        self.model = Model(cost, lift, predictor(kind), self.path_of, by_path, *limits)
        self.waiting: dict[RequestId, Request] = {}
        self.running: dict[RequestId, Request] = {}
        self.arrivals = 0

    @rule(client=st.sampled_from(CLIENTS), prompt=st.integers(0, 60))
    def arrive(self, client: str, prompt: int) -> None:
        self.arrivals += 1
        request = req(self.arrivals, client, prompt)
        self.policy.enqueue(request, 0)
        self.model.enqueue(request)
        self.waiting[request.id] = request

    @rule(most=st.integers(1, 3), cached=st.floats(0, 1))
    def serve(self, most: int, cached: float) -> None:
        for _ in range(most):
            offered = self.policy.peek(0)
            assert offered == self.model.peek()
            if offered is not None:
                self.admit(offered, int(cached * offered.prompt_tokens))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def serve_another_than_offered(self, data: st.DataObject) -> None:
        self.admit(data.draw(st.sampled_from(list(self.waiting.values()))), 0)

    def admit(self, request: Request, cached: int) -> None:
        self.policy.admit(request.id, 0, cached_tokens=cached)
        self.model.admit(request, cached)
        self.running[request.id] = self.waiting.pop(request.id)

    @precondition(lambda self: self.running)
    @rule(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def decode(self, counts: list[int]) -> None:
        self.deliver(list(zip(self.running.values(), counts, strict=False)))

    @precondition(lambda self: self.running)
    @rule(without=st.sets(st.integers(0, 5), max_size=2), late=st.booleans())
    def decode_all(self, without: set[int], late: bool) -> None:
        """A token each, but for a few; sometimes also for those that were put back meanwhile."""
        batch = [(r, 1) for n, r in enumerate(self.running.values()) if n not in without]
        if late:
            admitted = (self.model.books[r.id].admission is not None for r in self.waiting.values())
            batch += [(r, 1) for r, was in zip(self.waiting.values(), admitted, strict=True) if was]
        self.deliver(batch)

    def deliver(self, batch: list[tuple[Request, int]]) -> None:
        self.policy.record_tokens({request.id: count for request, count in batch}, 0)
        for request, count in batch:
            self.model.tokens(request, count)
        self.model.tokens_reported([request for request, _ in batch])

    @precondition(lambda self: self.running or self.waiting)
    @rule(
        data=st.data(),
        prompt=st.integers(0, 60),
        cached=st.floats(0, 1),
        correction=st.none() | st.integers(-3, 3),
    )
    def settle(
        self, data: st.DataObject, prompt: int, cached: float, correction: int | None
    ) -> None:
        live = {**self.waiting, **self.running}
        old = live[data.draw(st.sampled_from(list(live)))]
        new = req(old.id, old.client, prompt)
        book = self.model.books[old.id]
        output = None if correction is None else max(0, book.output + correction)
        if book.admission is None:
            output = None
        found = int(cached * prompt)
        self.policy.settle(
            old.id, 0, prompt_tokens=prompt, cached_tokens=found, output_tokens=output
        )
        self.model.settle(old, new, found, output)
        (self.running if old.id in self.running else self.waiting)[old.id] = new

    @precondition(lambda self: self.running)
    @rule()
    def charge_again(self) -> None:
        self.policy.charge_again(self.running)
        for request in self.running.values():
            self.model.charge_again(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), undo=st.booleans())
    def put_back(self, data: st.DataObject, undo: bool) -> None:
        request = self.running.pop(data.draw(st.sampled_from(list(self.running))))
        self.policy.requeue(request.id, 0, undo=undo)
        self.model.requeue(request, undo)
        self.waiting[request.id] = request

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        live = {**self.waiting, **self.running}
        request = live[data.draw(st.sampled_from(list(live)))]
        self.policy.finish(request.id, 0, outcome)
        self.model.finish(request, outcome)
        self.waiting.pop(request.id, None)
        self.running.pop(request.id, None)

    @rule(name=st.sampled_from(CLIENTS + GROUPS), weight=WEIGHTS)
    def set_weight(self, name: str, weight: float) -> None:
        self.policy.set_weight(name, weight)
        self.weights[name] = weight
        self.model.set_weight(self.path_of(name), Fraction(weight))

    @precondition(lambda self: not self.running and not self.waiting)
    @rule()
    def restart(self) -> None:
        saved = json.loads(json.dumps(self.policy.save()))
        self.policy = FairQueue(weights=self.weights, **self.options)
        self.policy.restore(saved)
        self.model.restart()

    @precondition(lambda self: self.running or self.waiting)
    @rule()
    def saving_is_as_if_everything_had_ended(self) -> None:
        saved = FairQueue(weights=self.weights, **self.options)
        saved.restore(self.policy.save())
        for request in {**self.waiting, **self.running}.values():
            path = self.path_of(request.client)
            member = self.model.members[path]
            live = [*member.waiting, *member.running.values()]
            owed = sum((self.model.prepaid(r) for r in live), Fraction(0))
            assert self.saved_counter(saved.save(), request.client) == (
                member.counter - owed / self.model.weight(path)
            )

    def saved_counter(self, saved: Any, client: str) -> float:
        *groups, leaf = self.path_of(client)
        for group in groups:
            (saved,) = (inner for name, _, inner in saved["members"] if name == group + "/")
        (counter,) = (counter for name, counter, _ in saved["members"] if name == leaf)
        assert isinstance(counter, float)
        return counter

    @invariant()
    def counters_are_equal_to_the_last_bit(self) -> None:
        if not hasattr(self, "policy"):
            return
        assert self.policy.peek(0) == self.model.peek()
        for client, state in self.policy.snapshot().clients.items():
            path = self.path_of(client)
            assert state.counter == self.model.members[path].counter
            assert state.weight == self.model.weight(path)


TestFairQueue = FairQueueMachine.TestCase

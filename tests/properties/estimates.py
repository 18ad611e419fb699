"""A gateway in small: its policy hears how long a prompt may be, and later how long it was."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fairlane.core.policy import Policy
from fairlane.core.types import Rejection, Request, RequestId
from tests.properties.ledger import Ledger


class Estimates:
    """Stands before a policy, for a host that knows the truth.

    guess: from a request to the length that the policy is told on arrival. after: with how many
    output tokens the truth is told, at the latest at the end; None for never. truth: writes down
    what was really delivered.
    """

    def __init__(
        self,
        policy: Policy[Any],
        guess: Callable[[Request], int],
        after: int | None,
        truth: Ledger,
    ) -> None:
        self.policy, self.guess, self.after, self.truth = policy, guess, after, truth
        self.guesses: dict[RequestId, Request] = {}  # admitted, and not settled
        self.error = 0.0  # the most that these were mischarged at one time, in all, per weight

    def enqueue(self, request: Request, now: float) -> Rejection | None:
        rejection = self.policy.enqueue(replace(request, prompt_tokens=self.guess(request)), now)
        if rejection is None:
            self.truth.enqueue(request)
        return rejection

    def peek(self, now: float) -> Request | None:
        return self.policy.peek(now)

    def admit(self, request_id: RequestId, now: float) -> None:
        request = self.truth.requests[request_id]
        if request_id not in self.truth.paid:
            self.guesses[request_id] = replace(request, prompt_tokens=self.guess(request))
        self.policy.admit(request_id, now)
        self.truth.admit(request_id, cached_tokens=0)
        self.look()

    def record_tokens(self, tokens: Mapping[RequestId, int], now: float) -> None:
        self.policy.record_tokens(tokens, now)
        self.truth.record_tokens(tokens)
        self.look()
        for request_id in tokens:
            if self.after is not None and self.truth.output[request_id] >= self.after:
                self.settle(request_id, now)

    def requeue(self, request_id: RequestId, now: float) -> None:
        self.policy.requeue(request_id, now)
        self.truth.requeue(request_id, undo=False)

    def finish(self, request_id: RequestId, now: float) -> None:
        if self.after is not None:
            self.settle(request_id, now)
        self.guesses.pop(request_id, None)
        self.policy.finish(request_id, now)
        self.truth.finish(request_id)

    def settle(self, request_id: RequestId, now: float) -> None:
        if self.guesses.pop(request_id, None) is not None:
            prompt = self.truth.requests[request_id].prompt_tokens
            self.policy.settle(request_id, now, prompt_tokens=prompt)

    def look(self) -> None:
        self.error = max(self.error, sum(map(self.mischarged, self.guesses.values())))

    def mischarged(self, guess: Request) -> float:
        cost, output = self.truth.cost, self.truth.output[guess.id]
        charged = cost.admission(guess.prompt_tokens) + cost.output(guess.prompt_tokens, 0, output)
        return abs(charged - self.truth.price(guess.id)) / self.truth.weight(guess.client)

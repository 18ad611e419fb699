"""What the scheduler notes of clients and requests, between vLLM and the policy.

It feeds the policy and an auditor, adds up what telemetry reports, and stands between a policy
that raises and the server: the request that was concerned fails, the error is logged once with
its cause, and scheduling goes on. An auditor that raises is asked no more. Nothing here knows vLLM.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fairlane.core.audit import Auditor
from fairlane.core.cost import Cost, whole_price
from fairlane.core.policy import Policy
from fairlane.core.settling import Standings
from fairlane.core.sharing import Waiting
from fairlane.core.types import Outcome, Request
from fairlane.door.accounts import Accounts, Entry
from fairlane.usage.tally import Grown

logger = logging.getLogger(__name__)

POLICY_ERROR = "policy_error"
_AUDIT_PERIOD = 16  # steps between reports of tokens to the auditor; see Books.delivered
T = TypeVar("T")


class Books:
    """The accounts of all clients and the entries of all live requests.

    clock: seconds, never decreasing. failed: requests that must end for a mistake of the policy,
    by id; whoever ends them takes them out.
    """

    def __init__(
        self, policy: Policy[Any], auditor: Auditor, cost: Cost, clock: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._auditor = auditor
        self._audited = auditor.report()
        self._audits = True  # until the auditor raises
        self._cost = cost
        self._clock = clock
        self._accounts = Accounts(cost)
        self._entries = self._accounts.entries
        self._news: Counter[str] = Counter()  # tokens that the auditor does not know of
        self._ended: set[str] = set()  # requests that ended since the auditor heard anything
        self._steps = 0
        self._seen_errors: set[str] = set()
        self._dropped: set[str] = set()  # live requests that the policy made a mistake with
        self.errors = 0
        self.failed: list[str] = []

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    # -- events ------------------------------------------------------------------------------

    def arrive(self, request: Request, model: str = "") -> str | None:
        """A request comes in; answers why it may not wait, or None. model: under which it counts
        as used.
        """
        if request.id in self._ended:
            self._tell_auditor()
        account = self._accounts.of(request.client)
        account.arrivals += 1
        rejection = self._guard("enqueue", None, self._policy.enqueue, request, self._clock())
        if rejection is _RAISED:
            self._guard("finish", None, self._policy.finish, request.id, self._clock())
            reason = POLICY_ERROR
        elif rejection is not None:
            reason = rejection.reason
        else:
            self._waits(self._accounts.begin(request, account, self._clock(), model))
            self._audit(self._auditor.enqueue, request)
            return None
        account.rejected[reason] += 1
        self._accounts.tally.refuse(request.client, model, reason)
        return reason

    def peek(self) -> str | None:
        """The id of the request to admit next; when the policy raises, the oldest request fails."""
        request = self._guard("peek", None, self._policy.peek, self._clock())
        if request is _RAISED:
            waiting = (i for i, e in self._entries.items() if e.waiting and i not in self._dropped)
            oldest = next(waiting, None)
            if oldest is not None:
                self._drop(oldest)
            return None
        return None if request is None else str(request.id)

    def admit(self, request_id: str, cached_tokens: int) -> None:
        """A request entered the running batch."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        prompt = entry.request.prompt_tokens
        cached = min(cached_tokens, prompt)  # a resumed request may find output cached, too
        now = self._clock()
        self._guard("admit", request_id, self._policy.admit, request_id, now, cached_tokens=cached)
        if not entry.admitted:
            self._accounts.admit(entry, cached, now)
        self._waits_no_more(entry)
        self._audit(self._auditor.admit, request_id, cached_tokens=cached)

    def put_back(self, request_id: str) -> None:
        """A running request was preempted, or waits again for another reason."""
        entry = self._entries[request_id]
        if entry.waiting:
            return
        entry.account.preemptions += 1
        self._guard("requeue", request_id, self._policy.requeue, request_id, self._clock())
        self._waits(entry)
        self._audit(self._auditor.requeue, request_id)

    def set_aside(self, request_id: str) -> bool:
        """The engine passes over the request in this step: let the policy offer the next one.

        Answers whether it will.
        """
        now = self._clock()
        return self._guard("admit", request_id, self._policy.admit, request_id, now) is None

    def take_back(self, request_id: str) -> None:
        """Undo `set_aside`."""
        now = self._clock()
        self._guard("requeue", request_id, self._policy.requeue, request_id, now, undo=True)

    def delivered(self, tokens: Mapping[str, int]) -> None:
        """Output tokens of one step, by request, at least one each.

        The auditor hears of them every few steps and whenever a client begins or ceases to wait:
        only in between can a difference be missed, by what those few steps delivered.
        """
        if tokens:
            now = self._clock()
            if self._guard("record_tokens", "", self._policy.record_tokens, tokens, now) is _RAISED:
                self._deliver_singly(tokens, now)
            self._news.update(tokens.keys())  # one each, which is fast; then those with more
            if sum(tokens.values()) > len(tokens):
                for request_id, count in tokens.items():
                    self._news[request_id] += count - 1
        self._steps += 1
        if self._steps % _AUDIT_PERIOD == 0:
            self._tell_auditor()

    def settle(
        self,
        request_id: str,
        prompt_tokens: int,
        *,
        cached_tokens: int = 0,
        output_tokens: int | None = None,
    ) -> None:
        """A live request's true numbers became known; see Policy.settle. Unknown: passed over."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        request = replace(entry.request, prompt_tokens=prompt_tokens)
        recorded = entry.output + self._news.pop(request_id, 0)
        output = recorded if output_tokens is None else output_tokens
        cached = min(cached_tokens, prompt_tokens)  # as in `admit`
        told = {"cached_tokens": cached, "output_tokens": output}
        numbers = {"prompt_tokens": prompt_tokens, **told}
        self._guard("settle", request_id, self._policy.settle, request_id, self._clock(), **numbers)
        self._accounts.correct(entry, request, cached, output)
        self._audit(self._auditor.settle, request, **told)

    def finish(self, request_id: str, outcome: Outcome) -> None:
        """A request ended. Unknown ids are passed over."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return
        entry.output += self._news.get(request_id, 0)
        self._accounts.end(entry, outcome)
        waiting = entry.waiting
        if waiting:
            self._waits_no_more(entry)
        if request_id in self._dropped:
            self._dropped.discard(request_id)
        else:
            self._guard("finish", None, self._policy.finish, request_id, self._clock(), outcome)
        self._ended.add(request_id)
        if waiting:
            self._tell_auditor()

    def next_turn(self, request_id: str, prompt_tokens: int) -> None:
        """A request that streams its input goes on with a new piece: charged as a new request."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        old = entry.request
        if not entry.admitted:
            prompt_tokens += old.prompt_tokens
        self.finish(request_id, Outcome.FINISHED)
        again = Request(request_id, old.client, prompt_tokens, old.max_output_tokens)
        if self.arrive(again, entry.model):
            self.failed.append(request_id)

    def change_policy(
        self, policy: Policy[Any], auditor: Auditor, weights: Mapping[str, float]
    ) -> None:
        """From now on another policy decides, fresh, and its auditor looks.

        All requests go over to it as if they came now, the oldest first; those that run are charged
        what they were delivered. One that it turns away fails.
        """
        self._tell_auditor()
        self._policy, self._auditor = policy, auditor
        self._audits = True
        self.set_weights(weights)
        now = self._clock()
        for request_id, entry in self._entries.items():  # all begin alike, and then are charged
            request = entry.request
            if self._guard("enqueue", request_id, policy.enqueue, request, now) is None:
                self._audit(auditor.enqueue, request)
            elif request_id not in self._dropped:
                self._drop(request_id)
        for request_id, entry in self._entries.items():
            if entry.waiting or request_id in self._dropped:
                continue
            cached = entry.cached
            self._guard("admit", request_id, policy.admit, request_id, now, cached_tokens=cached)
            self._audit(auditor.admit, request_id, cached_tokens=cached)
            if entry.output:
                tokens = {request_id: entry.output}
                self._guard("record_tokens", request_id, policy.record_tokens, tokens, now)
                self._audit(auditor.record_tokens, tokens)

    # -- what schedulers share; see sharing.py -----------------------------------------------

    def share(self, max_debt: float | None, *, guard: float, most_credit: float | None) -> None:
        """Begin to share. Raises FairlaneError for a policy that cannot, or has begun to serve."""
        self._policy.share(max_debt=max_debt, guard=guard, most_credit=most_credit)

    def swap(self, heard: Mapping[str, float]) -> dict[str, float]:
        """Hear what others charged, by client; what was charged here since the last time."""
        self._guard("hear", None, self._policy.hear, heard)
        charges = self._guard("take_charges", None, self._policy.take_charges)
        return {} if charges is _RAISED else dict(charges)

    def set_max_debt(self, max_debt: float | None, most_credit: float | None) -> None:
        """From now on."""
        self._guard("set_max_debt", None, self._policy.set_max_debt, max_debt, most_credit)

    def tell_waiting(self, totals: Mapping[str, float]) -> Waiting:
        """See Policy.tell_waiting."""
        told = self._guard("tell_waiting", None, self._policy.tell_waiting, totals)
        return Waiting() if told is _RAISED else told

    def settle_levels(self, amounts: Mapping[str, float]) -> Standings:
        """Raise levels (Policy.raise_levels); then, where everyone stands who waits."""
        if amounts:
            self._guard("raise_levels", None, self._policy.raise_levels, amounts)
        return self.tell_waiting({}).here

    def hear_waiting(self, others: Iterable[Waiting] | None, totals: Mapping[str, float]) -> None:
        """See Policy.hear_waiting."""
        self._guard("hear_waiting", None, self._policy.hear_waiting, others, totals)

    def yields(self, slack: float) -> bool:
        """See Policy.yields."""
        return self._guard("yields", None, self._policy.yields, slack) is True

    def price(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """What a request of so many tokens is charged in all."""
        return whole_price(self._cost, prompt_tokens, cached_tokens, output_tokens)

    # -- what others want to know ------------------------------------------------------------

    def client(self, request_id: str) -> str:
        """Whose request it is."""
        return self._entries[request_id].request.client

    def standing(self, request_id: str) -> tuple[float, ...]:
        """Where the request's client stands; see Policy.standing."""
        entry = self._entries.get(request_id)
        if entry is None:
            return ()
        found = self._guard("standing", None, self._policy.standing, entry.request.client)
        return () if found is _RAISED else tuple(found)

    def set_weights(self, weights: Mapping[str, float]) -> bool:
        """From now on these clients and groups have these weights; whether the policy has any."""
        if self._policy.has_weights:
            for name, weight in weights.items():
                self._guard("set_weight", None, self._policy.set_weight, name, weight)
                self._audit(self._auditor.set_weight, name, weight)
        return self._policy.has_weights

    def snapshot(self) -> dict[str, Any]:
        """All totals, ready for JSON. O(clients ever seen + live requests)."""
        self._tell_auditor()
        states = self._policy.snapshot().clients
        if self._audits:
            self._audited = self._auditor.report()
        audit = self._audited
        return {
            "clients": self._accounts.rows(states, self._clock()),
            "weighted": self._policy.has_weights,
            "shares": self._policy.shares,
            "difference_now": self._auditor.spread() if self._audits else None,
            "observed_difference": audit.observed,
            "between": None if audit.between is None else list(audit.between),
            "at_most": audit.at_most,
            "bound": audit.bound,
            "policy_errors": self.errors,
        }

    def part(self, top: int) -> dict[str, dict[str, float]]:
        """See Accounts.part."""
        return self._accounts.part(top)

    @property
    def counts_usage(self) -> bool:
        """Whether somebody takes it."""
        return self._accounts.tally.on

    def take_usage(self) -> Grown:
        """See Accounts.take_usage."""
        self._tell_auditor()
        return self._accounts.take_usage()

    # -- inside ------------------------------------------------------------------------------

    def _deliver_singly(self, tokens: Mapping[str, int], now: float) -> None:
        """After a report of many failed: find whose it was."""
        for request_id, count in tokens.items():
            one = {request_id: count}
            self._guard("record_tokens", request_id, self._policy.record_tokens, one, now)

    def _waits(self, entry: Entry) -> None:
        entry.waiting = True
        entry.account.queued += 1
        if entry.account.queued == 1:
            self._tell_auditor()

    def _waits_no_more(self, entry: Entry) -> None:
        entry.waiting = False
        entry.account.queued -= 1
        if not entry.account.queued:
            self._tell_auditor()

    def _tell_auditor(self) -> None:
        """Tell what was delivered lately, and who ended."""
        if self._news:
            news, self._news = self._news, Counter()
            for request_id, count in news.items():
                entry = self._entries.get(request_id)
                if entry is not None:
                    entry.output += count
            self._audit(self._auditor.record_tokens, news)
        while self._ended:
            self._audit(self._auditor.finish, self._ended.pop())

    def _audit(self, tell: Callable[..., None], *args: Any, **options: Any) -> None:
        """Tell the auditor; once it raised, scheduling goes on without one."""
        if self._audits:
            try:
                tell(*args, **options)
            except Exception:
                self._audits = False
                logger.exception("The auditor raised; differences are no longer observed")

    def _guard(
        self, what: str, request_id: str | None, call: Callable[..., T], *args: Any, **options: Any
    ) -> T | Any:
        """Call the policy; when it raises, answer _RAISED and let the request fail."""
        if request_id in self._dropped:
            return _RAISED
        try:
            return call(*args, **options)
        except Exception as error:
            self.errors += 1
            kind = f"{what}: {type(error).__name__}: {error}"
            if kind not in self._seen_errors and len(self._seen_errors) < 100:
                self._seen_errors.add(kind)
                logger.exception("The scheduling policy raised in %s; see below", what)
            if request_id:
                self._drop(request_id)
            return _RAISED

    def _drop(self, request_id: str) -> None:
        """Let a request fail, and the policy know nothing more of it."""
        self._dropped.add(request_id)
        self.failed.append(request_id)
        self._guard("finish", None, self._policy.finish, request_id, self._clock())


class _Raised:
    """Stands for the answer of a policy that raised."""


_RAISED = _Raised()

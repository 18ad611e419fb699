"""What clients were served, added up: an account each since the start, an entry a live request.

Under Books, which hears what happens. What is told of it are rows for telemetry, a part for other
servers, and what grew since it was last taken, for whoever keeps it (fairlane.usage).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any

from fairlane.core.cost import Cost
from fairlane.core.types import ClientState, Outcome, Request
from fairlane.usage.tally import Grown, Tally

FORGOTTEN = "(forgotten)"
_ACCOUNTS = 10_000  # beyond, those of idle clients are added up under the name FORGOTTEN
_NOTHING = (0.0, 0.0)  # delivered
# Of an account, what others are told: it is in the terms of telemetry.py.
_TOLD = (
    "admissions", "cached_tokens", "input_tokens", "output_tokens", "queued", "service", "wait_s",
)  # fmt: skip


class Account:
    """Totals of one client since the start."""

    __slots__ = (
        "aborted", "admissions", "arrivals", "cached_tokens", "finished", "input_tokens", "live",
        "output_tokens", "preemptions", "queued", "rejected", "service", "wait_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrivals = self.admissions = self.preemptions = self.finished = self.aborted = 0
        self.input_tokens = self.cached_tokens = self.output_tokens = 0  # ended requests' output
        self.live = self.queued = 0
        self.service = 0.0  # of admissions, and of ended requests' output
        self.wait_s = 0.0  # from arrival to admission, added up
        self.rejected: Counter[str] = Counter()

    def add(self, other: "Account") -> None:
        """Take over another's totals."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Entry:
    """A live request."""

    __slots__ = (
        "account", "admitted", "arrived", "cached", "model", "output", "request", "told", "waiting",
    )  # fmt: skip

    def __init__(self, request: Request, account: Account, arrived: float, model: str) -> None:
        self.request = request
        self.account = account
        self.model = model
        self.arrived = arrived
        self.output = 0  # tokens delivered, but for those in Books._news
        self.admitted = False
        self.cached = 0  # of its prompt, when it was admitted
        self.told = (0, 0.0)  # of its output, what the tally knows: tokens and service
        self.waiting = True


class Accounts:
    """See the module. entries: of live requests, by id, in order of arrival. tally: what grew."""

    def __init__(self, cost: Cost) -> None:
        self.entries: dict[str, Entry] = {}
        self.tally = Tally(_ACCOUNTS, FORGOTTEN)
        self._cost = cost
        self._accounts: dict[str, Account] = {}

    def of(self, client: str) -> Account:
        """A client's; those of idle clients are added up where there are too many."""
        account = self._accounts.get(client)
        if account is None:
            if len(self._accounts) >= _ACCOUNTS:
                idle = [name for name, account in self._accounts.items() if not account.live]
                total = self._accounts.setdefault(FORGOTTEN, Account())
                for name in idle:
                    if name != FORGOTTEN:
                        total.add(self._accounts.pop(name))
            account = self._accounts[client] = Account()
        return account

    def begin(self, request: Request, account: Account, now: float, model: str) -> Entry:
        """A request came in. model: under which it counts as used."""
        entry = self.entries[str(request.id)] = Entry(request, account, now, model)
        account.live += 1
        self.tally.add(request.client, model, requests=1)
        return entry

    def admit(self, entry: Entry, cached: int, now: float) -> None:
        """It is admitted for the first time, with so much of its prompt cached."""
        waited = now - entry.arrived
        entry.admitted, entry.cached = True, cached
        entry.account.admissions += 1
        entry.account.wait_s += waited
        self.tally.add(entry.request.client, entry.model, wait_s=waited)
        self._add_prompt(entry, 1)

    def correct(self, entry: Entry, request: Request, cached: int, output: int) -> None:
        """Its true numbers became known."""
        if entry.admitted:
            self._add_prompt(entry, -1)
        entry.request, entry.cached, entry.output = request, cached, output
        if entry.admitted:
            self._add_prompt(entry, 1)

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """It is over, and no entry any more."""
        account = entry.account
        account.live -= 1
        account.output_tokens += entry.output
        account.service += self._output_service(entry)
        self._tell_tally(entry)
        account.finished += outcome is Outcome.FINISHED
        account.aborted += outcome is Outcome.ABORTED

    def rows(self, states: Mapping[str, ClientState], now: float) -> dict[str, dict[str, Any]]:
        """Of all clients, ready for JSON. states: of the policy."""
        extra, oldest = self._live_output(), self._oldest(now)
        return {
            name: self._row(account, states.get(name), extra.get(id(account), _NOTHING))
            | {"oldest_s": oldest.get(id(account))}
            for name, account in self._accounts.items()
        }

    def part(self, top: int) -> dict[str, dict[str, float]]:
        """Totals of the `top` clients by service, for others to hear of: cheap, and small.

        O(clients ever seen + live requests), but little of it.
        """
        extra = self._live_output()

        def service(name: str) -> float:
            account = self._accounts[name]
            return account.service + extra.get(id(account), _NOTHING)[1]

        found = {}
        for name in nlargest(top, self._accounts, service):
            account = self._accounts[name]
            row = {key: float(getattr(account, key)) for key in _TOLD}
            row["running"] = account.live - account.queued
            row["output_tokens"] += extra.get(id(account), _NOTHING)[0]
            row["service"] = service(name)
            found[name] = row
        return found

    def take_usage(self) -> Grown:
        """What was served, and refused by the policy, since this was last asked; at first, nothing.

        Output of live requests counts as it flows. What was estimated is corrected later, so
        numbers may be negative. O(live requests).
        """
        if self.tally.on:
            for entry in self.entries.values():
                if entry.output or entry.told[0]:
                    self._tell_tally(entry)
        return self.tally.take()

    def _live_output(self) -> dict[int, list[float]]:
        """Output tokens of live requests, and their service, by the id of the account."""
        extra: dict[int, list[float]] = {}
        for entry in self.entries.values():
            if entry.output:
                more = extra.setdefault(id(entry.account), [0, 0.0])
                more[0] += entry.output
                more[1] += self._output_service(entry)
        return extra

    def _oldest(self, now: float) -> dict[int, float]:
        """Seconds that the oldest waiting request has waited, by the id of the account."""
        found: dict[int, float] = {}
        for entry in self.entries.values():  # in order of arrival
            if entry.waiting:
                found.setdefault(id(entry.account), now - entry.arrived)
        return found

    @staticmethod
    def _row(account: Account, state: Any, extra: Sequence[float]) -> dict[str, Any]:
        row = {name: getattr(account, name) for name in Account.__slots__ if name != "live"}
        row["running"] = account.live - account.queued
        row["output_tokens"] += extra[0]
        row["service"] += extra[1]
        row["rejected"] = dict(account.rejected)
        row["counter"] = None if state is None else state.counter
        row["weight"] = 1.0 if state is None else state.weight
        return row

    def _add_prompt(self, entry: Entry, sign: int) -> None:
        """Count an admitted prompt (1), or take it out of the account again (-1)."""
        account, prompt = entry.account, entry.request.prompt_tokens
        fresh, cached = sign * (prompt - entry.cached), sign * entry.cached
        service = sign * self._cost.admission(prompt, entry.cached)
        account.input_tokens += fresh
        account.cached_tokens += cached
        account.service += service
        self.tally.add(
            entry.request.client, entry.model,
            input_tokens=fresh, cached_tokens=cached, service=service,
        )  # fmt: skip

    def _tell_tally(self, entry: Entry) -> None:
        """Tell what an answer has more than the tally knows."""
        told, service = entry.told
        entry.told = (entry.output, self._output_service(entry))
        self.tally.add(
            entry.request.client, entry.model,
            output_tokens=entry.told[0] - told, service=entry.told[1] - service,
        )  # fmt: skip

    def _output_service(self, entry: Entry) -> float:
        return self._cost.output(entry.request.prompt_tokens, 0, entry.output)

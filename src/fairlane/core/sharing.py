"""One fairness over many schedulers: what each charges counts at all, levels stay its own.

N schedulers, such as the replicas of a model, have a fair queue each and requests of their own.
Every so often each says what it charged whom since it last said so, and hears what the others
charged. What was heard counts like what was charged here: whoever was served elsewhere comes later
here. What a client may save up is decided here alone: it is lifted to who waits here (counters.py).

Two limits keep what happens elsewhere from starving anybody here.
- Debt: of those who wait here no two neighbours, in the order of counters, are further apart than
  `max_debt`; what is beyond is forgotten (`Level.relax`).
- The guard: a part of what is charged here is spent in the home order, the order of a scheduler
  that stands alone. So everyone who waits here is served, whatever it gets elsewhere. It is an
  account: a part of all charges goes in, up to a limit; while there is something in it, whom the
  home order puts first is admitted, and what its request is charged is taken out.

A scheduler that never heard anything is as it was without sharing, event by event.

Bounds, per weight: docs/guarantees.md. Related: DSFQ (Wang and Merchant, FAST 2007) delays a flow
by its service elsewhere; that who leads is not served where one waits who lags is restricted
max-min fairness (Khamse-Ashari et al., 2016).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

from fairlane.core.options import NOT_NEGATIVE, Range
from fairlane.core.types import RequestId

_FRACTION = Range(ge=0, lt=1)

Standing = tuple[tuple[float, float], ...]
"""Of a client, its groups first: counters less all that was charged anywhere, and weights."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one scheduler tells of who waits.

    here: the clients that wait at it. there: those of whom it heard that they wait elsewhere.
    """

    here: Mapping[str, Standing] = field(default_factory=dict)
    there: Mapping[str, Standing] = field(default_factory=dict)


class Sharing:
    """What one scheduler keeps for it. Amounts are service, `max_debt` is service per weight.

    guard: the part of charges that goes into the account. most_credit: what it holds at most. None
    is no limit.
    """

    __slots__ = ("_spent", "credit", "guard", "heard", "max_debt", "most_credit", "one_queue")

    def __init__(
        self, max_debt: float | None = None, guard: float = 0.0, most_credit: float | None = None
    ) -> None:
        _FRACTION.check("guard", guard)
        self.set_max_debt(max_debt)
        self.guard = guard
        self.most_credit = _limit("most_credit", most_credit)
        self.one_queue = False  # whether it hears who waits elsewhere
        self.credit = 0.0
        self.heard = False  # anything, ever
        self._spent: dict[RequestId, float] = {}  # by requests that the guard admitted

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._spent

    def set_max_debt(self, max_debt: float | None, most_credit: float | None = None) -> None:
        """From now on; a `most_credit` of None stays as it is."""
        self.max_debt = _limit("max_debt", max_debt)
        if most_credit is not None:
            self.most_credit = _limit("most_credit", most_credit)
            self.credit = min(self.credit, self.most_credit)

    @property
    def guards(self) -> bool:
        """Whether the next admission is in the home order."""
        return self.credit > 0

    def earn(self, charged: float) -> None:
        """So much was charged here."""
        if self.heard:
            self.credit = min(self.most_credit, self.credit + self.guard * charged)

    def spend(self, request_id: RequestId, charged: float) -> None:
        """A request that the guard admitted was charged so much so far."""
        self.credit -= charged - self._spent.get(request_id, 0.0)
        self._spent[request_id] = charged

    def end(self, request_id: RequestId, charged: float) -> None:
        """The same, for the last time; for any request."""
        if request_id in self._spent:
            self.spend(request_id, charged)
            del self._spent[request_id]

    def look(self, charged: Callable[[RequestId], float]) -> None:
        """Ask what its requests were charged so far."""
        for request_id in self._spent:
            self.spend(request_id, charged(request_id))


def _limit(name: str, value: float | None) -> float:
    if value is None:
        return inf
    NOT_NEGATIVE.check(name, value)
    return value

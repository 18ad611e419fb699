"""How replicas of a simulated cluster tell each other what they charged: by a hub, in turn.

Every `every_s` seconds each replica calls the hub once, at a moment of its own, evenly spread. It
sends what it charged since the last time, and hears how the sums changed by what the others had
sent until then. So what a replica goes by is up to 2 `every_s` old. With `every_s` 0 all is heard
at once, and levels are not compared; else they are every SETTLE_S, each time with another replica
(core/settling.py).

The hub keeps one sum by client. A replica is told of clients whose requests it has; of the others
it remembers what sum it knew, and is told the difference when a request comes. It never is told
what happened before a client first came to it. So a call costs what is under way at a replica, and
one with nothing under way makes none.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from fairlane.core.policy import Policy
from fairlane.core.settling import SETTLE_S, Standings, raises

_PERIODS_LATE = 3  # in which that is sent which was charged in two


class Exchange:
    """The hub and what each replica knows of it.

    busy: replicas with requests under way, or with charges that were not sent yet.
    most_charged: the most that all of them were charged within the time that a report may be old,
    so far.
    """

    def __init__(
        self,
        policies: Sequence[Policy[Any]],
        every_s: float,
        *,
        gain: float,
        least_weight: float = 1.0,
        max_debt: float | None = None,
        guard: float = 0.0,
    ) -> None:
        """policies: fresh, of the replicas. Raises FairlaneError where one cannot share.

        every_s: seconds, or 0. gain: what a client may be charged at one replica after it was
        admitted last, U of theorem 4.4, in service. max_debt, guard: as of `FairQueue.share`;
        without a limit it is the least that the bound allows, U of all replicas and twice
        `most_charged`, and grows with that.
        """
        self.every_s = every_s
        self.most_charged = 0.0
        self.busy: dict[int, None] = {}
        self._gain = gain * len(policies) / least_weight
        self._least_weight = least_weight
        self._max_debt = max_debt
        for policy in policies:
            policy.share(max_debt=self.max_debt, guard=guard, most_credit=gain / 4)
        self._policies = policies
        self._sums: dict[str, float] = {}
        self._known: list[dict[str, float]] = [{} for _ in policies]  # sums, as last told
        self._live: list[dict[str, int]] = [{} for _ in policies]  # requests under way by client
        turns = _PERIODS_LATE * len(policies) if every_s else 1
        self._sent: deque[float] = deque([0.0] * turns, maxlen=turns)  # in all, in the last turns
        self._sent_lately = 0.0  # their sum
        self._rounds = 0  # in which every replica had its turn
        # Once in so many of them:
        self._settles_in = max(1, round(SETTLE_S / every_s)) if every_s else 0
        self._levels: list[Standings] = [{} for _ in policies]  # as last compared
        self._allowed = 0.0  # `most_charged` when the replicas were last told what debt it allows

    def bound(self, clients: int) -> float:
        """How far two clients that wait at every replica may be apart, per weight, if all is well.

        clients: how many there are; debts of up to `max_debt` may stand between neighbours.
        """
        late = 2 * self.most_charged / self._least_weight
        return max(1, clients - 1) * self.max_debt + self._gain + late

    @property
    def max_debt(self) -> float:
        """The replicas' limit by now, per weight."""
        if self._max_debt is not None:
            return self._max_debt
        return self._gain + 2 * self.most_charged / self._least_weight

    def comes(self, replica: int, client: str) -> None:
        """A request is on its way to a replica."""
        live, known = self._live[replica], self._known[replica]
        count = live.get(client, 0)
        live[client] = count + 1
        self.busy[replica] = None
        if not count:
            known.setdefault(client, self._sums.setdefault(client, 0.0))
            self._tell(replica, (client,))

    def ends(self, replica: int, client: str) -> None:
        """One of its requests ended, in whatever way."""
        live = self._live[replica]
        live[client] -= 1
        if not live[client]:
            del live[client]

    def turn(self, replica: int) -> None:
        """It is this replica's turn to call the hub; turns go by number, round and round."""
        sent = 0.0
        if replica in self.busy:
            sent = sum(self._push(replica).values())
            self._tell(replica, self._live[replica])
            if self._rounds % self._settles_in == 0:
                self._settle(replica, self._rounds // self._settles_in)
            if not self._live[replica]:
                del self.busy[replica]
        self._note(sent)
        if replica == len(self._policies) - 1:
            self._allow()
            self._rounds += 1

    def at_once(self, replica: int) -> None:
        """All hear what one replica was just charged."""
        news = self._push(replica)
        self._note(sum(news.values()))
        self._allow()
        for other in self.busy if news else ():
            self._tell(other, [client for client in news if client in self._live[other]])

    def _push(self, replica: int) -> dict[str, float]:
        """Add to the sums what a replica charged since it last did, and of which it knows."""
        sums, known = self._sums, self._known[replica]
        charges = self._policies[replica].take_charges()
        for client, charged in charges.items():
            sums[client] += charged
            known[client] += charged
        return charges

    def _tell(self, replica: int, clients: Iterable[str]) -> None:
        """Tell a replica how the sums of these clients changed."""
        sums, known = self._sums, self._known[replica]
        news = {}
        for client in clients:
            total, before = sums[client], known[client]
            if total != before:
                news[client] = total - before
                known[client] = total
        if news:
            self._policies[replica].hear(news)

    def _settle(self, replica: int, time: int) -> None:
        """Compare a replica's levels with those of one other, another one each time."""
        count = len(self._policies)
        if count == 1:
            return
        policy, known = self._policies[replica], self._known[replica]
        other = (replica + 1 + time % (count - 1)) % count
        policy.raise_levels(raises(policy.tell_waiting(known).here, self._levels[other]))
        self._levels[replica] = policy.tell_waiting(known).here

    def _note(self, sent: float) -> None:
        """So much was sent to the hub in this turn."""
        self._sent_lately += sent - self._sent[0]
        self._sent.append(sent)
        self.most_charged = max(self.most_charged, self._sent_lately)

    def _allow(self) -> None:
        """The debt that is allowed follows what ever was charged while a report was late."""
        if self._allowed < self.most_charged:
            self._allowed = self.most_charged
            for policy in self._policies:
                policy.set_max_debt(self.max_debt)

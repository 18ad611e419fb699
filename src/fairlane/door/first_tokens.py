"""How long clients waited for their first tokens lately: quantiles over a minute, by client.

Times are counted in buckets whose bounds grow by 5 %, in slots of five seconds, so a client costs
what its times differ by, however many requests it sends; a quantile is within 2.5 % of the truth.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

_SLOT_S = 5.0
_SLOTS = 12  # a minute
_GROWTH = math.log(1.05)
_LEAST_S = 1e-4
_MOST_S = 86_400.0
_CLIENTS = 10_000  # that are told apart; of more, those that had none for a minute are dropped


class _Minute:
    """One client's times: counts by bucket, of all slots and of each, the oldest first."""

    __slots__ = ("slots", "total")

    def __init__(self) -> None:
        self.total: Counter[int] = Counter()
        self.slots: deque[tuple[int, Counter[int]]] = deque()

    def count(self, slot: int, bucket: int) -> None:
        """One more."""
        if not self.slots or self.slots[-1][0] != slot:
            self.forget(slot)
            self.slots.append((slot, Counter()))
        self.slots[-1][1][bucket] += 1
        self.total[bucket] += 1

    def forget(self, slot: int) -> None:
        """What is over a minute old by this slot."""
        while self.slots and self.slots[0][0] <= slot - _SLOTS:
            for bucket, count in self.slots.popleft()[1].items():
                self.total[bucket] -= count
                if not self.total[bucket]:
                    del self.total[bucket]


class FirstTokens:
    """See the module. Times are seconds; `now` is of one clock, never decreasing."""

    def __init__(self) -> None:
        self._clients: dict[str, _Minute] = {}

    def saw(self, client: str, seconds: float, now: float) -> None:
        """A request had its first token after so long. Of clients beyond the most: passed over."""
        slot = int(now / _SLOT_S)
        minute = self._clients.get(client)
        if minute is None:
            if len(self._clients) >= _CLIENTS:
                self._drop_old(slot)
            if len(self._clients) >= _CLIENTS:
                return
            minute = self._clients[client] = _Minute()
        bounded = min(max(seconds, _LEAST_S), _MOST_S)
        minute.count(slot, round(math.log(bounded) / _GROWTH))

    def quantiles(
        self, clients: Iterable[str], parts: Sequence[float], now: float
    ) -> list[float | None]:
        """Of these clients together over the last minute; None where there was no first token."""
        found = [self._clients[client] for client in clients if client in self._clients]
        for minute in found:
            minute.forget(int(now / _SLOT_S))
        counts = found[0].total if len(found) == 1 else Counter[int]()
        if len(found) > 1:
            for minute in found:
                counts.update(minute.total)
        total = counts.total()
        if not total:
            return [None for _ in parts]
        order = sorted(counts.items())
        return [_quantile(order, math.ceil(part * total)) for part in parts]

    def _drop_old(self, slot: int) -> None:
        for client, minute in list(self._clients.items()):
            minute.forget(slot)
            if not minute.slots:
                del self._clients[client]


def _quantile(order: Iterable[tuple[int, int]], rank: int) -> float:
    """The time that `rank` of all did not exceed."""
    for bucket, count in order:
        rank -= count
        if rank <= 0:
            return math.exp(bucket * _GROWTH)
    raise AssertionError("a rank is at most the total")

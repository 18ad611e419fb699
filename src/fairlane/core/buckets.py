"""Buckets of requests and tokens a minute: the arithmetic of rate limits. Time is handed in.

A bucket holds a minute's worth and is refilled evenly. A request needs one whole request and one
whole token in its buckets: what it costs in tokens is known only as it is served, so tokens are
taken as they come and may leave a debt, of as many minutes as one request was large. What is taken
and then not used is given back.

When a limit changes, what was used stays used, but a bucket is empty at worst then, which a minute
fills, however large the debt was. What was beyond that fades in about a minute, and counts again
where the limit is raised again meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fairlane.core.types import Rejection

MINUTE_S = 60.0
ROUNDING = 1e-9  # of what is left, that is taken for nothing
REQUESTS, TOKENS = "requests", "tokens"  # kinds
_KEPT = 1024  # buckets that are kept without looking whether they matter


class Quota(NamedTuple):
    """A limit of one client or group: so many of a kind a minute."""

    kind: str
    path: str
    per_minute: float


@dataclass(slots=True)
class Bucket:
    """What is left of a limit, or of a part of one. `left` may be negative: a debt.

    beyond: what was used, before the limit was lowered, beyond all that there is now.
    """

    per_minute: float
    left: float
    updated: float
    beyond: float = 0.0

    @property
    def capacity(self) -> float:
        """What it holds: a minute's worth, and at least one."""
        return max(1.0, self.per_minute)

    def refill(self, now: float) -> None:
        """Bring `left` up to `now`."""
        minutes = max(0.0, now - self.updated) / MINUTE_S
        self.left = min(self.capacity, self.left + minutes * self.per_minute)
        self.beyond *= max(0.0, 1.0 - minutes)
        self.updated = max(now, self.updated)

    def resize(self, per_minute: float) -> None:
        """The limit changed: what was used stays used, but nobody waits for more than all of it."""
        used = self.capacity - self.left + self.beyond
        self.per_minute = per_minute
        left = self.capacity - used
        self.left, self.beyond = max(0.0, left), max(0.0, -left)

    def take(self, amount: float) -> None:
        """Take what was used, or give back (below 0) what was not used after all."""
        self.left = min(self.capacity, self.left - amount)

    def seconds_until(self, amount: float) -> float:
        """How long until `amount` is left, if nothing is taken."""
        missing = amount - self.left
        return missing * MINUTE_S / self.per_minute if missing > ROUNDING else 0.0


class Buckets:
    """The buckets of many; one that is full says as much as none, and is forgotten."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._look_again_at = _KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, kind: str, path: str, per_minute: float, now: float) -> Bucket:
        """A bucket as it is now, of that size from now on."""
        bucket = self._buckets.get((kind, path))
        if bucket is None:
            if len(self._buckets) >= self._look_again_at:
                self._forget_full(now)
            bucket = self._buckets[kind, path] = Bucket(per_minute, max(1.0, per_minute), now)
        bucket.refill(now)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute)
        return bucket

    def find(self, kind: str, path: str) -> Bucket | None:
        """A bucket as it was last used, or None."""
        return self._buckets.get((kind, path))

    def drop(self, kind: str, path: str) -> None:
        """Forget a bucket, with its debt."""
        self._buckets.pop((kind, path), None)

    def paths(self) -> set[str]:
        """Who has any."""
        return {path for _, path in self._buckets}

    def _forget_full(self, now: float) -> None:
        for bucket in self._buckets.values():
            bucket.refill(now)
        self._buckets = {k: b for k, b in self._buckets.items() if b.left < b.capacity}
        self._look_again_at = _KEPT + 2 * len(self._buckets)


def arrive(buckets: Sequence[tuple[str, Bucket]]) -> Rejection | None:
    """Count a request in all the buckets, of these kinds, or say why not and when to come back."""
    wait, kind = max(((bucket.seconds_until(1), kind) for kind, bucket in buckets), default=(0, ""))
    if wait > 0:
        return Rejection(f"{kind}_per_minute", wait)
    for kind, bucket in buckets:
        if kind == REQUESTS:
            bucket.take(1)
    return None

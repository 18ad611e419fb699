"""Rate limits of tenants, and what clients are told of them. No clock, no I/O: time is handed in.

Each limit is a bucket that holds a minute's worth and is refilled evenly. A request needs one
whole request and one whole token in the buckets: what it costs in tokens is known only as it is
served, so tokens are taken as they come and may leave a debt, of as many minutes as one request was
large. What is taken and then not used is given back.

When a limit changes, what was used stays used, but a bucket is empty at worst then, which a minute
fills, however large the debt was. What was beyond that fades in about a minute, and counts again
where the limit is raised again meanwhile.

A member of a group also needs room in the buckets of the groups above it. Where several servers
stand before one engine, each has its part of every limit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fairlane.core.types import Rejection
from fairlane.door.tenants import Limits

MINUTE_S = 60.0
_ROUNDING = 1e-9
_KEPT = 1024  # clients whose buckets are kept without looking whether they matter


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

    def seconds_until(self, amount: float) -> float:
        """How long until `amount` is left, if nothing is taken."""
        missing = amount - self.left
        return missing * MINUTE_S / self.per_minute if missing > _ROUNDING else 0.0


_NO_LIMITS = Limits()


class RateLimits:
    """The buckets of all clients and groups.

    limits_of: from a path ("acme/eng/alice") to its limits, or None. It may change its answers:
    a new limit holds at once.
    servers: how many share each limit, evenly.
    """

    def __init__(self, limits_of: Callable[[str], Limits | None], servers: int = 1) -> None:
        self._limits_of = limits_of
        self.servers = servers
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._look_again_at = _KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def arrive(self, client: str, now: float) -> Rejection | None:
        """Count a request, or say why not and when to come back."""
        buckets = self._of(client, now)
        waits = [(b.seconds_until(1), kind) for kind, b in buckets]
        wait, kind = max(waits, default=(0.0, ""))
        if wait > 0:
            return Rejection(f"{kind}_per_minute", wait)
        for kind, bucket in buckets:
            if kind == "requests":
                bucket.left -= 1
        return None

    def take_tokens(self, client: str, tokens: int, now: float) -> None:
        """Charge tokens that are read or made for a client."""
        for kind, bucket in self._of(client, now):
            if kind == "tokens":
                bucket.left -= tokens

    def give_back_tokens(self, client: str, tokens: float, now: float) -> None:
        """Undo a charge for tokens that were not read after all."""
        for kind, bucket in self._of(client, now):
            if kind == "tokens":
                bucket.left = min(bucket.capacity, bucket.left + tokens)

    def limits_tokens(self, client: str) -> bool:
        """Whether a client, or a group above it, has a limit of tokens."""
        return any(limits.tokens_per_minute is not None for _, limits in self._limited(client))

    def limits_changed(self, now: float) -> None:
        """Take up everyone's new limits at once: what was removed is forgotten with its debt."""
        for path in {path for _, path in self._buckets}:
            self._of(path, now)

    def headers(self, client: str, now: float) -> dict[str, str]:
        """The x-ratelimit headers of a client: its tightest limit of each kind."""
        found: dict[str, str] = {}
        tightest: dict[str, Bucket] = {}
        for kind, bucket in self._of(client, now):
            other = tightest.get(kind)
            if other is None or bucket.left < other.left:
                tightest[kind] = bucket
        for kind, bucket in tightest.items():
            found[f"x-ratelimit-limit-{kind}"] = str(math.floor(bucket.capacity))
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.left)))
            found[f"x-ratelimit-reset-{kind}"] = duration(bucket.seconds_until(bucket.capacity))
        return found

    def _of(self, client: str, now: float) -> list[tuple[str, Bucket]]:
        """The buckets of a client and of the groups above it, refilled."""
        found: list[tuple[str, Bucket]] = []
        for path, limits in self._limited(client):
            for kind, limit in (
                ("requests", limits.requests_per_minute),
                ("tokens", limits.tokens_per_minute),
            ):
                if limit is None:
                    self._buckets.pop((kind, path), None)
                else:
                    found.append((kind, self._bucket(kind, path, limit / self.servers, now)))
        return found

    def _limited(self, client: str) -> Iterator[tuple[str, Limits]]:
        """A client and the groups above it, with their limits."""
        path = client
        while path:
            yield path, self._limits_of(path) or _NO_LIMITS
            path = path.rpartition("/")[0]

    def _bucket(self, kind: str, path: str, per_minute: float, now: float) -> Bucket:
        bucket = self._buckets.get((kind, path))
        if bucket is None:
            if len(self._buckets) >= self._look_again_at:
                self._forget_full(now)
            bucket = self._buckets[kind, path] = Bucket(per_minute, max(1.0, per_minute), now)
        bucket.refill(now)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute)
        return bucket

    def _forget_full(self, now: float) -> None:
        """A full bucket says as much as none."""
        for bucket in self._buckets.values():
            bucket.refill(now)
        self._buckets = {k: b for k, b in self._buckets.items() if b.left < b.capacity}
        self._look_again_at = _KEPT + 2 * len(self._buckets)


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers write it: 120ms, 7.5s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    seconds = math.ceil(seconds * 100) / 100
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def retry_after(rejection: Rejection, otherwise_s: float = 1.0) -> str:
    """The Retry-After header: whole seconds, at least one."""
    wait = rejection.retry_after_s
    return str(max(1, math.ceil(otherwise_s if wait is None else wait)))

"""What is written of usage: plain values, added up by hour, tenant and model. No clock, no I/O.

Hours, days and months are those of UTC.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

from fairlane.usage.tally import Grown

HOUR_S = 3600
DAY_HOURS = 24
_REST = "(others)"  # whose usage is added up where there are more than are kept apart
_LONGEST = 1000  # bytes of a name; more do not fit into an index of PostgreSQL
_MOST = 1e15  # of anything at once: a number beyond is a mistake, and would never be written


class Used(NamedTuple):
    """What somebody was served, or how much that grew: sums, which corrections may lower.

    requests: that were queued. wait_s: seconds that admitted requests had waited.
    """

    requests: float = 0
    input_tokens: float = 0
    cached_tokens: float = 0
    output_tokens: float = 0
    service: float = 0.0
    wait_s: float = 0.0

    def plus(self, other: "Used") -> "Used":
        """Both together."""
        return Used(*[mine + theirs for mine, theirs in zip(self, other, strict=True)])

    @property
    def spent(self) -> "Spent":
        """Of this, what quotas look at."""
        return Spent(self.input_tokens + self.cached_tokens + self.output_tokens, self.service)


FIELDS = Used._fields


class Spent(NamedTuple):
    """What quotas look at. tokens: of prompts, cached or not, and of answers."""

    tokens: float = 0
    service: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(self.tokens + other.tokens, self.service + other.service)


@dataclass(slots=True)
class Batch:
    """What is written at once.

    used: by hour (since 1970), tenant and model. refused: and reason. spent: by period and path;
    what is spent by a member is its groups', too.
    """

    used: dict[tuple[int, str, str], Used] = field(default_factory=dict)
    refused: Counter[tuple[int, str, str, str]] = field(default_factory=Counter)
    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.used or self.refused)

    def __len__(self) -> int:
        return len(self.used) + len(self.refused)

    def add(self, grown: Grown, at: float, most: int) -> None:
        """Add what has grown until a time. Beyond `most` rows, all others are one."""
        hour = int(at // HOUR_S)
        periods = (day_of(at), month_of(at))
        for (client, model), numbers in grown.used.items():
            key = (hour, fitting(client), fitting(model))
            if key not in self.used and len(self) >= most:
                key = (hour, _REST, key[2])
            used = Used(*[min(max(value, -_MOST), _MOST) for value in numbers])
            before = self.used.get(key)
            self.used[key] = used if before is None else before.plus(used)
            self._spend(key[1], used, periods)
        for (client, model, reason), count in grown.refused.items():
            row = (hour, fitting(client), fitting(model), fitting(reason))
            if row not in self.refused and len(self) >= most:
                row = (hour, _REST, *row[2:])
            self.refused[row] += count

    def _spend(self, client: str, used: Used, periods: Iterable[str]) -> None:
        spent = used.spent
        if any(spent):
            for path in with_groups(client):
                for period in periods:
                    before = self.spent.get((period, path))
                    self.spent[period, path] = spent if before is None else before.plus(spent)


def with_groups(path: str) -> Iterator[str]:
    """A client's path and those of the groups above it, the nearest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def day_of(at: float) -> str:
    """The day of a time: 2026-01-31."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def month_of(at: float) -> str:
    """The month of a time: 2026-01."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m}"


def fitting(name: str) -> str:
    """A name as databases take it: of printable characters, and not too long."""
    if not name.isprintable():
        name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name) * 4 <= _LONGEST:
        return name
    encoded = name.encode()
    if len(encoded) <= _LONGEST:
        return name
    digest = blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[: _LONGEST - 20].decode(errors='ignore')}...{digest}"


Sums = Mapping[tuple[str, str], Spent]
"""What was spent, by period and path."""

"""What schedulers exchange: a hub keeps, by client, the sum of what all of them charged.

One call does it all: a member pushes what it charged since its last push, and pulls the sums that
changed since it last looked. Sums are whole numbers of GRAIN, the unit of prices, so that they are
exact in whatever order they come together.

A push is applied once, however often it arrives: each has a number, and the hub knows the last
number of each origin. A hub may lose what it knew (it is restarted, or falls back to an old copy).
It notices by a number that is not the next, and begins a new *era* with all sums empty. A push is
made for an era and applied in no other; who comes with another, or with none, is told everything.

What a hub keeps is bounded: beyond so many clients it drops who was not charged for longest, and
it forgets origins that said nothing for a day. A dropped client that is charged again begins at 0,
with a new `born`: nothing is lost by that where all members had heard of it, and a newcomer is told
of fewer.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fairlane.cluster.limits import Ask, Verdicts

GRAIN = 2.0**-20  # of service: prices are multiples of it
MOST_CLIENTS = 50_000  # whose sums a hub keeps
MOST_GRAINS = 2**63  # sums are of 64 bits; one that would not be begins a new era


class HubError(Exception):
    """A hub that cannot be reached or does not answer as one; the cause in one line."""


class Since(NamedTuple):
    """Up to where a member knows a hub's sums."""

    era: str
    version: int


class Sum(NamedTuple):
    """What everybody charged a client, in grains, since its sum began at version `born`."""

    born: int
    grains: int


@dataclass(frozen=True, slots=True)
class Push:
    """What one member charged, and up to where it knows the sums.

    origin: unique for each start of a process. seq: 1, 2, ... for each new push of an origin; one
    that is sent again has the same, and the same content. charges: grains by client, of any sign.
    since: None for a member that knows nothing yet; its charges are not applied.
    """

    origin: str
    seq: int
    charges: Mapping[str, int]
    since: Since | None


@dataclass(frozen=True, slots=True)
class Pull:
    """The answer to the push of number `seq`.

    The push was applied if `era` is the one that it was made for: then `applied` is the version at
    which it was, and `sums` are those that changed since the version that it knew. In another era
    it was not, and `sums` are all that there are. members: origins heard of in the last ALIVE_S.
    """

    seq: int
    era: str
    version: int
    applied: int
    sums: Mapping[str, Sum]
    members: int


class Hub(Protocol):
    """Where the members of one pool meet. All methods raise HubError, and may be called again."""

    async def exchange(self, push: Push) -> Pull:
        """Apply a push, once, and tell what changed."""

    async def limit(self, ask: Ask) -> Verdicts:
        """Let requests in by limits that hold over all servers; see limits.py."""

    async def post(self, origin: str, text: str, lives_s: float) -> None:
        """Tell the others of oneself; it is forgotten after `lives_s`, or with the next post."""

    async def posts(self, most: int | None = None) -> Mapping[str, str]:
        """What members told of themselves, by origin; of so many at most, drawn at random."""

    async def close(self) -> None:
        """Let go of connections."""


def new_name() -> str:
    """A name that nobody else has, for an origin or an era."""
    return secrets.token_hex(8)

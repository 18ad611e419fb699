"""One member's side of a hub: what it has still to push, and what others charged meanwhile.

Pure: whoever holds it carries its pushes to a hub, and the answers back.

    push = member.begin(charged_here)       # the same push again until it was answered
    charged_elsewhere = member.heard(await hub.exchange(push))

Pushes and answers may be lost, arrive twice or late: in the end every member has heard exactly
what the others charged since its first answer, within one era and as long as the hub dropped
nobody who had news. Its first answer is the past, which is not charged to anybody. A new era is
all new: what it holds is heard, but nothing of what only the old one held.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fairlane.cluster.hub import GRAIN, MOST_CLIENTS, Pull, Push, Since, Sum, new_name

_MOST_AT_ONCE = 2**60  # grains of a client in one push, 10**12 tokens; the rest follows


class _Known(NamedTuple):
    """Of the sum that began at `born`: what this member pushed, and what the others had by then."""

    born: int
    own: int
    others: int


class Member:
    """See the module. origin: unique for each start of a process.

    most_clients: how many are remembered; twice as many as a hub keeps are enough. Whoever is
    forgotten here and not at the hub is heard of from then on.
    """

    def __init__(self, origin: str | None = None, most_clients: int = 2 * MOST_CLIENTS) -> None:
        self.origin = new_name() if origin is None else origin
        self.members = 0  # as the hub last said
        self._most_clients = most_clients
        self._since: Since | None = None
        self._seq = 0
        self._sent: Push | None = None  # and not answered yet
        self._pending: dict[str, int] = {}  # grains by client, for the next push
        self._known: dict[str, _Known] = {}  # the longest unchanged first

    @property
    def owes(self) -> bool:
        """Whether anything that was charged here may not be at the hub yet."""
        return bool(self._pending) or (self._sent is not None and bool(self._sent.charges))

    def begin(self, charges: Mapping[str, float]) -> Push:
        """The push to send now: the last one while it has no answer, and `charges` wait then."""
        for client, service in charges.items():
            self._owe(client, round(service / GRAIN))
        if self._sent is None:
            self._seq += 1
            batch = {} if self._since is None else self._take()
            self._sent = Push(self.origin, self._seq, batch, self._since)
        return self._sent

    def heard(self, pull: Pull) -> dict[str, float]:
        """What others charged, by client, as an answer tells; nothing by one that was not due."""
        sent = self._sent
        if sent is None or pull.seq != sent.seq:
            return {}
        self._sent = None
        self.members = pull.members
        before, self._since = sent.since, Since(pull.era, pull.version)
        if before is not None and before.era == pull.era:
            news = self._follow(sent.charges, before, pull)
        else:
            for client, grains in sent.charges.items():
                self._owe(client, grains)
            news = self._join(pull.sums)
            if before is None:
                news = {}
        return {client: grains * GRAIN for client, grains in news.items() if grains}

    def _follow(self, pushed: Mapping[str, int], before: Since, pull: Pull) -> dict[str, int]:
        """The news of an era that this member knows, after its own push was applied."""
        news = {}
        for client, (born, grains) in pull.sums.items():
            known = self._known.pop(client, None)
            own = 0 if known is None or known.born != born else known.own
            if pull.applied >= born:  # else it was in a sum that the hub has dropped
                own += pushed.get(client, 0)
            now = self._known[client] = _Known(born, own, grains - own)
            if known is not None and known.born == born:
                news[client] = now.others - known.others
            elif born > before.version:
                news[client] = now.others
        self._forget()
        return news

    def _join(self, sums: Mapping[str, Sum]) -> dict[str, int]:
        """All of an era that holds nothing of this member's yet."""
        self._known = {client: _Known(born, 0, grains) for client, (born, grains) in sums.items()}
        self._forget()
        return {client: total.grains for client, total in sums.items()}

    def _owe(self, client: str, grains: int) -> None:
        owed = self._pending.pop(client, 0) + grains
        if owed:
            self._pending[client] = owed
        if len(self._pending) > self._most_clients:  # without a hub for long
            del self._pending[next(iter(self._pending))]

    def _take(self) -> dict[str, int]:
        """What is owed, for one push."""
        batch = {
            client: max(-_MOST_AT_ONCE, min(_MOST_AT_ONCE, grains))
            for client, grains in self._pending.items()
        }
        self._pending = {c: rest for c, g in self._pending.items() if (rest := g - batch[c])}
        return batch

    def _forget(self) -> None:
        while len(self._known) > self._most_clients:
            del self._known[next(iter(self._known))]

"""A hub in memory: of one process, of a simulation, or of an actor that others call.

`HubState` is the model that every other hub is held against: pure, time handed in.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fairlane.cluster.hub import MOST_CLIENTS, MOST_GRAINS, Pull, Push, Sum, new_name
from fairlane.cluster.limits import ALIVE_S, DAY_S, Ask, LimitsState, Verdicts


@dataclass(slots=True)
class _Cell:
    """The sum of one client, and the version at which it last changed."""

    born: int
    grains: int
    changed: int


@dataclass(slots=True)
class _Origin:
    """The last push of one origin, the version at which it was applied, and when it was seen."""

    seq: int
    applied: int
    seen: float


class HubState:
    """A hub's sums and members; see hub.py. `now`: seconds, never decreasing.

    most_clients: whose sums are kept. name_era: gives a new name each time it is called.
    """

    def __init__(
        self, most_clients: int = MOST_CLIENTS, name_era: Callable[[], str] = new_name
    ) -> None:
        self._most_clients = most_clients
        self._name_era = name_era
        self._limits = LimitsState()
        self._posts: dict[str, tuple[str, float]] = {}  # text, and when it is forgotten
        self._open()

    def exchange(self, push: Push, now: float) -> Pull:
        """Apply a push, once, and tell what changed."""
        self._forget(now)
        knows = self._take(push, now)
        origin = self._origins[push.origin]
        origin.seen = now
        members = sum(now - each.seen < ALIVE_S for each in self._origins.values())
        sums = self._changed_since(knows)
        return Pull(push.seq, self._era, self._version, origin.applied, sums, members)

    def limit(self, ask: Ask, now: float) -> Verdicts:
        """Let requests in by limits that hold over all servers."""
        return self._limits.limit(ask, now)

    def post(self, origin: str, text: str, lives_s: float, now: float) -> None:
        """Keep what a member tells of itself."""
        self._posts[origin] = (text, now + lives_s)

    def posts(self, now: float, most: int | None = None) -> dict[str, str]:
        """What members told of themselves, by origin."""
        self._posts = {name: post for name, post in self._posts.items() if post[1] > now}
        names = list(self._posts)
        if most is not None and most < len(names):
            names = random.sample(names, most)
        return {name: self._posts[name][0] for name in names}

    def _open(self) -> None:
        """Begin an era."""
        self._era = self._name_era()
        self._version = 0
        self._cells: OrderedDict[str, _Cell] = OrderedDict()  # the longest unchanged first
        self._origins: dict[str, _Origin] = {}

    def _take(self, push: Push, now: float) -> int:
        """Take up a push; the version that its sender knows, 0 for nothing."""
        if push.since is not None and push.since.era == self._era:
            origin = self._origins.get(push.origin)
            if origin is not None and push.seq <= origin.seq:
                return push.since.version
            if origin is not None and push.seq == origin.seq + 1 and self._apply(push.charges):
                origin.seq, origin.applied = push.seq, self._version
                return push.since.version
            self._open()
        known = self._origins.setdefault(push.origin, _Origin(push.seq, 0, now))
        known.seq = max(known.seq, push.seq)
        return 0

    def _apply(self, charges: Mapping[str, int]) -> bool:
        """Add to the sums; whether they have room for it."""
        for client, grains in charges.items():
            cell = self._cells.get(client)
            total = grains + (0 if cell is None else cell.grains)
            if not -MOST_GRAINS <= total < MOST_GRAINS:
                return False
        self._version += bool(charges)
        for client, grains in sorted(charges.items()):  # of one push the first names go first
            cell = self._cells.setdefault(client, _Cell(self._version, 0, 0))
            cell.grains += grains
            cell.changed = self._version
            self._cells.move_to_end(client)
        while len(self._cells) > self._most_clients:
            self._cells.popitem(last=False)
        return True

    def _changed_since(self, version: int) -> dict[str, Sum]:
        found = {}
        for client in reversed(self._cells):
            cell = self._cells[client]
            if cell.changed <= version:
                break
            found[client] = Sum(cell.born, cell.grains)
        return found

    def _forget(self, now: float) -> None:
        """Forget origins that said nothing for a day."""
        silent = [name for name, each in self._origins.items() if now - each.seen > DAY_S]
        for name in silent:
            del self._origins[name]


class MemoryHub:
    """A Hub for members of one process. clock: seconds, never decreasing."""

    def __init__(
        self, state: HubState | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.state = HubState() if state is None else state
        self._clock = clock

    async def exchange(self, push: Push) -> Pull:
        """Apply a push, once, and tell what changed."""
        return self.state.exchange(push, self._clock())

    async def limit(self, ask: Ask) -> Verdicts:
        """Let requests in by limits that hold over all servers."""
        return self.state.limit(ask, self._clock())

    async def post(self, origin: str, text: str, lives_s: float) -> None:
        """Tell the others of oneself."""
        self.state.post(origin, text, lives_s, self._clock())

    async def posts(self, most: int | None = None) -> Mapping[str, str]:
        """What members told of themselves, by origin."""
        return self.state.posts(self._clock(), most)

    async def close(self) -> None:
        """Nothing to let go of."""

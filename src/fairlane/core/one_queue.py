"""Several schedulers before the same capacity: one queue in truth, so one order and one level.

Charges that count everywhere (sharing.py) are not enough here. With A at one scheduler alone and B
at another each has one client and takes all that it can get. So each also tells who waits here
(`Waiting`), and what follows is computed anew by everyone from the names:

- Who waits at any of them is at the level already; only who waits nowhere is lifted, to the least
  counter that waits anywhere.
- The next one is sent only if its counter is not above the least that waits elsewhere, but for some
  slack: the scheduler *yields* (`Policy.yields`). What was heard may be old: where capacity stays
  free for two looks although all yield, it is used all the same (`Patience`).

A lift changes a client's counter at one scheduler; the others must learn of it, and of nothing that
they were told as a charge already. So what is told is a counter less all that was ever charged to
the client, anywhere (by its weight, which is told too): lifts alone raise that, and the greatest is
right. After a change of weight values are compared again once both know it.

Whoever begins to hear the others, and whoever hears them again, lifts those who wait here alone to
those who wait elsewhere: it could not know of them when it let them in.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fairlane.core.counters import Node
from fairlane.core.sharing import Standing, Waiting
from fairlane.core.tree import ClientTree, lineage


class Patience:
    """For how long a scheduler yields: capacity that stayed free for `looks` looks is used.

    A look is whenever news may have come; room: how many more requests there was room for.
    """

    def __init__(self, looks: int = 2) -> None:
        self._looks = looks
        self._rooms: list[int] = []

    def look(self, room: int) -> None:
        """Room was left though somebody waits; 0 where there was none, or nobody waits."""
        self._rooms = [*self._rooms[-self._looks + 1 :], room] if room else []

    @property
    def over(self) -> int:
        """How many requests are sent now, whoever waits elsewhere."""
        return min(self._rooms) if len(self._rooms) == self._looks else 0

    def used(self) -> None:
        """One was sent."""
        self._rooms = [room - 1 for room in self._rooms] if self.over > 1 else []


def tell_waiting(
    tree: ClientTree, totals: Mapping[str, float], prepaid: Mapping[Node, float]
) -> Waiting:
    """See Policy.tell_waiting. prepaid: by client and group, part of their counters."""
    charged, untold = tree.by_path(totals), tree.by_path(tree.untold(prepaid))
    found = Waiting({}, {})
    for node in tree.clients():
        if (node.waits or node.waits_elsewhere) and node.client is not None:
            told = tuple(
                (
                    _level(step, path, charged, prepaid) - untold.get(path, 0.0) / step.weight,
                    step.weight,
                )
                for step, path in tree.steps(node)
            )
            (found.here if node.waits else found.there)[node.client] = told  # type: ignore[index]
    return found


def hear_waiting(
    tree: ClientTree,
    others: Iterable[Waiting],
    totals: Mapping[str, float],
    prepaid: Mapping[Node, float],
) -> None:
    """See Policy.hear_waiting."""
    others, charged = list(others), tree.by_path(totals)
    told: dict[str, set[Standing]] = defaultdict(set)
    for other in others:
        for standings in (other.here, other.there):
            for client, standing in standings.items():
                told[client].add(standing)
    wait = {client for other in others for client in other.here}
    gone = [node for node in tree.clients() if node.waits_elsewhere and node.client not in wait]
    for client, standing_by in told.items():
        node = tree.node(client) if client in wait else tree.find(client)
        if node is None:
            continue
        _raise(tree.steps(node), standing_by, charged, prepaid)
        if client in wait:
            _waits(node)
    for node in gone:
        _leaves(tree, node)


def lift_to_elsewhere(tree: ClientTree) -> None:
    """Lift who waits here alone to the least who wait elsewhere."""
    for node in tree.clients():
        for step in lineage(node):
            least = step.level.elsewhere.least_counter()
            if step.waits and not step.waits_elsewhere and least is not None:
                step.raise_by(least - step.counter)


def _raise(
    steps: Sequence[tuple[Node, str]],
    told: Iterable[Standing],
    charged: Mapping[str, float],
    prepaid: Mapping[Node, float],
) -> None:
    """Take over lifts that were made elsewhere."""
    for standing in told:
        for (step, path), (level, weight) in zip(steps, standing, strict=False):
            if step.weight == weight:
                step.raise_by(level - _level(step, path, charged, prepaid))


def _waits(node: Node) -> None:
    """A client waits elsewhere, and so do its groups."""
    step: Node | None = node
    while step is not None and not step.waits_elsewhere:
        step.level.elsewhere.push(step, len(step.level.children))
        step = step.parent


def _leaves(tree: ClientTree, node: Node) -> None:
    """A client waits elsewhere no more."""
    for step in lineage(node):
        step.leave_elsewhere()
        if step.level.elsewhere.least() is not None:
            break
    if not (node.queue or node.running):
        tree.retire(node)


def _level(
    step: Node, path: str, charged: Mapping[str, float], prepaid: Mapping[Node, float]
) -> float:
    spent = charged.get(path, 0.0) + prepaid.get(step, 0.0)
    return step.counter - spent / step.weight

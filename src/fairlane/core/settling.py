"""Levels of schedulers that share: how those of two come to agree on who is before whom.

Each scheduler lifts by who waits there (sharing.py), so one may have f before g where another has g
before f, for what both were served anywhere alike. In sum all is as fair as it should be; but each
of the two waits long at one of them. So now and then a scheduler compares itself with another, and
goes half of the way: whom the other has further ahead is raised here.

What is compared is a client's level: its counter less all that it was charged anywhere
(`Policy.tell_waiting`). Between lifts it does not change, so it does not matter when it was told.

Only those who wait at both are compared, with their siblings. So the difference of two clients who
wait everywhere comes to lie between those that it had at two schedulers, and bound B1 stands
(docs/guarantees.md).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from fairlane.core.sharing import Standing
from fairlane.core.tree import ClientTree

SETTLE_S = 2.0  # how often a scheduler compares itself
QUEUE = "\0"  # between a queue's name and a client's, where a host tells of several queues
Standings = Mapping[str, Standing]
"""Of clients that wait at one scheduler, by name."""


def raises(here: Standings, there: Standings) -> dict[str, float]:
    """By how much to raise whom, in service per weight, by path (`ClientTree.paths`)."""
    levels = {path: (level, weight) for path, _, level, weight in _steps(there)}
    ahead: dict[str, dict[str, float]] = defaultdict(dict)  # by siblings
    for path, parent, level, weight in _steps(here):
        other = levels.get(path)
        if other is not None and other[1] == weight:
            ahead[parent][path] = other[0] - level
    found: dict[str, float] = {}
    for siblings in ahead.values():
        least = min(siblings.values())
        found |= {path: (more - least) / 2 for path, more in siblings.items() if more > least}
    return found


def raise_levels(tree: ClientTree, amounts: Mapping[str, float], most: float) -> None:
    """Raise clients and groups that wait, as `raises` says; not in the home order.

    most: for one of them at once, as who told may be wrong about sums.
    """
    left = dict(amounts)
    for node in tree.clients() if left else ():
        for step, path in tree.steps(node) if node.waits else ():
            step.add_from_elsewhere(min(most, left.pop(path, 0.0)))


def less(standings: Standings, charged: Mapping[str, float]) -> dict[str, Standing]:
    """Standings without what was charged, by client; of whoever was charged, waiting or not."""
    by_group = _sums({path for path, _, _, _ in _steps(standings) if path[-1:] == "/"}, charged)

    def spent(path: str) -> float:
        return by_group[path] if path in by_group else charged.get(path, 0.0)

    return {
        client: tuple(
            (level - spent(path) / weight, weight)
            for path, (level, weight) in zip(_paths(client, len(steps)), steps, strict=True)
        )
        for client, steps in standings.items()
    }


def _sums(groups: Collection[str], charged: Mapping[str, float]) -> dict[str, float]:
    """What all members of each group were charged."""
    found = dict.fromkeys(groups, 0.0)
    for client, service in charged.items() if groups else ():
        end = client.find("/") + 1
        while end:
            if client[:end] in found:
                found[client[:end]] += service
            end = client.find("/", end) + 1
    return found


def _steps(standings: Standings) -> Iterator[tuple[str, str, float, float]]:
    """Each client's groups and the client: path, path of its parent, level, weight."""
    for client, steps in standings.items():
        parent = client[: client.find(QUEUE) + 1]
        for path, (level, weight) in zip(_paths(client, len(steps)), steps, strict=True):
            yield path, parent, level, weight
            parent = path


def _paths(client: str, count: int) -> list[str]:
    """The paths of a client that is told with so many steps; see `ClientTree.paths`."""
    if count <= 1:
        return [client] * count
    first, *names = client.rsplit("/", count - 1)
    found = [first + "/"]
    for name in names:
        found.append(found[-1] + name + "/")
    return [*found[:-1], found[-1][:-1]]

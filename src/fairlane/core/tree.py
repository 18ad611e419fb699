"""The tree of clients under FairQueue: who hangs where, with what weight, remembered how long."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from fairlane.core.counters import Common, Level, Node
from fairlane.core.errors import FairlaneError
from fairlane.core.options import checked_weights
from fairlane.core.saved import Saved, load_level, save_level

PathOf = Callable[[str], tuple[str, ...]]
"""From a client's name to the names from the top-level group down to the client."""


def split_path(client: str) -> tuple[str, ...]:
    """A path for names that are paths already, such as "acme/eng/alice"."""
    return tuple(client.split("/"))


class ClientTree:
    """Clients with requests as nodes, idle ones as a few numbers; see counters.py.

    path_of: None for clients without groups. weights: by path, joined with "/". max_idle: how many
    idle clients and groups are remembered. Weights and path_of are checked by use.
    """

    def __init__(
        self, path_of: PathOf | None, weights: Mapping[str, float] | None, max_idle: int
    ) -> None:
        self.common = Common()
        self.root = Level(self.common)
        self._path_of = path_of
        self._weights = checked_weights(weights)
        self._max_idle = max_idle
        self._young = 0  # idle clients and groups since some were last forgotten
        self._untold: dict[str, float] | None = None  # charges of clients that went idle

    def node(self, client: str) -> Node:
        """The client's node, made (with the groups above it) when it was idle."""
        level = self.root
        if self._path_of is None:
            return level.children.get(client) or self._make(level, client, client, None, client)
        *groups, leaf = self._path_of(client)
        parent, path = None, ""
        for name in groups:
            path += name
            key = name + "/"  # so that a client may have the name of a group
            parent = level.children.get(key) or self._make(level, key, path, parent)
            if parent.inner is None:
                parent.inner = Level(self.common)
            level = parent.inner
            path += "/"
        return level.children.get(leaf) or self._make(level, leaf, path + leaf, parent, client)

    def find(self, client: str) -> Node | None:
        """The client's node, if it has requests."""
        path = (client,) if self._path_of is None else self._path_of(client)
        level = self._level(path[:-1])
        return None if level is None else level.children.get(path[-1])

    def first(self, *, home: bool) -> Node | None:
        """The backlogged client that is next, by counters or in the home order."""
        level: Level | None = self.root
        node = None
        while level is not None:
            node = (level.home if home else level.order).least()
            assert node is not None or level is self.root, "a group waits only while a child does"
            level = None if node is None else node.inner
        return node

    def retire(self, node: Node) -> None:
        """A client without requests goes idle, and so does a group without such clients."""
        step: Node | None = node
        if self._untold is not None and node.charged != node.taken and node.client is not None:
            self._untold[node.client] += node.charged - node.taken
        while step is not None:
            level = step.level
            del level.children[step.name]
            level.young[step.name] = (step.counter, step.seq, step.inner, step.away)
            self._young += 1
            step = None if level.children else step.parent
        if 2 * self._young >= self._max_idle:
            self.root.forget_old()
            self._young = 0

    def set_weight(self, path: str, weight: float) -> list[Node]:
        """A client or group has a new weight; who of these two has requests and must learn it."""
        self._weights |= checked_weights({path: weight})
        *groups, leaf = [path] if self._path_of is None else path.split("/")
        level = self._level(groups)
        if level is None:
            return []
        return [level.children[key] for key in (leaf, leaf + "/") if key in level.children]

    def save(self, prepaid: Mapping[Node, float]) -> Saved:
        """All counters, those of nodes without what they prepaid."""
        return save_level(self.root, prepaid)

    def restore(self, saved: Saved) -> None:
        """Take up counters that were saved. Raises FairlaneError where there are some already."""
        if self.root.seq:
            raise FairlaneError("counters can only be restored into a policy that was not used yet")
        self.root = load_level(saved, self.common)
        self._young = self.root.count_young()

    # -- what other schedulers hear, and what is heard from them -----------------------------

    def share(self, home: bool) -> None:
        """From now on note what nobody was told of yet. home: whether to keep the home order."""
        self._untold = defaultdict(float)
        self.common.home = home

    def take_charges(self, prepaid: Mapping[Node, float]) -> dict[str, float]:
        """Service charged, by client, since it was last taken, without what is prepaid."""
        found = self.untold(prepaid, takes=True)
        self._untold = defaultdict(float)
        return found

    def untold(self, prepaid: Mapping[Node, float], *, takes: bool = False) -> dict[str, float]:
        """What `take_charges` would give. takes: from now on it is told."""
        assert self._untold is not None, "share comes first"
        found = self._untold.copy()
        for node in self._clients(self.root):
            node.fold()
            delivered = node.charged - prepaid.get(node, 0.0) if prepaid else node.charged
            if delivered != node.taken and node.client is not None:
                found[node.client] += delivered - node.taken
                if takes:
                    node.taken = delivered
        return {client: charged for client, charged in found.items() if charged}

    def hear(self, charges: Mapping[str, float]) -> list[Level]:
        """Add what was charged elsewhere; the levels whose backlogged this concerns.

        Whoever is not known here has nothing to add to: it begins as on a single server.
        """
        concerned = {id(self.root): self.root}
        for client, amount in charges.items():
            level: Level | None = self.root
            *groups, leaf = (client,) if self._path_of is None else self._path_of(client)
            path = ""
            for name in groups:
                path += name
                level = None if level is None else self._add(level, name + "/", path, amount)
                path += "/"
                if level is None:
                    break
                concerned[id(level)] = level
            if level is not None:
                self._add(level, leaf, path + leaf, amount)
        return list(concerned.values())

    def _add(self, level: Level, key: str, path: str, amount: float) -> Level | None:
        """Add service elsewhere to one client or group; a group's members, if it is known."""
        node = level.children.get(key)
        if node is not None:
            node.add_from_elsewhere(amount / node.weight)
            return node.inner
        for idle in (level.young, level.old):
            known = idle.get(key)
            if known is not None:
                counter, seq, inner, away = known
                more = amount / self._weights.get(path, 1.0)
                idle[key] = (counter + more, seq, inner, away + more)
                return inner
        return None

    def clients(self) -> list[Node]:
        """All clients with requests, here or elsewhere."""
        return list(self._clients(self.root))

    def paths(self, client: str) -> list[str]:
        """Of the groups from the top-level one down, and of the client itself.

        A group's ends with a slash, as a client may have its name.
        """
        *groups, leaf = (client,) if self._path_of is None else self._path_of(client)
        found = [group + "/" for group in accumulate(groups, "{}/{}".format)]
        return [*found, (found[-1] if found else "") + leaf]

    def steps(self, node: Node) -> Sequence[tuple[Node, str]]:
        """A client's groups and the client, from the top, with their paths."""
        assert node.client is not None, "a group has no steps of its own"
        if node.parent is None:
            return ((node, node.client),)
        return list(zip(reversed(list(lineage(node))), self.paths(node.client), strict=True))

    def by_path(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Amounts by client as amounts by client and group."""
        if self._path_of is None:
            return totals
        found: dict[str, float] = defaultdict(float)
        for client, total in totals.items():
            for path in self.paths(client):
                found[path] += total
        return found

    def _clients(self, level: Level) -> Iterator[Node]:
        """All clients with requests, here and in the groups below."""
        for node in level.children.values():
            if node.inner is None:
                yield node
            else:
                yield from self._clients(node.inner)

    # -- inside ------------------------------------------------------------------------------

    def _make(
        self, level: Level, key: str, path: str, parent: Node | None, client: str | None = None
    ) -> Node:
        idle = level.young.pop(key, None)
        if idle is not None:
            self._young -= 1
        else:
            idle = level.old.pop(key, None)
            if idle is None:
                level.seq += 1
                idle = (level.start, level.seq, None, 0.0)
        node = Node(key, parent, level, self._weights.get(path, 1.0), idle)
        node.client = client
        level.children[key] = node
        return node

    def _level(self, groups: list[str] | tuple[str, ...]) -> Level | None:
        """The members of a group, if any of them has requests."""
        level = self.root
        for name in groups:
            node = level.children.get(name + "/")
            if node is None or node.inner is None:
                return None
            level = node.inner
        return level


def lineage(node: Node) -> Iterator[Node]:
    """A client, its group, the group of that, and so on up."""
    step: Node | None = node
    while step is not None:
        yield step
        step = step.parent

"""Who is entitled to what: the parts of a server that weights give, level by level of groups."""

from collections.abc import Iterable, Mapping


def entitlements(active: Iterable[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The part of the server of each active client; the parts of all sum to 1.

    active: paths ("acme/eng/alice") of clients with something to do. weights: by path, of clients
    and groups; 1 where none is given. Siblings share what their group is entitled to.
    """
    members: dict[str, dict[str, bool]] = {}  # group -> its active children; True: a client
    for path in active:
        client = True
        while path:
            group = path.rpartition("/")[0]
            # a client may have the name of a group beside it: told apart by a slash at the end
            members.setdefault(group, {})[path if client else path + "/"] = client
            path, client = group, False
    found: dict[str, float] = {}
    todo = [("", 1.0)]
    while todo:
        group, part = todo.pop()
        children = members.get(group, {})
        total = sum(weights.get(child.rstrip("/"), 1.0) for child in children)
        for child, client in children.items():
            share = part * weights.get(child.rstrip("/"), 1.0) / total
            if client:
                found[child] = share
            else:
                todo.append((child.rstrip("/"), share))
    return found

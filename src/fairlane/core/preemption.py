"""Whose running request gives up its memory when the KV cache is full.

"newest" is the engine's own choice: the request that was admitted last, under a fair queue often
one of the client that has had least. "fairest" is the newest of the client that holds most memory
for its weight, a client's oldest request not counted, so that everybody can keep one, however long
it is. Counters of service would not do: output is charged as it comes, and so the client that just
filled the memory is behind, not ahead.
"""

from collections.abc import Iterable, Mapping

from fairlane.core.tree import PathOf

PREEMPTIONS = ("newest", "fairest")


def default_preemption(policy: str) -> str:
    """First come, first served is the engine's own order, and so leaves it its own choice."""
    return "newest" if policy == "fcfs" else "fairest"


def held_memory(
    running: Iterable[tuple[str, int]],
    weights: Mapping[str, float],
    path_of: PathOf | None = None,
) -> dict[str, tuple[float, ...]]:
    """KV memory by client, per weight, that of its groups first: compared in turn, most gives.

    running: client and tokens held of each request, every client's oldest before its others.
    weights: by path, 1 where there is none.
    """
    paths: dict[str, list[str]] = {}
    held: dict[str, float] = {}
    for client, tokens in running:
        if client not in paths:
            names = (client,) if path_of is None else path_of(client)
            paths[client] = ["/".join(names[: n + 1]) for n in range(len(names))]
            continue
        for path in paths[client]:
            held[path] = held.get(path, 0.0) + tokens / weights.get(path, 1.0)
    return {client: tuple(held.get(path, 0.0) for path in own) for client, own in paths.items()}

"""Whose running request gives up its memory when the KV cache is full.

"newest" is the engine's own choice: the request that was admitted last, under a fair queue often
one of the client that has had least. "fairest" is the newest of the client that holds most memory
for its weight, a client's oldest request not counted, so that everybody can keep one, however long
it is. Counters of service would not do: output is charged as it comes, and so the client that just
filled the memory is behind, not ahead.

Engines preempt from the end of their list of running requests. So it is enough to sort that list
before a step in which memory may run out. The vLLM plugin and the simulator both do it by what is
here, and choose the same.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fairlane.core.tree import PathOf

R = TypeVar("R")
PREEMPTIONS = ("newest", "fairest")


def default_preemption(policy: str) -> str:
    """First come, first served is the engine's own order, and so leaves it its own choice."""
    return "newest" if policy == "fcfs" else "fairest"


def may_run_out(free: int, running: int, missing: Iterable[int], budget: int, size: int) -> bool:
    """Whether a step may need more blocks of the KV cache than are free.

    missing: of each running request, the tokens that it has and the cache does not hold; looked at
    only if need be. budget: tokens that a step computes at most. size: tokens in a block.
    """
    if free >= running + budget // size:
        return False  # no step takes more: a block for each, and what the budget fills
    return free < sum(1 + tokens // size for tokens in missing)


def put_last_who_holds_most(
    running: list[R],
    client_of: Callable[[R], str | None],
    tokens_of: Callable[[R], int],
    weights: Mapping[str, float],
    path_of: PathOf | None = None,
) -> None:
    """Sort running requests as "fairest" takes their memory, the first to give at the end.

    client_of: None for a request that counts for nobody, and is kept. tokens_of: held in the cache.
    """
    known = ((c, tokens_of(r)) for r in running if (c := client_of(r)) is not None)
    held = held_memory(known, weights, path_of)
    running.sort(key=lambda r: () if (c := client_of(r)) is None else held[c])


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

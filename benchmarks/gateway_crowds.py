"""Many requests at once through one gateway: those that wait, and those that are served."""

import asyncio
import json
import random
import time
import urllib.request

from benchmarks.gateway_load import Connection, all_flow, close, connect, quantile, request
from benchmarks.gateway_peers import Gateway

_LONGEST = 20  # tokens of an answer


async def waiting(
    gateway: Gateway, each: int, window: int, seconds: float, newcomers: int
) -> dict[str, float]:
    """`each` requests of each tenant at once, asked again and again; meanwhile newcomers.

    The last keys are the newcomers', one request each, spread over so many seconds.
    """
    rng = random.Random(1)
    keys, new = gateway.keys[1:-newcomers], gateway.keys[-newcomers:]
    made = await connect(gateway, each * len(keys))
    late = await connect(gateway, newcomers)
    over = asyncio.Event()
    asked = good = 0

    async def ask_again(index: int, connection: Connection) -> None:
        nonlocal asked, good
        while not over.is_set():
            asked += 1
            raw = request(keys[index % len(keys)], rng.randint(2, _LONGEST), stream=True)
            answered = await connection.ask(raw)
            good += answered

    tasks = [asyncio.create_task(ask_again(i, one)) for i, one in enumerate(made)]
    while await _waiting_at(gateway) < len(made) - 2 * window:
        await asyncio.sleep(0.2)
    while good < 2 * len(keys):  # else all are new
        await asyncio.sleep(0.2)
    before, begin = good, time.perf_counter()
    comers = []
    for connection, key in zip(late, new, strict=True):
        comers.append(asyncio.create_task(_first_token(connection, key)))
        await asyncio.sleep(rng.expovariate(newcomers / seconds))
    wave = window / ((good - before) / (time.perf_counter() - begin))
    held, memory = await _waiting_at(gateway), gateway.memory_mb()
    over.set()
    await asyncio.gather(*tasks)
    waits = [wait for wait in await asyncio.gather(*comers) if wait is not None]
    close([*made, *late])
    return {
        "held": held, "answered": good, "lost": asked - good + newcomers - len(waits),
        "p50_s": quantile(waits, 0.5), "p99_s": quantile(waits, 0.99), "wave_s": wave,
        "mb": memory,
    }  # fmt: skip


async def connections(gateway: Gateway, count: int, tokens: int) -> dict[str, float]:
    """So many streams at once, to their end; in MB and seconds."""
    rest = gateway.memory_mb()
    made = await connect(gateway, count)
    begin, cpu = time.perf_counter(), gateway.cpu_s()
    keys = gateway.keys
    answers = [
        one.ask(request(keys[i % len(keys)], tokens, stream=True)) for i, one in enumerate(made)
    ]
    await all_flow(made)
    flowing, memory = time.perf_counter() - begin, gateway.memory_mb()
    good = sum(await asyncio.gather(*answers))
    wall, cpu = time.perf_counter() - begin, gateway.cpu_s() - cpu
    close(made)
    return {
        "finished": good, "lost": count - good, "all_flow_s": flowing, "all_ended_s": wall,
        "chunk_us": cpu / sum(one.chunks for one in made) * 1e6, "rest_mb": rest, "mb": memory,
    }  # fmt: skip


async def _first_token(connection: Connection, key: str) -> float | None:
    """Seconds until the first token of one request, None for one that failed."""
    begin = time.perf_counter()
    good = await connection.ask(request(key, _LONGEST // 2, stream=True))
    return connection.first_at - begin if good and connection.first_at else None


async def _waiting_at(gateway: Gateway) -> int:
    """How many requests the gateway says wait in it."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}/fairlane/upstreams",
        headers={"Authorization": f"Bearer {gateway.keys[0]}"},
    )

    def ask() -> int:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            [upstream] = json.load(answer)["upstreams"]
            return int(upstream["waiting_here"])

    return await asyncio.to_thread(ask)

"""What a hub costs, as two Markdown tables: an exchange, and a request that asks it.

Members of one process take turns to push what they charged so many clients and pull what the
others charged these; the server, of Redis' kind, runs beside. In a round everybody exchanges once,
so each pull holds a sum of every client. A row is per exchange: bytes, and the CPU of both sides;
"cores" is what the server needs of one when each member exchanges `--every` seconds.

The second table is of requests whose client and group are limited, so many at once from one server.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks import chosen, parser
from fairlane.cluster.limits import Arrival
from fairlane.cluster.member import Member
from fairlane.cluster.redis import RedisHub
from fairlane.cluster.shared_limits import SharedLimits
from fairlane.core.buckets import REQUESTS, TOKENS, Quota
from tests.cluster.servers import PASSWORD, Server, programs, running


@dataclass
class Spent:
    """What the server has spent by now, as it says itself, and this process."""

    server_s: float
    bytes_in: int
    bytes_out: int
    here_s: float

    @classmethod
    async def by_now(cls, client: Any) -> "Spent":
        """By what the server tells a client."""
        told = await client.info()
        return cls(
            told["used_cpu_user"] + told["used_cpu_sys"],
            told["total_net_input_bytes"],
            told["total_net_output_bytes"],
            time.process_time(),
        )


async def measure(server: Server, asked: argparse.Namespace, clients: int) -> list[str]:
    """A row: all members exchange for so many rounds."""
    operator: Any = Redis.from_url(server.url, password=PASSWORD)
    await operator.flushall()
    members = [Member() for _ in range(asked.members)]
    hubs = [RedisHub(server.url, pool="bench", password=PASSWORD) for _ in members]
    chance, names = random.Random(0), [f"team-{i % 40}/client-{i:05d}" for i in range(clients)]
    batches = [{name: float(chance.randint(1, 2000)) for name in names} for _ in range(7)]
    waits: list[float] = []

    async def everyone() -> None:
        for member, hub in zip(members, hubs, strict=True):
            push = member.begin(batches[len(waits) % len(batches)])
            begin = time.perf_counter()
            pull = await hub.exchange(push)
            waits.append(time.perf_counter() - begin)
            member.heard(pull)

    for _ in range(3):
        await everyone()
    waits.clear()
    before = await Spent.by_now(operator)
    for _ in range(asked.rounds):
        await everyone()
    after = await Spent.by_now(operator)
    for each in (operator, *hubs):
        await (each.aclose() if each is operator else each.close())
    count = asked.rounds * asked.members
    server_s = (after.server_s - before.server_s) / count
    return [
        f"{asked.members}", f"{clients:,}",
        f"{(after.bytes_in - before.bytes_in) / count / 1000:.1f}",
        f"{(after.bytes_out - before.bytes_out) / count / 1000:.1f}",
        f"{server_s * 1000:.2f}",
        f"{(after.here_s - before.here_s) / count * 1000:.2f}",
        f"{sorted(waits)[len(waits) // 2] * 1000:.2f}",
        f"{server_s * asked.members / asked.every:.2f}",
    ]  # fmt: skip


async def measure_limits(server: Server, asked: argparse.Namespace, at_once: int) -> list[str]:
    """A row: so many senders, each with one request after the other."""
    operator: Any = Redis.from_url(server.url, password=PASSWORD)
    hub = RedisHub(server.url, pool="bench", password=PASSWORD)
    shared = SharedLimits(hub)
    task = asyncio.create_task(shared.run())
    while not shared.connected:
        await asyncio.sleep(0.01)
    paths = ("team-1/client-1", "team-1")
    arrival = Arrival([Quota(kind, path, 1e9) for path in paths for kind in (REQUESTS, TOKENS)])
    waits: list[float] = []

    async def send() -> None:
        for _ in range(asked.requests // at_once):
            begin = time.perf_counter()
            await shared.arrive(arrival)
            waits.append(time.perf_counter() - begin)

    before, begin = await Spent.by_now(operator), time.perf_counter()
    await asyncio.gather(*(send() for _ in range(at_once)))
    wall, after = time.perf_counter() - begin, await Spent.by_now(operator)
    shared.stop()
    await task
    await hub.close()
    await operator.aclose()
    return [
        f"{at_once}", f"{len(waits) / wall:,.0f}",
        f"{sorted(waits)[len(waits) // 2] * 1000:.2f}",
        f"{(after.server_s - before.server_s) / len(waits) * 1e6:.0f}",
        f"{(after.here_s - before.here_s) / len(waits) * 1e6:.0f}",
    ]  # fmt: skip


def head(columns: Sequence[str]) -> None:
    """The first lines of a table."""
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))


def main() -> None:
    """Measure the numbers of clients that were asked for, on each server that there is."""
    options = parser(__doc__)
    options.add_argument("--members", type=int, default=16)
    options.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--every", type=float, default=0.2, help="seconds between exchanges")
    options.add_argument("--requests", type=int, default=5000)
    options.add_argument("--at-once", type=int, nargs="+", default=[1, 64])
    asked = chosen(options, members=2, clients=[10], rounds=2, requests=20, at_once=[2])
    head(("server", "members", "clients", "kB in", "kB out", "server ms", "here ms",
          "wait p50 (ms)", "cores"))  # fmt: skip
    each_row(lambda server, clients: measure(server, asked, clients), asked.clients)
    print()
    head(("server", "at once", "requests/s", "wait p50 (ms)", "server µs", "here µs"))
    each_row(lambda server, at_once: measure_limits(server, asked, at_once), asked.at_once)


def each_row(
    row_of: Callable[[Server, int], Coroutine[Any, Any, list[str]]], counts: Sequence[int]
) -> None:
    """Measure on each server that there is."""
    for name in programs():
        with tempfile.TemporaryDirectory() as folder, running(name, Path(folder)) as server:
            for count in counts:
                row = asyncio.run(row_of(server, count))
                print("|", " | ".join([name, *row]), "|", flush=True)


if __name__ == "__main__":
    main()

"""Sends one streaming request again and again, so many at a time, until it is terminated.

    python flood.py HOST PORT CONCURRENCY < REQUEST

A process of its own, because its many readers would hold up the threads of whoever measures beside
it. Prints "flooding" once twice the concurrency was answered, and at the end, as JSON, how many
seconds passed between the first and the last token of each answer.
"""

import asyncio
import json
import signal
import sys
import time


async def ask(host: str, port: int, request: bytes) -> float:
    """Seconds from the first event of one answer to its last."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    arrived = []
    async for line in reader:
        if line.startswith(b"data: {"):
            arrived.append(time.perf_counter())
    writer.close()
    return arrived[-1] - arrived[0]


async def main() -> None:
    """Until SIGTERM."""
    host, port, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    request = sys.stdin.buffer.read()
    spans: list[float] = []
    begun = 2 * concurrency

    async def work() -> None:
        while True:
            spans.append(await ask(host, port, request))
            if len(spans) == begun:
                sys.stdout.write("flooding\n")
                sys.stdout.flush()

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    ended = asyncio.create_task(over.wait())
    await asyncio.wait([ended, *workers], return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        if worker.done():
            worker.result()  # raises: a request failed
    json.dump(spans[begun:], sys.stdout)
    for worker in workers:
        worker.cancel()


asyncio.run(main())

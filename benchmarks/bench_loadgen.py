"""How much load one core of `fairlane bench` can make, and how late it reads, as a Markdown table.

A server in another process writes the same chunk to every open stream `--rate` times a second, so
that nearly all of the work measured is the client's. With two cores or more, client and server are
kept on one each. The client keeps up while it reads tokens well before the next ones come; the row
says whether `fairlane bench` would have warned.
"""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks import chosen, parser
from fairlane.loadgen.clients import identities
from fairlane.loadgen.health import bottleneck
from fairlane.loadgen.prompts import token_prompts
from fairlane.loadgen.send import OpenLoop
from fairlane.loadgen.server import Server, open_session
from fairlane.workloads import TracedRequest

PROMPT_LEN = 256
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1, "model": "m"}


def event(value: str) -> bytes:
    """One server-sent event as one chunk of a chunked body."""
    data = f"data: {value}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(finish: str | None) -> bytes:
    """A chunk with one token."""
    choice = {"index": 0, "text": " hello", "logprobs": None, "finish_reason": finish}
    return event(json.dumps({**TOKEN, "choices": [choice]}))


def closing(tokens: int) -> bytes:
    """The last token, the counts and the end of the body."""
    counts = {"prompt_tokens": PROMPT_LEN, "completion_tokens": tokens}
    usage = event(json.dumps({**TOKEN, "choices": [], "usage": counts}))
    return token("length") + usage + event("[DONE]") + b"0\r\n\r\n"


class Streams(asyncio.Protocol):
    """One connection; `live` maps all of them to the tokens they still get."""

    live: dict["Streams", int] = {}  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.live.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Open a stream once a whole request is there."""
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if separator and len(body) >= int(length):
            self.received = b""
            self.tokens = json.loads(body)["max_tokens"]
            self.live[self] = self.tokens
            self.transport.write(HEAD)


async def serve(started: Connection, rate: float) -> None:
    """Write a token to every stream, `rate` times a second."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Streams, "127.0.0.1", 0)
    started.send(server.sockets[0].getsockname()[1])
    due = loop.time()
    while True:
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())
        for stream, left in list(Streams.live.items()):
            stream.transport.write(token(None) if left > 1 else closing(stream.tokens))
            Streams.live[stream] = left - 1
            if left == 1:
                del Streams.live[stream]


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that and has several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def run_server(started: Connection, rate: float) -> None:
    """What the other process does; it says its port when it listens."""
    pin(0)
    asyncio.run(serve(started, rate))


@contextmanager
def server(rate: float) -> Iterator[str]:
    """The address of a server in another process."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(theirs, rate), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


async def measure(url: str, requests_per_s: float, tokens: int, seconds: float) -> list[str]:
    """Send at this rate for so long; a row of the table."""
    workload = [
        TracedRequest(i, str(i % 8), i / requests_per_s, PROMPT_LEN, tokens)
        for i in range(int(requests_per_s * seconds))
    ]
    named = identities((request.client for request in workload), model="m")
    loop = OpenLoop(Server.at(url), workload, named, token_prompts(0), timeout_s=600, drain_s=0)
    cpu, begin = time.process_time(), time.monotonic()
    async with open_session() as http:
        sent = await loop.run(http)
    cpu, wall = time.process_time() - cpu, time.monotonic() - begin
    done = [record for record in sent.records if record.outcome == "finished"]
    delivered = sum(record.output_len for record in done)
    in_flight = sum(record.latency_s or 0.0 for record in done) / wall
    report = loop.health.report()
    return [
        f"{requests_per_s:g}", f"{len(done)}/{len(workload)}", f"{in_flight:.0f}",
        f"{delivered / wall:,.0f}", f"{cpu / wall:.0%}", f"{cpu / delivered * 1e6:.0f}",
        *(f"{report[name] * 1e3:.1f}" for name in ("send_lag_p99_s", "loop_lag_p99_s")),
        "yes" if bottleneck(report) else "no",
    ]  # fmt: skip


def main() -> None:
    """Measure the rates that were asked for."""
    options = parser(__doc__)
    options.add_argument("--rate", type=float, default=20.0, help="tokens a second and stream")
    options.add_argument("--tokens", type=int, default=128, help="of each request")
    options.add_argument("--seconds", type=float, default=15.0, help="of each row")
    options.add_argument(
        "--requests", type=float, nargs="+", default=[10, 30, 60, 90, 120], help="a second"
    )
    asked = chosen(options, tokens=4, seconds=0.5, requests=[20])
    columns = ("requests/s", "finished", "streams", "tokens/s", "core", "µs a token",
               "send lag p99 (ms)", "loop lag p99 (ms)", "warned")  # fmt: skip
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    pin(1)
    for requests_per_s in asked.requests:
        with server(asked.rate) as url:
            row = asyncio.run(measure(url, requests_per_s, asked.tokens, asked.seconds))
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()

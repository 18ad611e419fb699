"""How much load one core of `fairlane bench` can make, and how late it reads, as a Markdown table.

A server in another process writes the same chunk to every open stream `--rate` times a second, so
that nearly all of the work measured is the client's. With two cores or more, client and server are
kept on one each. The client keeps up while it reads tokens well before the next ones come; the row
says whether `fairlane bench` would have warned.
"""

import asyncio
import time

from benchmarks import chosen, parser
from benchmarks.fake_engine import PROMPT_LEN, pin, server
from fairlane.loadgen.clients import identities
from fairlane.loadgen.health import bottleneck
from fairlane.loadgen.prompts import token_prompts
from fairlane.loadgen.send import OpenLoop
from fairlane.loadgen.server import Server, open_session
from fairlane.workloads import TracedRequest


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
        with server(asked.rate, core=0) as url:
            row = asyncio.run(measure(url, requests_per_s, asked.tokens, asked.seconds))
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()

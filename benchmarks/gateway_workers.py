"""How much more a gateway takes with more workers: `fairlane gateway --workers N`.

One process decides and N pass bytes, before an engine that makes bytes and no tokens; a client in
this process asks over 64 connections for each worker, as fast as it is answered, and then has 500
streams of 20 tokens a second flow for each. CPU is user and system time, of all processes and of
the one that decides alone, whose part of a chunk is with the opening of the streams. Engine and
client take a core each, so it needs N + 3 cores; with fewer the rows say little.

`python -m benchmarks.gateway_workers`; `--workers 1,2,4`, `--seconds`.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import uvloop

from benchmarks import chosen, fake_engine, parser
from benchmarks.bench_gateway import raise_files, table
from benchmarks.gateway_load import calm, closed_loop, streams
from benchmarks.gateway_peers import Gateway, fairlane

CONNECTIONS = 64
STREAMS = 500
RATE = 20.0
COLUMNS = (
    ("requests/s", "requests_s", ",.0f"),
    ("CPU a request (µs)", "request_us", ",.0f"),
    ("of which decides (µs)", "decides_request_us", ",.0f"),
    ("chunks/s wanted", "wanted_s", ",.0f"),
    ("chunks/s", "chunks_s", ",.0f"),
    ("CPU a chunk (µs)", "chunk_us", ",.1f"),
    ("of which decides (µs)", "decides_chunk_us", ",.1f"),
    ("memory (MB)", "mb", ",.0f"),
    ("failed", "failed", ",.0f"),
)


async def measured(gateway: Gateway, workers: int, seconds: float) -> Mapping[str, float]:
    """One row."""
    await closed_loop(gateway, workers * CONNECTIONS, seconds)  # the window grows
    before = gateway.own_cpu_s()
    asked = await closed_loop(gateway, workers * CONNECTIONS, seconds)
    decides_request = (gateway.own_cpu_s() - before) / (asked["requests_s"] * seconds)
    await calm(gateway)
    before = gateway.own_cpu_s()
    flowed = await streams(gateway, workers * STREAMS, seconds)
    decides_chunk = (gateway.own_cpu_s() - before) / (flowed["chunks_s"] * seconds)
    return {
        **asked, **flowed, "failed": asked["failed"] + flowed["failed"],
        "wanted_s": workers * STREAMS * RATE, "mb": gateway.memory_mb(),
        "decides_request_us": decides_request * 1e6, "decides_chunk_us": decides_chunk * 1e6,
    }  # fmt: skip


def main() -> None:
    """Measure what was asked for."""
    options = parser(__doc__)
    options.add_argument("--workers", default="1,2,4", help="how many, each in turn")
    options.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    asked = chosen(options, workers="2", seconds=0.5)
    counts = [int(count) for count in asked.workers.split(",")]
    raise_files(4 * max(counts) * STREAMS)
    rows = {}
    for workers in counts:
        with tempfile.TemporaryDirectory() as folder, fake_engine.server(RATE) as engine:
            site = fairlane(
                engine, Path(folder) / "fairlane", window=workers * STREAMS, workers=workers
            )
            with site as gateway:
                told = uvloop.run(measured(gateway, workers, asked.seconds))
                rows["1, in the same process" if workers == 1 else str(workers)] = [told]
    table(COLUMNS, rows)


if __name__ == "__main__":
    main()

"""What the gateway costs, beside nginx, which only passes bytes, and LiteLLM.

One engine that makes bytes and no tokens is behind all; client, engine and gateways share the
machine, so what counts are ratios of what was measured in turn: all gateways in each round, medians
of the rounds. CPU is user and system time of a gateway's processes; memory counts shared pages in
parts (PSS). A p50 that is "added" is beyond that of direct connections in the same round. Chunks
come one by one to each stream, as an engine's steps bring them. LiteLLM is measured as far as it
keeps up. nginx is measured where it is installed; LiteLLM is installed by pip, as it comes, in a
folder of its own in the user's cache. The second table has what we want, met or not.

Then requests of 1,000 tenants wait, ten of each, and are asked again as they are answered, while
further tenants come with one request each; the window is fixed, at 200. A wave is the time in which
the window's requests are replaced once: a newcomer should not wait longer. The row of `fcfs` shows
what the same newcomers wait in an unfair order. At last 5,000 streams of ten tokens flow at once,
one token a second each.

`python -m benchmarks.bench_gateway`; `--peers`, `--rounds`, `--seconds`, `--json` and more.
"""

import json
import resource
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from statistics import median

import uvloop

from benchmarks import chosen, fake_engine, parser
from benchmarks.gateway_crowds import connections, waiting
from benchmarks.gateway_load import calm, closed_loop, open_loop, streams
from benchmarks.gateway_peers import PEERS, Gateway, Missing, fairlane

CONNECTIONS = 64
RATES = (50, 200)  # requests a second
RATE = 20.0  # tokens a second of each stream
STREAMS = (100, 250)
Row = Mapping[str, float]
Rounds = Mapping[str, Sequence[Row]]  # by gateway

# -- side by side -----------------------------------------------------------------------------


async def one_round(gateways: Sequence[Gateway], seconds: float) -> dict[str, dict[str, float]]:
    """Each measurement with each gateway in turn; the engine itself comes first."""
    rows: dict[str, dict[str, float]] = {gateway.name: {} for gateway in gateways}
    for gateway in gateways:
        rows[gateway.name] |= await closed_loop(gateway, CONNECTIONS, seconds)
    quick = [gateway for gateway in gateways if gateway.name != "litellm"]
    for rate, some in zip(RATES, (gateways, quick), strict=True):
        for gateway in some:
            told = await open_loop(gateway, rate, seconds)
            rows[gateway.name][f"p50_{rate}_ms"] = told["p50_ms"]
            rows[gateway.name][f"added_{rate}_ms"] = (
                told["p50_ms"] - rows["direct"][f"p50_{rate}_ms"]
            )
            rows[gateway.name]["failed"] += told["failed"]
    for count, some in zip(STREAMS, (gateways, quick), strict=True):
        for gateway in some[1:]:
            told = await streams(gateway, count, seconds)
            rows[gateway.name][f"chunk_{count}_us"] = told["chunk_us"]
            rows[gateway.name][f"chunks_{count}_s"] = told["chunks_s"]
            rows[gateway.name]["failed"] += told["failed"]
            await calm(gateway)
    for gateway in gateways[1:]:
        rows[gateway.name]["loaded_mb"] = gateway.memory_mb()
    return rows


def side_by_side(peers: Sequence[str], rounds: int, seconds: float) -> Rounds:
    """What was measured in each round."""
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        engine = life.enter_context(fake_engine.server(RATE))
        gateways = [Gateway("direct", int(engine.rpartition(":")[2]), [""])]
        gateways.append(life.enter_context(fairlane(engine, folder / "fairlane")))
        for peer in peers:
            try:
                gateways.append(life.enter_context(PEERS[peer](engine, folder / peer)))
            except Missing as error:
                print(f"Without {peer}: {error}\n", flush=True)
        rest = {gateway.name: gateway.memory_mb() for gateway in gateways}
        found: dict[str, list[Row]] = {gateway.name: [] for gateway in gateways}
        for gateway in gateways:  # windows and pools of connections grow
            uvloop.run(closed_loop(gateway, CONNECTIONS, seconds))
        for _ in range(rounds):
            for name, row in uvloop.run(one_round(gateways, seconds)).items():
                found[name].append({**row, "rest_mb": rest[name]})
        # the engine itself costs nothing, as it is no gateway
        found["direct"] = [
            {what: row[what] for what in row if row[what]} for row in found["direct"]
        ]
        return found


def ratio(found: Rounds, above: str, below: str, what: str) -> float:
    """The median of the rounds' ratios of two gateways."""
    pairs = zip(found[above], found[below], strict=True)
    return median(one[what] / other[what] for one, other in pairs if other[what])


# -- many at once -----------------------------------------------------------------------------


def crowd_waits(scheduler: str, tenants: int, window: int, seconds: float) -> Row:
    """Ten requests of each tenant wait, under this scheduler."""
    newcomers = round(20 * seconds)
    with tempfile.TemporaryDirectory() as folder, fake_engine.server(RATE) as engine:
        site = fairlane(
            engine, Path(folder) / "fairlane", tenants=1 + tenants + newcomers,
            scheduler=scheduler, window=window,
        )  # fmt: skip
        with site as gateway:
            return uvloop.run(waiting(gateway, 10, window, seconds, newcomers))


def crowd_flows(count: int, tokens: int) -> Row:
    """So many streams at once, of so many tokens, one a second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_engine.server(1.0) as engine,
        fairlane(engine, Path(folder) / "fairlane", window=count) as gateway,
    ):
        return uvloop.run(connections(gateway, count, tokens))


# -- what is printed --------------------------------------------------------------------------

COLUMNS = (
    ("requests/s", "requests_s", ",.0f"),
    ("CPU a request (µs)", "request_us", ",.0f"),
    ("p50 added at 50/s (ms)", "added_50_ms", ".2f"),
    ("at 200/s", "added_200_ms", ".2f"),
    ("CPU a chunk (µs) at 2,000/s", "chunk_100_us", ",.1f"),
    ("at 5,000/s", "chunk_250_us", ",.1f"),
    ("memory at rest (MB)", "rest_mb", ",.0f"),
    ("after load", "loaded_mb", ",.0f"),
    ("failed", "failed", ",.0f"),
)
WAITING = (
    ("wait at once", "held", ",.0f"),
    ("answered", "answered", ",.0f"),
    ("lost", "lost", ",.0f"),
    ("a wave (s)", "wave_s", ".2f"),
    ("newcomer's first token, p50 (s)", "p50_s", ".2f"),
    ("p99 (s)", "p99_s", ".2f"),
    ("memory (MB)", "mb", ",.0f"),
)
FLOWING = (
    ("finished", "finished", ",.0f"),
    ("lost", "lost", ",.0f"),
    ("all flow after (s)", "all_flow_s", ".1f"),
    ("CPU a chunk, opening and end included (µs)", "chunk_us", ".1f"),
    ("memory at rest (MB)", "rest_mb", ",.0f"),
    ("while they flow", "mb", ",.0f"),
)


def table(columns: Sequence[tuple[str, str, str]], found: Mapping[str, Sequence[Row]]) -> None:
    """Medians of rounds, in Markdown."""
    print("| |", " | ".join(name for name, _, _ in columns), "|")
    print("|---" + "|---:" * len(columns) + "|")
    for name, rounds in found.items():
        cells = [name]
        for _, what, form in columns:
            seen = [row[what] for row in rounds if what in row]
            cells.append(format(median(seen), form) if seen else "–")
        print("|", " | ".join(cells), "|")
    print(flush=True)


def show_targets(found: Rounds) -> None:
    """What is wanted of Fairlane, and whether that is so."""
    ours = {what: median(row[what] for row in found["fairlane"]) for what in found["fairlane"][0]}
    wanted = [
        ("requests/s at 64 connections", ours["requests_s"], 2000.0, inf),
        *((f"p50 added at {rate}/s (ms)", ours[f"added_{rate}_ms"], -inf, 1.0) for rate in RATES),
        ("memory at rest (MB)", ours["rest_mb"], 0.0, 60.0),
    ]
    for name, what, most, least in (
        ("CPU a request", "request_us", 10.0, 80.0),
        ("CPU a chunk", "chunk_100_us", 3.0, 40.0),
    ):
        if "nginx" in found:
            times = ratio(found, "fairlane", "nginx", what)
            wanted.append((f"{name}, times nginx's", times, 0.0, most))
        if "litellm" in found:
            times = ratio(found, "litellm", "fairlane", what)
            wanted.append((f"{name}, LiteLLM's is times ours", times, least, inf))
    print("| | wanted | measured | met |\n|---|---:|---:|---|")
    for name, value, least, most in wanted:
        limit = f"at most {most:,g}" if most < inf else f"at least {least:,g}"
        print(f"| {name} | {limit} | {value:,.2f} | {'yes' if least <= value <= most else 'no'} |")
    print(flush=True)


def main() -> None:
    """Measure what was asked for."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended, it ends what it started
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options.add_argument("--peers", default="nginx,litellm", help="of these; '' for none")
    options.add_argument("--only", choices=("peers", "crowds"), help="one half of it")
    options.add_argument("--tenants", type=int, default=1000, help="who have requests waiting")
    options.add_argument("--window", type=int, default=200, help="requests of theirs that run")
    options.add_argument("--streams", type=int, default=5000, help="at once")
    options.add_argument("--tokens", type=int, default=10, help="of each stream, one a second")
    options.add_argument("--json", type=Path, help="where all rounds are kept")
    asked = chosen(
        options, rounds=1, seconds=0.5, peers="", tenants=20, window=50, streams=50, tokens=2
    )
    raise_files(max(10 * asked.tenants, 2 * asked.streams) + 1000)
    kept: dict[str, Mapping[str, object]] = {}
    if asked.only != "crowds":
        found = side_by_side([n for n in asked.peers.split(",") if n], asked.rounds, asked.seconds)
        table(COLUMNS, found)
        show_targets(found)
        kept["side by side"] = found
    if asked.only != "peers":
        crowds = {
            name: [crowd_waits(name, asked.tenants, asked.window, 2 * asked.seconds)]
            for name in ("vtc", "fcfs")
        }
        table(WAITING, crowds)
        flows = {f"{asked.streams:,} streams": [crowd_flows(asked.streams, asked.tokens)]}
        table(FLOWING, flows)
        kept |= {"waiting": crowds, "flowing": flows}
    if asked.json is not None:
        asked.json.write_text(json.dumps(kept, indent=1))


def raise_files(wanted: int) -> None:
    """Let this process and those that it starts open as many files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        print(f"{wanted:,} open files are needed and {hard:,} are allowed: raise `ulimit -Hn`\n")


if __name__ == "__main__":
    main()

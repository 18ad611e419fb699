"""Compare vLLM servers on one machine: the stock scheduler beside fair ones, in alternating runs.

    python tools/server_pairs.py --model MODEL --servers stock,vtc --pairs 6 \
        --load 64:256:128:256 --load 256:128:128:1024 --output runs.jsonl -- VLLM OPTIONS

All servers are started together (give each its part of the GPU's memory in VLLM OPTIONS) and
stay up; loads go to one at a time, in turn, every second round in reverse. So what drifts, drifts
for all. A load is CONCURRENCY:INPUT:OUTPUT:REQUESTS, closed loop with two clients that are both
always backlogged; RATE@INPUT:OUTPUT:REQUESTS is open loop with Poisson arrivals. `stock` is
vLLM as it comes; `stock2` the same once more, for the noise; every other name is a scheduler of
`fairlane schedulers`. One JSON line a run is appended as it ends, so nothing is lost by a cut.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

PLUGIN = "fairlane.engines.vllm"
HEADER = "x-fairlane-client"
KEY = secrets.token_urlsafe(32)  # of a gateway, which may name its clients in HEADER
CONFIG = """tenants = "tenants.toml"
[scheduler]
name = "{name}"
[metrics]
public = true
"""


@dataclass
class Server:
    """One running vLLM."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Load:
    """What is sent to a server."""

    concurrency: int  # 0: open loop
    rate: float
    prompt: int
    output: int
    requests: int
    text: str

    @classmethod
    def parse(cls, text: str) -> "Load":
        """From CONCURRENCY:INPUT:OUTPUT:REQUESTS or RATE@INPUT:OUTPUT:REQUESTS."""
        rate, at, rest = text.rpartition("@")
        *first, prompt, output, requests = (int(part) for part in rest.split(":"))
        concurrency = 0 if at else first[0]
        return cls(concurrency, float(rate or 0), prompt, output, requests, text)


@dataclass
class Answers:
    """Times of the requests of one load, in seconds."""

    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0


def start(name: str, port: int, folder: Path, arguments: argparse.Namespace) -> Server:
    """Start a server; its log is NAME.log in `folder`."""
    environment = dict(os.environ)
    root = environment.get("VLLM_CACHE_ROOT")
    if root and port != arguments.port:  # compile caches must not be shared while they are made
        own = f"{root}-{port}"
        subprocess.run(["cp", "-r", root, own], check=False)
        environment["VLLM_CACHE_ROOT"] = own
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", arguments.model, "--served-model-name", "m", "--port", str(port)]
    command += ["--no-enable-prefix-caching", *arguments.vllm]
    if not name.startswith("stock"):
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(name=name))
        environment["FAIRLANE_CONFIG"] = str(config)
        command += ["--scheduler-cls", f"{PLUGIN}.scheduler", "--middleware", f"{PLUGIN}.identity"]
    log = (folder / f"{name}.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return Server(name, port, process)


def wait(server: Server, limit_s: float) -> None:
    """Until the server answers. Raises RuntimeError when it ends or takes too long."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with {server.process.returncode}: see its log")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=2):
                print(f"{server.name} is up after {time.monotonic() - begin:.0f} s", flush=True)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{server.name} was not up after {limit_s:.0f} s: see its log")


async def send(session: aiohttp.ClientSession, url: str, load: Load, i: int, out: Answers) -> None:
    """One streaming request of client a or b."""
    rng = random.Random(i)
    body = {
        "model": "m",
        "prompt": [rng.randrange(3, 30_000) for _ in range(load.prompt)],
        "max_tokens": load.output,
        "min_tokens": load.output,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin = time.perf_counter()
    first = last = 0.0
    tokens = 0
    headers = {HEADER: "ab"[i % 2], "Authorization": f"Bearer {KEY}"}
    async with session.post(f"{url}/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:
            out.failed += 1
            print("error", response.status, (await response.text())[:200], flush=True)
            return
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            if b'"usage":{' in line or b'"usage": {' in line:
                event = json.loads(line[6:])
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                if not event.get("choices"):
                    continue
            last = time.perf_counter()
            first = first or last
    out.tokens += tokens
    out.ttft.append(first - begin)
    out.tpot.append((last - first) / max(1, tokens - 1))


async def drive(url: str, load: Load) -> tuple[Answers, float]:
    """All requests of a load; their answers and the wall time."""
    out = Answers()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    rng = random.Random(1)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begin = time.perf_counter()
        if load.concurrency:
            left = iter(range(load.requests))

            async def worker() -> None:
                for i in left:
                    await send(session, url, load, i, out)

            await asyncio.gather(*(worker() for _ in range(load.concurrency)))
        else:
            tasks = []
            for i in range(load.requests):
                tasks.append(asyncio.create_task(send(session, url, load, i, out)))
                await asyncio.sleep(rng.expovariate(load.rate))
            await asyncio.gather(*tasks)
        return out, time.perf_counter() - begin


def measure(server: Server, load: Load, pair: int) -> dict[str, Any]:
    """Send a load and sum it up."""
    answers, wall = asyncio.run(drive(server.url, load))
    ttft = np.percentile(answers.ttft or [0.0], [50, 99])
    tpot = np.percentile(answers.tpot or [0.0], [50, 99])
    return {
        "server": server.name,
        "load": load.text,
        "pair": pair,
        "wall_s": round(wall, 4),
        "output_tokens_per_s": round(answers.tokens / wall, 2),
        "output_tokens": answers.tokens,
        "failed": answers.failed,
        "ttft_p50_s": round(float(ttft[0]), 5),
        "ttft_p99_s": round(float(ttft[1]), 5),
        "tpot_p50_s": round(float(tpot[0]), 6),
        "tpot_p99_s": round(float(tpot[1]), 6),
    }


def run(servers: list[Server], loads: list[Load], arguments: argparse.Namespace) -> None:
    """All pairs; stops early when the time is up."""
    begin = time.monotonic()
    with open(arguments.output, "a", encoding="utf-8") as rows:
        for load in loads:  # to warm up, and not counted
            for server in servers:
                short = Load(load.concurrency, load.rate, load.prompt, 16, 64, load.text)
                measure(server, short, -1)
        for pair in range(arguments.pairs):
            for load in loads:
                for server in servers if pair % 2 == 0 else reversed(servers):
                    if time.monotonic() - begin > arguments.limit:
                        print("time is up", flush=True)
                        return
                    row = measure(server, load, pair)
                    print(json.dumps(row), flush=True)
                    rows.write(json.dumps(row) + "\n")
                    rows.flush()


def summarise(path: str) -> None:
    """Throughput of each server relative to `stock` in the same pair: median and range."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    by_pair = {(r["load"], r["pair"], r["server"]): r["output_tokens_per_s"] for r in rows}
    for load, server in dict.fromkeys((r["load"], r["server"]) for r in rows):
        ratios = [
            rate / by_pair[load, pair, "stock"]
            for (a_load, pair, name), rate in by_pair.items()
            if (a_load, name) == (load, server) and (load, pair, "stock") in by_pair
        ]
        if server != "stock" and ratios:
            low, middle, high = np.percentile(ratios, [0, 50, 100])
            print(f"{load} {server}/stock {middle:.4f} [{low:.4f}, {high:.4f}] in {len(ratios)}")


def main() -> None:
    """Runs everything and stops the servers, whatever happens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--servers", default="stock,vtc")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--load", action="append", default=[])
    parser.add_argument("--output", default="runs.jsonl")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--start-limit", type=float, default=240.0)
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for all runs")
    parser.add_argument("--then", help="a shell command to run at the end, with the servers up")
    parser.add_argument("vllm", nargs="*", help="options of vLLM, after --")
    arguments = parser.parse_args()
    folder = Path(arguments.output).resolve().parent
    os.environ["FAIRLANE_GATEWAY_KEY"] = KEY  # for what --then runs
    add = [sys.executable, "-m", "fairlane", "tenants", "add", "gateway", "--role", "gateway"]
    (folder / "tenants.toml").unlink(missing_ok=True)
    subprocess.run(
        [*add, "--key-from-stdin", "--file", str(folder / "tenants.toml")],
        input=KEY.encode(), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    servers: list[Server] = []
    try:
        for i, name in enumerate(arguments.servers.split(",")):
            servers.append(start(name, arguments.port + i, folder, arguments))
        for server in servers:
            wait(server, arguments.start_limit)
        run(servers, [Load.parse(text) for text in arguments.load], arguments)
        summarise(arguments.output)
        if arguments.then:
            subprocess.run(arguments.then, shell=True, check=False)
    finally:
        for server in servers:
            server.process.terminate()
        for server in servers:
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()


if __name__ == "__main__":
    main()

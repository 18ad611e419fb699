"""Compare vLLM servers on one machine: the stock scheduler beside fair ones, in alternating runs.

    python -m tools.server_pairs --model MODEL --servers stock,vtc --pairs 6 \
        --load 64:256:128:256 --load 256:128:128:1024 --output runs.jsonl -- VLLM OPTIONS

All servers are started together (give each its part of the GPU's memory in VLLM OPTIONS) and
stay up; loads go to one at a time, in turn, every second round in reverse. So what drifts, drifts
for all. A load is CONCURRENCY:INPUT:OUTPUT:REQUESTS, closed loop with two clients that are both
always backlogged; RATE@INPUT:OUTPUT:REQUESTS is open loop with Poisson arrivals. `stock` is
vLLM as it comes; `stock2` the same once more, for the noise; every other name is a scheduler of
`fairlane schedulers`. One JSON line a run is appended as it ends, so nothing is lost by a cut.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tools.server_modes import Load, measure, prepare, relative_rates, stop, wait

PLUGIN = "fairlane.engines.vllm"
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


def run(servers: list[Server], loads: list[Load], arguments: argparse.Namespace) -> None:
    """All pairs; stops early when the time is up."""
    begin = time.monotonic()
    with open(arguments.output, "a", encoding="utf-8") as rows:
        for load in loads:  # to warm up, and not counted
            for server in servers:
                short = Load(load.concurrency, load.rate, load.prompt, 16, 64, load.text)
                measure(server.url, short)
        for pair in range(arguments.pairs):
            for load in loads:
                for server in servers if pair % 2 == 0 else reversed(servers):
                    if time.monotonic() - begin > arguments.limit:
                        print("time is up", flush=True)
                        return
                    row = {"server": server.name, "pair": pair} | measure(server.url, load)
                    print(json.dumps(row), flush=True)
                    rows.write(json.dumps(row) + "\n")
                    rows.flush()


def summarise(path: str) -> None:
    """Throughput of each server relative to `stock` in the same pair: median and range."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for load, server, ratios in relative_rates(rows, "server", "pair", "stock"):
        if server != "stock":
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
    prepare(folder)  # its key and clients.toml are for what --then runs, too
    servers: list[Server] = []
    try:
        for i, name in enumerate(arguments.servers.split(",")):
            servers.append(start(name, arguments.port + i, folder, arguments))
        for server in servers:
            wait(server.name, server.process, server.url, arguments.start_limit)
        run(servers, [Load.parse(text) for text in arguments.load], arguments)
        summarise(arguments.output)
        if arguments.then:
            subprocess.run(arguments.then, shell=True, check=False)
    finally:
        stop([server.process for server in servers])


if __name__ == "__main__":
    main()

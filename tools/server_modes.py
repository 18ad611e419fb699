"""Measure schedulers on one vLLM server that changes between them (switching.py).

    python -m tools.server_modes --model MODEL --plan plan.toml --output FOLDER -- VLLM OPTIONS

A plan names modes, as switching.py takes them, and says what is sent to which:

    [modes.stock]
    [modes.vtc]
    scheduler = { name = "vtc" }
    running = 64
    [[pairs]]                        # short loads, every mode in turn, round by round
    modes = ["stock", "vtc"]
    loads = ["64:256:128:256"]
    rounds = 10
    [[suites]]                       # of `fairlane bench`, once for every mode
    suite = "overload"
    label = "hurried"                # files are LABEL-MODE.jsonl; by default the suite's name
    modes = ["stock", "vtc"]
    options = ["--rate-scale", "1.2", "--time-scale", "0.1"]

A load is CONCURRENCY:INPUT:OUTPUT:REQUESTS, closed loop with two clients that are both always
backlogged; RATE@INPUT:OUTPUT:REQUESTS is open loop with Poisson arrivals. Every second round runs
the modes in reverse, so what drifts, drifts for all. A label that ends in .2 is of the same runs
once more. FOLDER gets server.json, what it was measured on; runs.jsonl, one row a load as it ends,
with the scheduler's own time per step; LABEL-MODE.jsonl and LABEL-MODE.steps.jsonl of every suite;
the server's log. Nothing is lost by a cut, and --limit ends it in time.

With --num-adapters 50 the server has LoRA adapters of random weights, adapter-0 to adapter-49, for
suites with the option `--client-model adapter-{client}`.
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
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import tomlkit

from fairlane.engines.vllm.adapters import ADAPTER, adapter_options

HEADER = "x-fairlane-client"
GATEWAY_KEY = "FAIRLANE_GATEWAY_KEY"
CLIENTS = 50  # of the suites
MODEL = "m"  # the name that the server gives it
WARM_UP = "64:256:32:256"


@dataclass(frozen=True)
class Load:
    """What is sent to a server."""

    concurrency: int  # 0: open loop
    rate: float
    prompt: int
    output: int
    requests: int
    text: str
    model: str = MODEL

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


# -- the load ---------------------------------------------------------------------------------


async def send(session: aiohttp.ClientSession, url: str, load: Load, i: int, out: Answers) -> None:
    """One streaming request of client a or b."""
    rng = random.Random(i)
    body = {
        "model": load.model,
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
    headers = {HEADER: "ab"[i % 2], "Authorization": f"Bearer {os.environ[GATEWAY_KEY]}"}
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


def measure(url: str, load: Load) -> dict[str, Any]:
    """Send a load and sum it up."""
    answers, wall = asyncio.run(drive(url, load))
    ttft = np.percentile(answers.ttft or [0.0], [50, 99])
    tpot = np.percentile(answers.tpot or [0.0], [50, 99])
    return {
        "load": load.text,
        "wall_s": round(wall, 4),
        "output_tokens_per_s": round(answers.tokens / wall, 2),
        "output_tokens": answers.tokens,
        "failed": answers.failed,
        "ttft_p50_s": round(float(ttft[0]), 5),
        "ttft_p99_s": round(float(ttft[1]), 5),
        "tpot_p50_s": round(float(tpot[0]), 6),
        "tpot_p99_s": round(float(tpot[1]), 6),
    }


# -- the server -------------------------------------------------------------------------------


class Server:
    """One vLLM that switches."""

    def __init__(self, folder: Path, model: str, port: int, options: list[str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._modes: dict[str, Any] = {}
        config = folder / "server.toml"
        config.write_text('tenants = "tenants.toml"\n')
        here = str(Path(__file__).resolve().parent)
        environment = os.environ | {
            "FAIRLANE_CONFIG": str(config),
            "SWITCH_FILE": str(folder / "mode"),
            "SWITCH_LOGS": str(folder),
            "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
        }
        several = "--api-server-count" in options
        how = ["cli.main", "serve"] if several else ["openai.api_server", "--model"]
        command = [sys.executable, "-m", f"vllm.entrypoints.{how[0]}", how[1], model]
        command += ["--served-model-name", MODEL, "--port", str(port), "--no-enable-prefix-caching"]
        command += ["--scheduler-cls", "switching.scheduler", "--middleware", "switching.Switch"]
        log = (folder / "server.log").open("wb")
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )

    def wait(self, limit_s: float) -> None:
        """Until it answers. Raises RuntimeError when it ends or takes too long."""
        begin = time.monotonic()
        while time.monotonic() - begin < limit_s:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with {self.process.returncode}: see server.log"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    print(f"server is up after {time.monotonic() - begin:.0f} s", flush=True)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"the server was not up after {limit_s:.0f} s: see server.log")

    def switch(self, mode: dict[str, Any]) -> dict[str, Any]:
        """Change the scheduler; tells of the steps before. Raises RuntimeError while it is busy."""
        asked = urllib.request.Request(f"{self.url}/switch", json.dumps(mode).encode())
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                told: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"the server did not switch: {error}") from error
        return told

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


# -- a plan -----------------------------------------------------------------------------------


class Plan:
    """What is measured, in order; see the module."""

    def __init__(
        self, text: str, server: Server, adapters: int, folder: Path, limit_s: float
    ) -> None:
        self._plan = tomllib.loads(text)
        self._server = server
        self._adapters = adapters
        self._folder = folder
        self._end = time.monotonic() + limit_s

    def run(self) -> None:
        """Everything, until the time is up."""
        self._warm_up()
        for part in self._plan.get("pairs", []):
            self._pairs(part)
        for part in self._plan.get("suites", []):
            for mode in part["modes"]:
                self._suite(part, mode)
        self._server.switch(self._mode("stock"))

    def _warm_up(self) -> None:
        """A server's first seconds are slow, and adapters are loaded when first asked for."""
        measure(self._server.url, Load.parse(WARM_UP))
        for n in range(self._adapters):
            measure(self._server.url, Load(1, 0.0, 16, 1, 1, WARM_UP, ADAPTER.format(n)))

    def _mode(self, name: str, log: str | None = None, label: str = "") -> dict[str, Any]:
        given: dict[str, Any] = self._plan["modes"].get(name, {})
        return {"name": name, "scheduler": None, "log": log, "label": label} | given

    def _left(self, needed_s: float) -> bool:
        if time.monotonic() + needed_s <= self._end:
            return True
        print("time is up", flush=True)
        return False

    def _pairs(self, part: dict[str, Any]) -> None:
        modes, url = part["modes"], self._server.url
        loads = [Load.parse(text) for text in part["loads"]]
        for number in range(part["rounds"]):
            for load in loads:
                for name in modes if number % 2 == 0 else reversed(modes):
                    if not self._left(part.get("seconds", 20)):
                        return
                    self._server.switch(self._mode(name, part.get("log", "times")))
                    row = {"mode": name, "round": number} | measure(url, load)
                    row |= self._server.switch(self._mode(name))
                    print(json.dumps(row), flush=True)
                    with (self._folder / "runs.jsonl").open("a", encoding="utf-8") as rows:
                        rows.write(json.dumps(row) + "\n")

    def _suite(self, part: dict[str, Any], mode: str) -> None:
        if not self._left(part.get("seconds", 90)):
            return
        suite, options = part["suite"], part.get("options", [])
        label = f"{part.get('label', suite)}-{mode}"
        output = self._folder / f"{label}.jsonl"
        self._server.switch(self._mode(mode, "full", label))
        command = [sys.executable, "-m", "fairlane", "bench", suite, "--server", self._server.url]
        command += ["--clients", str(self._folder / "clients.toml"), "--json"]
        if "--client-model" not in options:
            command += ["--model", MODEL]
        begin = time.monotonic()
        done = subprocess.run(
            [*command, "--output", str(output), *options], capture_output=True, check=False
        )
        told = self._server.switch(self._mode(mode)) | {"wall_s": time.monotonic() - begin}
        (self._folder / f"{label}.log").write_bytes(done.stdout + done.stderr)
        print(f"== {label} rc {done.returncode} {json.dumps(told)}", flush=True)
        (self._folder / f"{label}.steps.json").write_text(json.dumps(told))


def relative_rates(
    rows: Sequence[Mapping[str, Any]], bases: Collection[str]
) -> Iterator[tuple[str, str, list[float]]]:
    """(load, mode, its throughput over that of the base in each round), where there is any.

    The base of a round is the mean of the modes `bases` in it.
    """
    rates: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        rates.setdefault((row["load"], row["round"]), {})[row["mode"]] = row["output_tokens_per_s"]
    for load, mode in dict.fromkeys((row["load"], row["mode"]) for row in rows):
        ratios = []
        for (of, _), found in rates.items():
            base = [found[name] for name in bases if name in found]
            if of == load and mode in found and base:
                ratios.append(found[mode] / (sum(base) / len(base)))
        if ratios:
            yield load, mode, ratios


def summarise(path: Path) -> None:
    """Throughput of each mode relative to the first in the same round: median and range."""
    if not path.exists():
        return
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = rows[0]["mode"]
    for load, mode, ratios in relative_rates(rows, [first]):
        if mode != first:
            low, middle, high = np.percentile(ratios, [0, 50, 100])
            error = np.std(ratios, ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
            print(
                f"{load} {mode}/{first} median {middle:.4f} [{low:.4f}, {high:.4f}] "
                f"mean {np.mean(ratios):.4f} +- {error:.4f} in {len(ratios)}"
            )


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is measured on."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", card]
    try:
        hardware = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        hardware = "CPU"
    return {
        "hardware": hardware,
        "engine": f"vLLM {version('vllm')}",
        "served_model": Path(arguments.model).name,
        "adapters": arguments.num_adapters,
        "vllm_options": " ".join(arguments.vllm),
        "command": f"tools/server_modes.py --plan {arguments.plan.name}",
    }


def prepare(folder: Path) -> None:
    """A gateway's key, and a clients file of the suites."""
    os.environ[GATEWAY_KEY] = key = secrets.token_urlsafe(32)
    (folder / "tenants.toml").unlink(missing_ok=True)
    add = [sys.executable, "-m", "fairlane", "tenants", "add", "gateway", "--role", "gateway"]
    subprocess.run(
        [*add, "--key-from-stdin", "--file", str(folder / "tenants.toml")],
        input=key.encode(), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    clients = {
        str(n): {"key_env": GATEWAY_KEY, "headers": {HEADER: f"c{n}"}} for n in range(CLIENTS)
    }
    (folder / "clients.toml").write_text(tomlkit.dumps({"clients": clients}))


def parser_of_runs(document: str | None, port: int, of_whom: str) -> argparse.ArgumentParser:
    """Options of each tool that starts something, runs a plan and leaves its results in a folder.

    port: by default, and of whom it is.
    """
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--port", type=int, default=port, help=of_whom)
    parser.add_argument("--start-limit", type=float, default=240.0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for all, the start in")
    return parser


def main() -> None:
    """Runs everything and stops the server, whatever happens."""
    parser = parser_of_runs(__doc__, 8000, "of the server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--num-adapters", type=int, default=0, help="LoRA adapters of the server")
    parser.add_argument("vllm", nargs="*", help="options of vLLM, after --")
    arguments = parser.parse_args()
    begin = time.monotonic()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.json").write_text(json.dumps(describe(arguments), indent=2) + "\n")
    if arguments.num_adapters:
        arguments.vllm += adapter_options(Path(arguments.model), arguments.num_adapters)
    prepare(folder)
    server = Server(folder, arguments.model, arguments.port, arguments.vllm)
    try:
        server.wait(arguments.start_limit)
        left = arguments.limit - (time.monotonic() - begin)
        adapters = arguments.num_adapters
        Plan(arguments.plan.read_text(), server, adapters, folder, left).run()
        summarise(folder / "runs.jsonl")
    finally:
        server.stop()


if __name__ == "__main__":
    main()

"""Measure the gateway before an engine beside that engine alone, on one warm server.

    python -m tools.gateway_runs --plan plan.toml --output FOLDER --engine URL -- COMMAND

COMMAND starts the engine, an OpenAI-compatible server at URL. The gateway runs in a process of its
own. A plan says what is sent, in order; every load goes to the engine alone (`direct`) and through
the gateway (`gateway`), in turn, every second round in reverse:

    [load]                           # of all closed and open loops
    prompt = 256
    output = [64, 192]               # drawn evenly, the same in every run
    vocabulary = 30000               # of the model, or less
    [[steps]]
    kind = "cold"                    # through the gateway alone, from its first request on
    clients = 96
    seconds = 20
    [[steps]]
    kind = "closed"                  # so many clients, each with a request at a time
    clients = 96
    seconds = 12
    skip = 3                         # seconds that do not count
    rounds = 5
    [[steps]]
    kind = "open"                    # Poisson arrivals
    load = 0.7                       # of what the engine alone did in the closed loops before
    seconds = 12
    skip = 3
    rounds = 3
    [[steps]]
    kind = "suite"                   # of `fairlane bench`
    suite = "overload"
    options = ["--time-scale", "0.1"]
    rounds = 1
    needs = 70                       # seconds of a run, by which it is left out when time runs out

FOLDER gets about.json, runs.jsonl (one row a run as it ends), polls.jsonl (what waits where, twice
a second), SUITE.ROUND-MODE.jsonl of the suites, the logs of engine and gateway. Nothing is lost by
a cut, and --limit ends it in time. Rates count an answer's tokens as evenly spread from its first
to its last.
"""

import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from tools.server_modes import GATEWAY_KEY, HEADER, MODEL, parser_of_runs, prepare

from fairlane.gateway.signals import from_metrics

GATEWAY, DIRECT = "gateway", "direct"
POLL_S = 0.5  # of the gateway
SCRAPE_S = 1.0  # of an engine alone: as often as the gateway asks it
WARM_UP_S = 4.0
PACKAGES = ("uvicorn", "httptools", "uvloop", "aiohttp")
_TICK = os.sysconf("SC_CLK_TCK")


# -- one load ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Tokens of a request, and how long a load is sent and from when it counts, in seconds."""

    prompt: int
    output: tuple[int, int]
    vocabulary: int
    seconds: float
    skip: float


@dataclass
class Answer:
    """One request that was answered; seconds since the load began."""

    sent: float
    first: float
    last: float
    tokens: int

    def within(self, begin: float, end: float) -> float:
        """Tokens that came between these times."""
        if self.last <= self.first:
            return self.tokens if begin <= self.first < end else 0.0
        part = min(end, self.last) - max(begin, self.first)
        return self.tokens * max(0.0, part) / (self.last - self.first)


@dataclass
class Sender:
    """Sends requests of a shape to a server."""

    url: str
    shape: Shape
    session: aiohttp.ClientSession
    begin: float = field(default_factory=time.perf_counter)
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def closed(self, clients: int) -> None:
        """Each client sends its next request when the last is answered, until time is up."""
        numbers = iter(range(1_000_000))

        async def work() -> None:
            while time.perf_counter() - self.begin < self.shape.seconds:
                await self._send(next(numbers))

        await asyncio.gather(*(work() for _ in range(clients)))

    async def open(self, rate: float) -> None:
        """Requests leave at random times, whatever the server does."""
        rng, at = random.Random(1), 0.0
        tasks: list[asyncio.Task[None]] = []
        while at < self.shape.seconds:
            await asyncio.sleep(self.begin + at - time.perf_counter())
            tasks.append(asyncio.create_task(self._send(len(tasks))))
            at += rng.expovariate(rate)
        await asyncio.gather(*tasks)

    def name(self, number: int) -> str:
        """Whose request it is."""
        return "ab"[number % 2]

    def seed(self, number: int) -> int | str:
        """Of a request's lengths and words."""
        return number

    async def _send(self, number: int) -> None:
        rng = random.Random(self.seed(number))
        output = rng.randint(*self.shape.output)
        body = {
            "model": MODEL,
            "prompt": [rng.randrange(3, self.shape.vocabulary) for _ in range(self.shape.prompt)],
            "max_tokens": output, "min_tokens": output, "ignore_eos": True, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = {HEADER: self.name(number), **_key()}
        sent = time.perf_counter() - self.begin
        first, last, tokens, said = 0.0, 0.0, 0, b""
        try:
            where = f"{self.url}/v1/completions"
            async with self.session.post(where, json=body, headers=headers) as response:
                if response.status != 200:
                    raise OSError(f"{response.status} {(await response.text())[:200]}")
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    said = line
                    if b'"choices":[]' in line:
                        tokens = json.loads(line[6:])["usage"]["completion_tokens"]
                        continue
                    last = time.perf_counter() - self.begin
                    first = first or last
            if tokens != output:
                raise OSError(f"{tokens} of {output} tokens: {said[:150]!r}")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            self.failures.append(f"{type(error).__name__} {error}"[:200])
            await asyncio.sleep(0.1)
            return
        self.answers.append(Answer(sent, first, last, tokens))


async def _drive(url: str, shape: Shape, clients: int, rate: float) -> tuple[Sender, float]:
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        sender = Sender(url, shape, session)
        await (sender.closed(clients) if clients else sender.open(rate))
        return sender, time.perf_counter() - sender.begin


def measure(url: str, shape: Shape, *, clients: int = 0, rate: float = 0.0) -> dict[str, Any]:
    """Send a closed loop of so many clients, or an open one at a rate, and sum it up."""
    busy = time.process_time()
    sender, wall = asyncio.run(_drive(url, shape, clients, rate))
    begin, end = shape.skip, shape.seconds
    counted = [a for a in sender.answers if begin <= a.sent < end]
    ttft = [a.first - a.sent for a in counted] or [0.0]
    tpot = [(a.last - a.first) / max(1, a.tokens - 1) for a in counted] or [0.0]
    ended = sum(begin <= a.last < end for a in sender.answers)
    tokens = sum(a.within(begin, end) for a in sender.answers)
    return {
        "wall_s": round(wall, 3),
        "output_tokens_per_s": round(tokens / (end - begin), 2),
        "requests_per_s": round(ended / (end - begin), 3),
        "answered": len(sender.answers),
        "output_tokens": sum(a.tokens for a in sender.answers),
        "failed": len(sender.failures),
        "failures": sender.failures[:3],
        "client_cpu_share": round((time.process_time() - busy) / wall, 4),
        "ttft_s": [round(float(x), 5) for x in np.percentile(ttft, [50, 90, 99])],
        "tpot_s": [round(float(x), 6) for x in np.percentile(tpot, [50, 90, 99])],
    }  # fmt: skip


# -- the processes ----------------------------------------------------------------------------


def ask(url: str, limit_s: float = 5.0) -> bytes:
    """What a server answers to GET. Raises OSError."""
    asked = urllib.request.Request(url, headers=_key())
    with urllib.request.urlopen(asked, timeout=limit_s) as answer:
        content: bytes = answer.read()
        return content


def _key() -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ[GATEWAY_KEY]}"}


class Process:
    """A server in a process of its own, its log beside the results."""

    def __init__(
        self, name: str, command: list[str], url: str, folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self._name = name
        log = (folder / f"{name}.log").open("ab")
        more = os.environ | (environment or {})
        self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=more)

    def wait(self, limit_s: float) -> float:
        """Until it answers; the seconds it took. Raises RuntimeError."""
        begin = time.monotonic()
        while time.monotonic() - begin < limit_s:
            if self._process.poll() is not None:
                raise RuntimeError(f"the {self._name} ended: see {self._name}.log")
            try:
                ask(f"{self.url}/health")
                return time.monotonic() - begin
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the {self._name} was not up after {limit_s:.0f} s")

    def cpu_s(self) -> float:
        """Processor time so far, user and system; 0 where this is not told."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory_mb(self) -> float:
        """Resident memory; 0 where this is not told."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Poller:
    """Writes down what waits where, while something is sent."""

    def __init__(self, path: Path, engine: str, gateway: str) -> None:
        self._path, self._engine, self._gateway = path, engine, gateway

    def follow(self, mode: str, run: str, stop: threading.Event) -> None:
        """Until told to stop; times are seconds since it began."""
        begin = time.monotonic()
        pause = POLL_S if mode == GATEWAY else SCRAPE_S
        with self._path.open("a", encoding="utf-8") as rows:
            while not stop.is_set():
                try:
                    seen = self._gateway_seen() if mode == GATEWAY else self._engine_seen()
                except (OSError, ValueError, LookupError) as error:
                    seen = {"error": str(error)[:100]}
                row = {"run": run, "at": round(time.monotonic() - begin, 2), **seen}
                rows.write(json.dumps(row) + "\n")
                stop.wait(pause)

    def _gateway_seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(ask(f"{self._gateway}/fairlane/upstreams"))
        return {k: v for k, v in seen["upstreams"][0].items() if k not in ("upstream", "models")}

    def _engine_seen(self) -> dict[str, Any]:
        load = from_metrics(ask(f"{self._engine}/metrics").decode())
        return {
            "engine_running": load and load.running,
            "engine_waiting": load and load.waiting,
        }


def about(engine: str, plan: Path, command: list[str]) -> dict[str, Any]:
    """What is measured on."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        hardware = told.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        hardware = "CPU"
    try:
        engine_version = json.loads(ask(f"{engine}/version"))["version"]
    except (OSError, ValueError, LookupError):
        engine_version = "?"
    return {
        "hardware": hardware,
        "cores": os.cpu_count(),
        "engine": engine_version,
        "engine_command": " ".join(command),
        "command": f"tools/gateway_runs.py --plan {plan.name}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# -- a plan -----------------------------------------------------------------------------------


class Campaign:
    """Everything that a plan says; see the module."""

    def __init__(
        self, plan: dict[str, Any], folder: Path, engine: Process, port: int, limit_s: float
    ) -> None:
        self._plan, self._folder, self._engine = plan, folder, engine
        self._end = time.monotonic() + limit_s
        self._urls = {DIRECT: engine.url, GATEWAY: f"http://127.0.0.1:{port}"}
        self._poller = Poller(folder / "polls.jsonl", engine.url, self._urls[GATEWAY])
        config = folder / "fairlane.toml"
        config.write_text(
            'tenants = "tenants.toml"\n[metrics]\npublic = true\n'
            f'[upstreams.engine]\nurl = "{engine.url}"\n'
        )
        command = [sys.executable, "-m", "fairlane", "gateway", "--config", str(config)]
        command += ["--port", str(port)]
        self._warm_up()
        self._gateway = Process(GATEWAY, command, self._urls[GATEWAY], folder)
        self._rates: list[float] = []

    def run(self) -> None:
        """All steps, until the time is up."""
        try:
            self._gateway.wait(60)
            for step in self._plan["steps"]:
                for number in range(step.get("rounds", 1)):
                    modes = [DIRECT, GATEWAY] if number % 2 == 0 else [GATEWAY, DIRECT]
                    for mode in [GATEWAY] if step["kind"] == "cold" else modes:
                        self._one(step, number, mode)
        finally:
            self._gateway.stop()

    def _one(self, step: dict[str, Any], number: int, mode: str) -> None:
        kind = step["kind"]
        name = step["suite"] if kind == "suite" else kind
        needs = step.get("needs", step.get("seconds", 0.0) + 10)
        if time.monotonic() + needs > self._end:
            print(f"time is up: {name} {mode} {number} left out", flush=True)
            return
        cpu, begin, stop = self._gateway.cpu_s(), time.monotonic(), threading.Event()
        run = f"{name}.{number}-{mode}"
        follower = threading.Thread(target=self._poller.follow, args=(mode, run, stop))
        follower.start()
        try:
            told = self._suite(step, run, mode) if kind == "suite" else self._load(step, mode)
        except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            told = {"error": str(error)[:300]}  # the next one may go well
        finally:
            stop.set()
            follower.join()
        wall = time.monotonic() - begin
        spent = self._gateway.cpu_s() - cpu
        row = {"step": name, "round": number, "mode": mode, **told}
        if mode == GATEWAY:
            row |= {
                "gateway_cpu_s": round(spent, 2), "gateway_cpu_share": round(spent / wall, 4),
                "gateway_memory_mb": round(self._gateway.memory_mb(), 1),
            }  # fmt: skip
        print(json.dumps(row), flush=True)
        with (self._folder / "runs.jsonl").open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")

    def _warm_up(self) -> None:
        """A server's first seconds are slow."""
        most = max(step.get("clients", 8) for step in self._plan["steps"])
        measure(self._engine.url, self._shape({"seconds": WARM_UP_S}), clients=most)

    def _shape(self, step: dict[str, Any]) -> Shape:
        load = self._plan["load"]
        low, high = load["output"]
        words = load.get("vocabulary", 30_000)
        return Shape(load["prompt"], (low, high), words, step["seconds"], step.get("skip", 0.0))

    def _load(self, step: dict[str, Any], mode: str) -> dict[str, Any]:
        url, shape = self._urls[mode], self._shape(step)
        if step["kind"] == "open":
            if not self._rates:
                raise RuntimeError("an open loop needs a closed one before it")
            rate = step["load"] * float(np.median(self._rates))
            return {"sent_per_s": round(rate, 3), **measure(url, shape, rate=rate)}
        found = measure(url, shape, clients=step["clients"])
        if mode == DIRECT:
            self._rates.append(2 * found["output_tokens_per_s"] / sum(shape.output))
        if not found["answered"]:
            raise RuntimeError(f"nothing was answered: {found['failures']}")
        return {"clients": step["clients"], **found}

    def _suite(self, step: dict[str, Any], run: str, mode: str) -> dict[str, Any]:
        output = self._folder / f"{run}.jsonl"
        command = [sys.executable, "-m", "fairlane", "bench", step["suite"]]
        command += ["--server", self._urls[mode], "--model", MODEL, "--output", str(output)]
        command += ["--clients", str(self._folder / "clients.toml"), "--json"]
        left = self._end - time.monotonic()
        done = subprocess.run(
            [*command, *step.get("options", [])], capture_output=True, check=False, timeout=left
        )
        output.with_suffix(".log").write_bytes(done.stdout + done.stderr)
        told: dict[str, Any] = {"status": done.returncode}
        if mode == GATEWAY:
            seen = json.loads(ask(f"{self._urls[GATEWAY]}/fairlane/tenants"))
            told["auditor"] = {k: v for k, v in seen.items() if k != "clients"}
        return told


def main() -> None:
    """Runs everything and stops what it started, whatever happens."""
    parser = parser_of_runs(__doc__, 8000, "of the gateway")
    parser.add_argument("--engine", default="http://127.0.0.1:8001", help="where it will answer")
    parser.add_argument("engine_command", nargs="+", help="what starts the engine, after --")
    arguments = parser.parse_args()
    begin = time.monotonic()
    folder: Path = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = tomllib.loads(arguments.plan.read_text(encoding="utf-8"))
    prepare(folder)
    engine = Process("engine", arguments.engine_command, arguments.engine, folder)
    try:
        print(f"the engine is up after {engine.wait(arguments.start_limit):.0f} s", flush=True)
        facts = about(arguments.engine, arguments.plan, arguments.engine_command)
        (folder / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
        left = arguments.limit - (time.monotonic() - begin)
        Campaign(plan, folder, engine, arguments.port, left).run()
    finally:
        engine.stop()


if __name__ == "__main__":
    main()

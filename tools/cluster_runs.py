"""Measure replicas that share their charges beside replicas that do not, behind uneven placement.

    python -m tools.cluster_runs --plan plan.toml --output FOLDER --gpus -- COMMAND

COMMAND starts one replica, an OpenAI-compatible server of vLLM with Fairlane's two options. In it
{port} is its port and {replica} its number: of each mode as many are started as the plan says, and
each gets FAIRLANE_CONFIG and, with --gpus, the card of its number. A replica of one mode alone is
loaded at a time on a card; the modes take turns, every second round in reverse. A plan:

    replicas = 4
    weights = { a = 4.0 }
    [load]
    prompt = 256
    output = [64, 192]               # drawn evenly, the same in every run
    vocabulary = 30000
    [modes.independent]
    [modes.shared.cluster]           # as in the configuration; the hub's address is filled in
    every_s = 0.2
    [[steps]]
    name = "skewed"
    seconds = 25
    skip = 7                         # seconds that do not count
    rounds = 3
    clients = { a = [96, 96, 96, 96], b = [96, 0, 0, 0] }     # requests at once, at each replica
    modes = ["shared"]               # all, by default
    hub_away = [10, 16]              # seconds between which the hub is killed; it comes back empty
    beside = true                    # the modes at once, each on every other card, then swapped
    load = { output = [200, 400] }   # where it is not the plan's

FOLDER gets about.json, runs.jsonl (one row a run as it ends: service by client and replica, the
largest difference per weight, tokens a second, first-token times, the fewest requests that a client
had waiting where it sends, what part of a core each sender took), curves.jsonl (service by half
second), told.jsonl (what each replica says of itself after a run), and all logs.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import tomlkit
from tools.cluster_sums import BIN_S, curve, fewest_waiting, first_tokens, largest_difference
from tools.gateway_runs import Answer, Process, Sender, Shape, about, ask
from tools.server_modes import parser_of_runs, prepare


@dataclass
class Named(Sender):
    """Sends as one client."""

    client: str = "a"

    def name(self, number: int) -> str:
        """Always the same."""
        return self.client

    def seed(self, number: int) -> str:
        """By client: with the same lengths in the same order clients may run in step."""
        return f"{self.client} {number}"


@dataclass
class Hub:
    """A server of Redis' kind that keeps nothing on disk."""

    server: str
    port: int

    def __post_init__(self) -> None:
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command = [self.server, *options, "--appendonly", "no"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """At once, and all that it held is gone."""
        self._process.kill()
        self._process.wait()

    def be_away(self, begin: float, end: float) -> None:
        """Between these times, by the performance counter; returns at the end."""
        time.sleep(max(0.0, begin - time.perf_counter()))
        self.stop()
        time.sleep(max(0.0, end - time.perf_counter()))
        self._process = self._start()


@dataclass
class Sent:
    """What a sender brings back: answers by client, and what part of a core it took."""

    answers: dict[str, list[Answer]]
    cpu_share: float


def send(url: str, shape: Shape, loads: dict[str, int], begin: float) -> Sent:
    """Closed loops of all clients at one replica. In a process of its own."""
    busy, since = time.process_time(), time.perf_counter()

    async def drive() -> Sent:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            senders = [Named(url, shape, session, begin, client=client) for client in loads]
            await asyncio.gather(*(one.closed(loads[one.client]) for one in senders))
        failures = [failure for one in senders for failure in one.failures]
        if failures:
            print(f"{url}: {len(failures)} failed: {failures[:2]}", flush=True)
        share = (time.process_time() - busy) / (time.perf_counter() - since)
        return Sent({one.client: one.answers for one in senders}, round(share, 3))

    return asyncio.run(drive())


class Campaign:
    """Everything that a plan says; see the module."""

    def __init__(
        self, plan: dict[str, Any], folder: Path, modes: dict[str, list[Process]], hub: Hub,
        senders: Pool,
    ) -> None:  # fmt: skip
        self._plan, self._folder, self._modes = plan, folder, modes
        self._hub, self._senders = hub, senders

    def run(self, end: float) -> None:
        """All steps, until `end`, by the monotonic clock."""
        for step in self._plan["steps"]:
            for number in range(step.get("rounds", 1)):
                for loaded in self._turns(step, number):
                    if time.monotonic() + step["seconds"] + 15 > end:
                        print(f"time is up: {step['name']} {number} left out", flush=True)
                        continue
                    self._one(step, number, loaded)

    def _turns(self, step: dict[str, Any], number: int) -> list[list[str]]:
        """For each run of a round, the mode whose replica is loaded, by replica."""
        names, replicas = step.get("modes", list(self._modes)), range(self._plan["replicas"])
        if step.get("beside"):
            return [[names[(n + number) % len(names)] for n in replicas]]
        return [[name for _ in replicas] for name in (names if number % 2 == 0 else names[::-1])]

    def warm_up(self, seconds: float = 6.0) -> None:
        """Every replica's first seconds are slow."""
        step = {"seconds": seconds, "clients": {"a": [32] * self._plan["replicas"]}}
        for mode in self._modes:
            self._send(step, [mode] * self._plan["replicas"])

    def _load(self, step: dict[str, Any]) -> dict[str, Any]:
        return {**self._plan["load"], **step.get("load", {})}

    def _send(self, step: dict[str, Any], loaded: list[str]) -> list[Sent]:
        load = self._load(step)
        low, high = load["output"]
        shape = Shape(load["prompt"], (low, high), load["vocabulary"], step["seconds"], 0.0)
        begin = time.perf_counter() + 0.5  # one clock for all processes of a machine
        jobs = []
        for n, mode in enumerate(loaded):
            loads = {client: counts[n] for client, counts in step["clients"].items() if counts[n]}
            jobs.append((self._modes[mode][n].url, shape, loads, begin))
        sending = self._senders.starmap_async(send, jobs, chunksize=1)
        if "hub_away" in step:
            away, back = step["hub_away"]
            self._hub.be_away(begin + away, begin + back)
        return sending.get()

    def _one(self, step: dict[str, Any], number: int, loaded: list[str]) -> None:
        sent = self._send(step, loaded)
        for mode in dict.fromkeys(loaded):
            found = [
                one if of == mode else Sent({}, 0.0) for one, of in zip(sent, loaded, strict=True)
            ]
            self._sum_up(step, number, mode, found)

    def _sum_up(self, step: dict[str, Any], number: int, mode: str, found: list[Sent]) -> None:
        first, bins = int(step["skip"] / BIN_S), int(step["seconds"] / BIN_S)
        prompt = self._load(step)["prompt"]
        weights = self._plan.get("weights", {})
        by_client: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(bins))
        served: dict[str, list[float]] = {}
        answers: dict[str, list[Answer]] = {}
        waiting: dict[str, int] = {}
        curves = []
        for client in step["clients"]:
            of_all = [one.answers.get(client, []) for one in found]
            waiting[client] = min(
                (fewest_waiting(some, step["skip"], step["seconds"]) for some in of_all if some),
                default=0,
            )
            answers[client] = [a for some in of_all for a in some if a.sent >= step["skip"]]
            rows = [np.array(curve(some, prompt, bins)) for some in of_all]
            by_client[client] = np.sum(rows, axis=0)
            served[client] = [round(float(row[first:].sum()), 1) for row in rows]
            curves += [
                {"step": step["name"], "round": number, "mode": mode, "client": client,
                 "replica": n, "service": list(row)}
                for n, row in enumerate(rows) if row.any()
            ]  # fmt: skip
        span = (bins - first) * BIN_S
        tokens = sum(
            a.within(step["skip"], step["seconds"])
            for one in found
            for s in one.answers.values()
            for a in s
        )
        row = {
            "step": step["name"], "round": number, "mode": mode, "seconds": span,
            "output_tokens_per_s": round(tokens / span, 1),
            "service_per_s": round(sum(map(sum, served.values())) / span, 1),
            "served": served,
            "difference": round(
                largest_difference({c: x[first:] for c, x in by_client.items()}, weights), 1
            ),
            "ttft_s": {c: first_tokens(some) for c, some in answers.items() if some},
            "fewest_waiting": waiting, "sender_cpu_share": [one.cpu_share for one in found],
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        self._append("runs.jsonl", [row])
        self._append("curves.jsonl", curves)
        self._append("told.jsonl", [self._told(step["name"], number, mode)])

    def _told(self, name: str, number: int, mode: str) -> dict[str, Any]:
        seen = []
        for replica in self._modes[mode]:
            try:
                told = json.loads(ask(f"{replica.url}/fairlane/tenants"))
                seen.append({k: v for k, v in told.items() if k != "clients"})
            except (OSError, ValueError) as error:
                seen.append({"error": str(error)[:200]})
        return {"step": name, "round": number, "mode": mode, "replicas": seen}

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def start(
    plan: dict[str, Any], folder: Path, arguments: argparse.Namespace, hub: str
) -> dict[str, list[Process]]:
    """All replicas of all modes, on ports that follow each other."""
    modes: dict[str, list[Process]] = {}
    port = arguments.port
    for mode, settings in plan["modes"].items():
        config: dict[str, Any] = {
            "tenants": "tenants.toml", "weights": plan.get("weights", {}),
            "metrics": {"public": True},
        }  # fmt: skip
        if "cluster" in settings:
            config["cluster"] = {"hub": hub, "pool": mode, **settings["cluster"]}
        file = folder / f"{mode}.toml"
        file.write_text(tomlkit.dumps(config), encoding="utf-8")
        for n in range(plan["replicas"]):
            command = [
                part.replace("{port}", str(port)).replace("{replica}", str(n))
                for part in arguments.command
            ]
            environment = {"FAIRLANE_CONFIG": str(file)}
            if arguments.gpus:
                environment["CUDA_VISIBLE_DEVICES"] = str(n)
            url = f"http://127.0.0.1:{port}"
            replica = Process(f"{mode}-{n}", command, url, folder, environment)
            modes.setdefault(mode, []).append(replica)
            port += 1
    return modes


def main() -> None:
    """Starts everything, runs the plan, stops what it started, whatever happens."""
    parser = parser_of_runs(__doc__, 8100, "of the first; the hub's is before")
    parser.add_argument("--hub-server", default="valkey-server", help="or redis-server")
    parser.add_argument("--gpus", action="store_true", help="a card for each replica")
    parser.add_argument("command", nargs="+", help="what starts a replica, after --")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.limit
    folder: Path = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = tomllib.loads(arguments.plan.read_text(encoding="utf-8"))
    prepare(folder)
    hub = Hub(arguments.hub_server, arguments.port - 1)
    modes: dict[str, list[Process]] = {}
    try:
        modes = start(plan, folder, arguments, hub.url)
        for mode, replicas in modes.items():
            ups = [round(replica.wait(arguments.start_limit)) for replica in replicas]
            print(f"{mode}: up after {ups} s", flush=True)
        one = next(iter(modes.values()))[0]
        facts = about(one.url, arguments.plan, arguments.command) | {
            "command": f"tools/cluster_runs.py --plan {arguments.plan.name}",
            "replicas": plan["replicas"], "weights": plan.get("weights", {}),
        }  # fmt: skip
        (folder / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
        with multiprocessing.get_context("spawn").Pool(plan["replicas"]) as senders:
            campaign = Campaign(plan, folder, modes, hub, senders)
            campaign.warm_up()
            campaign.run(end)
    finally:
        replicas = [replica for of_mode in modes.values() for replica in of_mode]
        with ThreadPoolExecutor(len(replicas) or 1) as at_once:
            list(at_once.map(Process.stop, replicas))
        hub.stop()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

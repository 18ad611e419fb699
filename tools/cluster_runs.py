"""Measure replicas that share their charges beside replicas that do not, behind uneven placement.

    python -m tools.cluster_runs --plan plan.toml --output FOLDER --gpus -- COMMAND

COMMAND starts one replica, an OpenAI-compatible server of vLLM with Fairlane's two options. In it
{port} is its port and {replica} its number: of each mode as many are started as the plan says, and
each gets FAIRLANE_CONFIG and, with --gpus, one card of its own. Only one mode is loaded at a time;
the modes take turns, every second round in reverse. A plan:

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

FOLDER gets about.json, runs.jsonl (one row a run as it ends: service by client and replica, the
largest difference per weight, tokens a second, first-token times), curves.jsonl (service by half
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import tomlkit
from tools.gateway_runs import Answer, Process, Sender, Shape, about, ask
from tools.server_modes import prepare

BIN_S = 0.5
INPUT_PRICE, OUTPUT_PRICE = 1.0, 2.0


@dataclass
class Named(Sender):
    """Sends as one client."""

    client: str = "a"

    def name(self, number: int) -> str:
        """Always the same."""
        return self.client


def send(url: str, shape: Shape, loads: dict[str, int], begin: float) -> dict[str, list[Answer]]:
    """Closed loops of all clients at one replica; their answers. In a process of its own."""

    async def drive() -> dict[str, list[Answer]]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            senders = [Named(url, shape, session, begin, client=client) for client in loads]
            await asyncio.gather(*(one.closed(loads[one.client]) for one in senders))
        failures = [failure for one in senders for failure in one.failures]
        if failures:
            print(f"{url}: {len(failures)} failed: {failures[:2]}", flush=True)
        return {one.client: one.answers for one in senders}

    return asyncio.run(drive())


def curve(answers: list[Answer], prompt: int, bins: int) -> list[float]:
    """Service of each bin: prompts with their first token, outputs evenly from then on."""
    served = np.zeros(bins)
    for answer in answers:
        place = int(answer.first / BIN_S)
        if place < bins:
            served[place] += INPUT_PRICE * prompt
        for at in range(place, min(bins, int(answer.last / BIN_S) + 1)):
            served[at] += OUTPUT_PRICE * answer.within(at * BIN_S, (at + 1) * BIN_S)
    return [round(float(x), 1) for x in served]


def largest_difference(curves: dict[str, np.ndarray], weights: dict[str, float]) -> float:
    """Of two clients' service per weight, over any interval of what counts."""
    widest = 0.0
    for ahead in curves:
        for behind in curves:
            gap = np.cumsum(
                curves[ahead] / weights.get(ahead, 1.0) - curves[behind] / weights.get(behind, 1.0)
            )
            gap = np.concatenate([[0.0], gap])
            widest = max(widest, float(np.max(gap - np.minimum.accumulate(gap))))
    return widest


class Campaign:
    """Everything that a plan says; see the module."""

    def __init__(self, plan: dict[str, Any], folder: Path, modes: dict[str, list[Process]]) -> None:
        self._plan, self._folder, self._modes = plan, folder, modes

    def run(self, end: float) -> None:
        """All steps, until `end`, by the monotonic clock."""
        for step in self._plan["steps"]:
            for number in range(step.get("rounds", 1)):
                names = list(self._modes)
                for mode in names if number % 2 == 0 else reversed(names):
                    if time.monotonic() + step["seconds"] + 15 > end:
                        print(f"time is up: {step['name']} {mode} {number} left out", flush=True)
                        continue
                    self._one(step, number, mode)

    def warm_up(self, seconds: float = 6.0) -> None:
        """Every replica's first seconds are slow."""
        step = {"seconds": seconds, "clients": {"a": [32] * self._plan["replicas"]}}
        for mode in self._modes:
            self._send(step, mode)

    def _send(self, step: dict[str, Any], mode: str) -> list[dict[str, list[Answer]]]:
        load = self._plan["load"]
        low, high = load["output"]
        shape = Shape(load["prompt"], (low, high), load["vocabulary"], step["seconds"], 0.0)
        begin = time.perf_counter() + 1.0  # one clock for all processes of a machine
        jobs = []
        for n, replica in enumerate(self._modes[mode]):
            loads = {client: counts[n] for client, counts in step["clients"].items() if counts[n]}
            jobs.append((replica.url, shape, loads, begin))
        with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
            return pool.starmap(send, jobs)

    def _one(self, step: dict[str, Any], number: int, mode: str) -> None:
        found = self._send(step, mode)
        first, bins = int(step["skip"] / BIN_S), int(step["seconds"] / BIN_S)
        prompt = self._plan["load"]["prompt"]
        weights = self._plan.get("weights", {})
        by_client: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(bins))
        served: dict[str, list[float]] = {}
        answers: dict[str, list[Answer]] = {}
        curves = []
        for client in step["clients"]:
            of_all = [one.get(client, []) for one in found]
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
            for s in one.values()
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
            "ttft_p50_s": {
                c: round(float(np.median([a.first - a.sent for a in some])), 4)
                for c, some in answers.items() if some
            },
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hub-server", default="valkey-server", help="or redis-server")
    parser.add_argument("--gpus", action="store_true", help="a card for each replica")
    parser.add_argument("--port", type=int, default=8100, help="of the first; the hub's is before")
    parser.add_argument("--start-limit", type=float, default=240.0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for all, the start in")
    parser.add_argument("command", nargs="+", help="what starts a replica, after --")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.limit
    folder: Path = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = tomllib.loads(arguments.plan.read_text(encoding="utf-8"))
    prepare(folder)
    port = str(arguments.port - 1)
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    hub = subprocess.Popen([arguments.hub_server, *options], stdout=subprocess.DEVNULL)
    modes: dict[str, list[Process]] = {}
    try:
        modes = start(plan, folder, arguments, f"redis://127.0.0.1:{port}")
        for mode, replicas in modes.items():
            ups = [round(replica.wait(arguments.start_limit)) for replica in replicas]
            print(f"{mode}: up after {ups} s", flush=True)
        one = next(iter(modes.values()))[0]
        facts = about(one.url, arguments.plan, arguments.command) | {
            "command": f"tools/cluster_runs.py --plan {arguments.plan.name}",
            "replicas": plan["replicas"], "weights": plan.get("weights", {}),
        }  # fmt: skip
        (folder / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
        campaign = Campaign(plan, folder, modes)
        campaign.warm_up()
        campaign.run(end)
    finally:
        for replica in (replica for replicas in modes.values() for replica in replicas):
            replica.stop()
        hub.terminate()
        hub.wait()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

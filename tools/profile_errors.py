"""How far the simulated vLLM server is off: the table under "H200" in docs/reproduction.md.

    python -m tools.profile_errors FOLDER... --trace real_trace.csv [--seeds 8] [--page]
        [--leave-out REGEX] [--same-host]

Each folder is one card's, as tools/server_modes.py fills it: SUITE-MODE.jsonl, its manifest and
SUITE-MODE.steps.jsonl. Every run is simulated with its own requests and settings under several
seeds; the median and the range are compared with what was measured. Three numbers are read off the
measurement: how fast the card is beside the one that the profile was fitted on (from the steps of
all its decodes), how fast the CPU launched steps with prompts in a run, and how much longer the
first request of a run took. --same-host leaves out the second. --page brings the page up to date;
without it the table is printed.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tools.fit_profile import Steps, between_decodes, read_logs
from tools.page import fill, table

from fairlane.core.policy import Policy
from fairlane.experiments.bench import BenchSettings
from fairlane.metrics import headline
from fairlane.policies.fcfs import fcfs
from fairlane.policies.registry import create_policy
from fairlane.records import Run, read_run
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import VllmConfig
from fairlane.simulator.step_latency import StepLatency, StepSize
from fairlane.workloads.trace import TracedRequest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reproduction.md"
MARK = "h200"
LOGS = "*.steps.jsonl"
BLOCK = 16
POOLS = {"35000": 2188 * BLOCK, "65000": 4063 * BLOCK}  # of the 13b
RUNNING_7B = 64
LONGEST_TURN_S = 0.2
FAIREST = "-fairest"  # of a mode that preempts so
MINUTE_S = 5.0  # 60 s, in runs that are twelve times as fast
NAME = re.compile(r"(.+?)-(stock|lcf|vtc(?:-predict|-oracle|-fairest)?|rpm\d+)-(\d+)")
SHOWN = {
    "total_time": "total time (s)",
    "mean_first_token_latency": "mean first token latency (s)",
    "max_accumulated_service_difference": "max accumulated difference",
}


@dataclass(frozen=True)
class Case:
    """One measured run, and what it is simulated with."""

    path: Path
    suite: str
    mode: str
    profile: VllmProfile
    memory: int
    trace: str | None
    seeds: int

    @property
    def label(self) -> str:
        """As in the names of its files."""
        return self.path.stem

    def fitted(self, manifest: dict[str, Any]) -> bool:
        """Whether the profile was fitted to this run."""
        about = self.profile.provenance
        day = manifest["started_at"][:10]
        return self.label in about["fitted_on"] and day in about["measured_on"]

    def requests(self, manifest: dict[str, Any]) -> list[TracedRequest]:
        """What was sent."""
        settings = BenchSettings(
            server="", suite=manifest["suite"], trace=self.trace if manifest["trace"] else None,
            duration=manifest["duration"], rate_scale=manifest["rate_scale"],
            time_scale=manifest["time_scale"], workload_seed=manifest["workload_seed"],
        )  # fmt: skip
        return settings.requests()

    def policy(self, requests: Sequence[TracedRequest]) -> Policy[Any]:
        """A fresh scheduler."""
        limit = re.fullmatch(r"rpm(\d+)", self.mode)
        if limit:
            return create_policy("rpm", rate_limit=int(limit[1]), window_s=MINUTE_S)
        if self.mode == "vtc-oracle":
            return create_policy(self.mode, true_length=lambda r: requests[r.id].output_len)
        return fcfs() if self.mode == "stock" else create_policy(self.mode.removesuffix(FAIREST))

    def server(self, run: Run) -> VllmConfig:
        """With the delay of the first response, which the measured run is asked for."""
        profile = self.profile
        first = min(
            (r for r in run.records if r.ttft_s is not None),
            key=lambda r: r.arrival_s + (r.ttft_s or 0.0),
        )
        alone = VllmConfig(
            profile=profile, memory_tokens=self.memory, noise=profile.noise.without(),
            preemption="fairest" if self.mode.endswith(FAIREST) else "newest",
        )  # fmt: skip
        usual = simulate([TracedRequest(0, "", 0.0, first.prompt_len, 1)], fcfs(), alone)
        delay = (first.ttft_s or 0.0) - (usual.records[0].ttft_s or 0.0)
        return replace(alone, noise=profile.noise, first_prefill_delay_s=max(0.0, delay))


@dataclass(frozen=True)
class Row:
    """Measured and simulated values of the metrics of a run."""

    label: str
    fitted: bool
    measured: dict[str, float]
    simulated: dict[str, list[float]]

    def error(self, metric: str) -> float:
        """Of the median, relative."""
        return median(self.simulated[metric]) / self.measured[metric] - 1

    def inside(self, metric: str) -> bool:
        """Whether a seed gave less and one gave more."""
        values = self.simulated[metric]
        return min(values) <= self.measured[metric] <= max(values)


def cases(folder: Path, trace: str | None, seeds: int, same_host: bool) -> list[Case]:
    """All runs of a folder, which are of one model."""
    found: list[Case] = []
    logs = {log.stem.removesuffix(".steps"): read_logs([log]) for log in folder.glob(LOGS)}
    slowness = 0.0
    hosts: list[float] = []
    for path in sorted(folder.glob("*.jsonl")):
        name = NAME.fullmatch(path.stem)
        if name is None or (name[1].partition(".")[0] == "real" and trace is None):
            continue
        size = "13b" if name[3] in POOLS else "7b"
        profile = get_profile(f"h200-llama-2-{size}")
        assert isinstance(profile, VllmProfile)
        if not slowness:
            slowness = card(logs.values(), profile)
            print(f"{folder}: decodes take {slowness:.3f} times as long as in {profile.name}")
        latency = profile.latency.on_card(slowness)
        if not same_host:
            hosts.append(host(logs[path.stem], latency))
            latency = latency.on_host(hosts[-1])
        profile = replace(profile, latency=latency)
        if size == "7b":
            profile = replace(profile, max_num_seqs=RUNNING_7B)
        memory = POOLS.get(name[3], profile.memory_tokens)
        found.append(Case(path, name[1], name[2], profile, memory, trace, seeds))
    if hosts:
        print(f"{folder}: launching steps takes {min(hosts):.2f} to {max(hosts):.2f} times as long")
    return found


def card(logs: Iterable[Steps], profile: VllmProfile) -> float:
    """How many times as long decodes take on the card of these logs as in the profile."""
    gpu = profile.latency.gpu
    ratios = []
    for steps in logs:
        turns, between = between_decodes(steps)
        ratios += [
            turns[i] / 1e3 / gpu(StepSize(int(steps.decodes[i]), int(steps.context[i])))
            for i in np.flatnonzero(between)
        ]
    return float(np.median(ratios))


def host(steps: Steps, latency: StepLatency) -> float:
    """How many times as long launching took in the run of a log as in the profile.

    The answer to a decode is taken in as soon as the step after it is launched, where the engine
    needs longer for that than the GPU for the decode.
    """
    turns = np.diff(steps.u0, prepend=np.nan) / 1e3
    measured = expected = 0.0
    for i in np.flatnonzero((steps.kind == 0) & steps.follows & (turns < LONGEST_TURN_S)):
        after = steps.launches[i]
        if after < 0 or steps.kind[after] == 0:
            continue
        launched = StepSize(int(steps.decodes[after]), prefill=int(steps.prefill[after]))
        engine = latency.update(int(steps.requests[i])) + latency.schedule(launched)
        launch = latency.launch(launched, 0.5)
        if engine + launch > latency.gpu(StepSize(int(steps.decodes[i]), int(steps.context[i]))):
            measured += turns[i] - engine
            expected += launch
    return measured / expected if expected else 1.0


def compare(case: Case) -> Row:
    """Simulate a run under all its seeds."""
    run = read_run(case.path)
    requests, server = case.requests(run.manifest), case.server(run)
    values = [
        headline(simulate(requests, case.policy(requests), server, seed=seed))
        for seed in range(case.seeds)
    ]
    simulated = {name: [value[name] for value in values] for name in SHOWN}
    return Row(case.label, case.fitted(run.manifest), headline(run), simulated)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: medians first, then run by run."""
    fitted = [row for row in rows if row.fitted]
    groups = {"runs": rows}
    if fitted:
        groups |= {"held-out runs": [row for row in rows if not row.fitted], "fitted runs": fitted}
    medians, runs = [], []
    for metric, title in SHOWN.items():
        errors = [median(abs(row.error(metric)) for row in some) for some in groups.values()]
        inside = sum(row.inside(metric) for row in rows)
        medians.append([title, *(f"{e:.2%}" for e in errors), f"{inside} of {len(rows)}"])
    for row in sorted(rows, key=lambda row: row.label):
        cells = [
            f"{_number(row.measured[m])}, {_number(median(row.simulated[m]))} ({row.error(m):+.1%})"
            for m in SHOWN
        ]
        runs.append([f"`{row.label}`{' *' * row.fitted}", *cells])
    counted = [f"{len(some)} {name}" for name, some in groups.items()]
    columns = ["median error", *counted, "measured within the simulated range"]
    return f"{table(columns, medians)}\n\n{table(['run', *SHOWN.values()], runs)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    """Simulate everything, then print or replace the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--trace", help="the real trace, as CSV")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--leave-out", metavar="REGEX", help="runs whose names it is found in")
    parser.add_argument("--same-host", action="store_true", help="launching as in the profile")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    left_out = re.compile(arguments.leave_out or "(?!)")
    todo = [
        case
        for folder in arguments.folders
        for case in cases(folder, arguments.trace, arguments.seeds, arguments.same_host)
        if not left_out.search(case.label)
    ]
    with ProcessPoolExecutor(2) as pool:
        text = tables(list(pool.map(compare, todo)))
    print(text)
    if arguments.page:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), MARK, text), encoding="utf-8")


if __name__ == "__main__":
    main()

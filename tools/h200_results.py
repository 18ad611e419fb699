"""From raw measurements of tools/server_modes.py to results/h200: data, figures, tables.

    python -m tools.h200_results RAW_FOLDER... [--output results/h200] [--page docs/results.md]

Every run SUITE-MODE.jsonl becomes a compact file (times to a tenth of a millisecond, no token
times) with a manifest of what it was measured on; but not those of the real trace, whose requests
are not ours to give: of them only figures and sums are kept. The figures are the paper's, in the
paper's time: all times multiplied by what the run was hurried by. runs.jsonl (the cost of fairness)
is copied. The tables go into the page between its markers. What is already in the output folder
stays and is used, so folders may be added one by one.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tools.page import fill
from tools.server_modes import relative_rates

from fairlane import metrics
from fairlane.core.audit import service_bound
from fairlane.experiments.drawings import Box, Boxes, Curve, Drawing, Panel, write_numbers
from fairlane.experiments.figure import Ensemble, Results
from fairlane.experiments.figures import get_figures
from fairlane.experiments.panels import DIFFERENCE, difference_panel, series_colour
from fairlane.experiments.plotting import draw_page, save_page
from fairlane.experiments.samples import Sample
from fairlane.metrics import backlogged_difference, headline, summarise
from fairlane.records import RequestRecord, Run, read_run, write_jsonl

MARK = "measured tables"
REAL = "real"
LABELS = {
    "stock": "FCFS", "fcfs": "FCFS", "vtc": "VTC", "lcf": "LCF",
    "vtc-predict": "moving average", "vtc-oracle": "oracle",
}  # fmt: skip
LLAMA_13B = "overload-s4"
SERVERS: dict[str, dict[str, Any]] = {
    "7b": {"model": "Llama-2-7b, random weights, bfloat16", "running": 64, "pool": 235_712},
    "13b": {"model": "Llama-2-13b, random weights, bfloat16", "running": 256, "pool": 65_008},
}
COMMON = {
    "hardware": "one NVIDIA H200",
    "engine": "vLLM 0.25.1, 4 API servers",
    "vllm_options": "--load-format dummy --dtype bfloat16 --max-model-len 4096 "
    "--no-enable-prefix-caching --gpu-memory-utilization 0.9 --max-num-seqs 256",
    "command": "tools/server_modes.py",
}
FIGURES = {  # number: suite, labels and modes
    "fig3": ("overload", ("vtc", "stock")),
    "fig4": ("proportional", ("vtc",)),
    "fig5": ("on-off-less", ("vtc",)),
    "fig6": ("on-off-overload", ("vtc",)),
    "fig7": ("poisson-short-long", ("vtc", "stock")),
    "fig8": ("poisson-short-long-2", ("vtc", "stock")),
    "fig9": ("increase", ("vtc",)),
    "fig10": ("dist-shift", ("lcf", "vtc")),
    "fig11": (REAL, ("stock", "vtc")),
    "fig12": (REAL, ("rpm5", "rpm10", "rpm15", "rpm20", "rpm30")),
    "fig13": (REAL, ("rpm5", "rpm10", "rpm15", "rpm20", "rpm30", "vtc")),
}
BOUNDED = ("fig3", "fig7", "fig8")  # all clients wait nearly all the time
BIN = 8  # running requests
ENOUGH = 30  # steps of as many requests
OF_STEPS = ("preemptions", "decode_ms")  # in the sums, and not to be had again without the log
WARM_UP_S = 20.0  # of the paper's time, in the ablation


@dataclass(frozen=True)
class Measured:
    """One run and what is told of it. stretch: from the run's seconds to the paper's."""

    suite: str
    mode: str
    run: Run
    steps: dict[str, Any]
    log: Path  # of every step; only raw runs have one

    @property
    def is_13b(self) -> bool:
        """Whether the larger model served it."""
        return self.suite.startswith(LLAMA_13B)

    @property
    def pool(self) -> int:
        """Tokens of the larger model's KV cache, as in vtc-35000 and vtc-fairest-35000."""
        return int(self.mode.rpartition("-")[2])

    @property
    def stretch(self) -> float:
        """From the run's seconds to the paper's."""
        return 1 / float(self.run.manifest["time_scale"])

    def bound(self) -> float:
        """2U of theorem 4.4, for so many requests of the longest that run at once."""
        longest = max(r.prompt_len + r.output_len for r in self.run.records)
        if self.is_13b:
            memory = self.pool
        else:
            memory = min(SERVERS["7b"]["pool"], SERVERS["7b"]["running"] * longest)
        return service_bound(memory, max(r.prompt_len for r in self.run.records))

    def sample(self) -> Sample:
        """For a figure, in the paper's time."""
        k = self.stretch
        records = [_scaled(record, k) for record in self.run.records]
        return Sample.of(replace(self.run, records=records, total_time_s=k * self.run.total_time_s))


def _scaled(record: RequestRecord, k: float, digits: int | None = None) -> RequestRecord:
    def at(value: float | None) -> float | None:
        return None if value is None else round(k * value, digits) if digits else k * value

    return replace(
        record, arrival_s=at(record.arrival_s) or 0.0, ttft_s=at(record.ttft_s),
        latency_s=at(record.latency_s), token_times_s=None,
    )  # fmt: skip


# -- data -------------------------------------------------------------------------------------


def read(folder: Path) -> list[Measured]:
    """All runs of a folder, raw or kept."""
    found = []
    for path in sorted(folder.glob("*-*.jsonl")):
        match = re.fullmatch(r"(.+?)-((?:stock|fcfs|vtc|lcf|rpm).*)", path.stem)
        manifest = path.with_suffix(".manifest.json")
        if match is None or not manifest.exists():
            continue
        facts = json.loads(manifest.read_text())
        if "time_scale" not in facts:
            continue
        told = path.with_suffix(".steps.json")
        steps = json.loads(told.read_text()) if told.exists() else facts.get("steps", {})
        mode = match[2].removesuffix("-64")
        found.append(
            Measured(match[1], mode, read_run(path), steps, path.with_suffix(".steps.jsonl"))
        )
    return found


def keep(measured: Measured, output: Path) -> None:
    """The run as a compact file."""
    size = "13b" if measured.is_13b else "7b"
    facts = COMMON | SERVERS[size] | {"scheduler": measured.mode, "steps": measured.steps}
    if measured.is_13b:
        facts["pool"] = measured.pool
    told = {
        key: value
        for key, value in measured.run.manifest.items()
        if key not in ("server", "clients", "model")
    }
    records = [_scaled(record, 1.0, 4) for record in measured.run.records]
    run = Run({**told, **facts}, records, measured.run.total_time_s)
    write_jsonl(output / f"{measured.suite}-{measured.mode}.jsonl", run)


def sums(measured: Measured) -> dict[str, Any]:
    """What the tables show of a run; times as measured."""
    run = measured.run
    clients = summarise(run.records)
    ordered = sorted(clients, key=lambda c: (len(c.client), c.client))
    return {
        "suite": measured.suite,
        "mode": measured.mode,
        "time_scale": run.manifest["time_scale"],
        **{name: round(value, 4) for name, value in headline(run).items()},
        "difference_while_waiting": round(_difference(run), 1),
        "bound": measured.bound(),
        "median_client_ttft": round(float(np.median([c.ttft.mean for c in clients])), 4),
        "clients": {
            c.client: {
                "requests": c.requests,
                "service": round(c.service, 1),
                "ttft_mean": round(c.ttft.mean, 4),
                "ttft_p99": round(c.ttft.p99, 4),
            }
            for c in ordered[:8]
        },
        "scheduler_ms": {
            key: measured.steps[key]
            for key in ("steps", "schedule_ms", "update_ms", "scheduler_p50_ms", "span_s")
            if key in measured.steps
        },
        "auditor": measured.steps.get("observed_difference"),
    }


def _of_steps(log: Path) -> dict[str, Any]:
    """What is kept of a log of steps; nothing where there is none.

    decode_ms: (median ms from answer to answer, steps) of steps without prompts, by requests.
    """
    if not log.exists():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    preempted = sum(row.get("preempted", 0) for row in rows)
    return {"preemptions": preempted, "decode_ms": _decode_times(rows)}


def _decode_times(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    rows = [row for row in rows if "u1" in row]
    times: dict[int, list[float]] = {}
    for before, row in pairwise(rows):
        if row["decode"] and not row["prefill"]:
            first = row["decode"] // BIN * BIN
            times.setdefault(first, []).append(1000 * (row["u1"] - before["u1"]))
    return {
        str(first): [round(float(np.median(found)), 4), len(found)]
        for first, found in sorted(times.items())
        if len(found) >= ENOUGH
    }


def _difference(run: Run) -> float:
    return backlogged_difference(metrics.Table.from_records(run.records))


# -- figures ----------------------------------------------------------------------------------


def label(mode: str) -> str:
    """A mode by the name that figures use."""
    limit = re.fullmatch(r"rpm(\d+)", mode)
    return f"RPM {limit[1]}" if limit else LABELS.get(mode, mode)


def ensembles(runs: Mapping[tuple[str, str], Measured], suite: str, modes: Any) -> Results | None:
    """The series of a figure; None where a run is missing."""
    if any((suite, mode) not in runs for mode in modes):
        return None
    found = {}
    for mode in modes:
        found[label(mode)] = Ensemble(label(mode), [runs[suite, mode].sample()])
    return found


def draw(runs: Mapping[tuple[str, str], Measured], output: Path) -> list[str]:
    """Every figure whose runs are there; their names."""
    drawn = []
    for name, (suite, modes) in FIGURES.items():
        results = ensembles(runs, suite, modes)
        if results is None:
            continue
        figure = get_figures([name])[0]
        panels = figure.panels(results)
        first = runs[suite, modes[0]]
        if name in BOUNDED:
            panels = [_bounded(panel, first.bound()) for panel in panels]
        _save(name, figure.heading, panels, first, output)
        drawn.append(name)
    pools = _ablation(runs)
    if pools:
        first = next(m for m in runs.values() if m.is_13b)
        _save("fig14", "Figure 14: ablation", pools, first, output)
        drawn.append("fig14")
    return drawn


def _save(name: str, heading: str, panels: list[Drawing], of: Measured, output: Path) -> None:
    model = "Llama-2-13b" if of.is_13b else "Llama-2-7b"
    note = (
        f"measured once, sent {of.stretch:.0f} times as fast as in the paper; "
        "times are the paper's: those measured, times that factor"
    )
    page = draw_page(f"{heading}: {model} on an H200, vLLM", panels, note=note)
    save_page(page, output / f"{name}.png")
    write_numbers(output / f"{name}.csv", panels)


def _bounded(panel: Drawing, bound: float) -> Drawing:
    """A difference panel with VTC's bound as a line; any other as it is."""
    if not isinstance(panel, Panel) or panel.y_label != DIFFERENCE:
        return panel
    x = panel.curves[0].x
    line = Curve("VTC's bound", x, np.full((1, len(x)), bound), "#777777")
    return replace(panel, curves=[*panel.curves, line])


def _ablation(runs: Mapping[tuple[str, str], Measured]) -> list[Drawing]:
    """Differences by length of requests and by pool, and their distribution over time."""
    lengths = {256: LLAMA_13B, 512: f"{LLAMA_13B}-long", 768: f"{LLAMA_13B}-768"}
    found = {
        (length, pool): runs[suite, f"vtc-{pool}"]
        for length, suite in lengths.items()
        for pool in (35000, 65000)
        if (suite, f"vtc-{pool}") in runs
    }
    if not found:
        return []
    names = {key: f"{key[0]} tokens, pool {key[1]}" for key in found}
    colours = {name: series_colour(name, i) for i, name in enumerate(names.values())}
    samples = {names[key]: Ensemble(names[key], [m.sample()]) for key, m in found.items()}

    def among(keep: Callable[[tuple[int, int]], bool]) -> Results:
        return {names[key]: samples[names[key]] for key in found if keep(key)}

    def over_time(sample: Sample) -> Any:
        x = metrics.ticks(metrics.span(sample.table), 100, skip_zero=True)
        return metrics.accumulated_difference(sample.table, x, skip=WARM_UP_S)

    small = difference_panel(
        among(lambda key: key[1] == 35000), title="By length of requests, pool 35000",
        skip=WARM_UP_S, colours=colours,
    )  # fmt: skip
    large = difference_panel(
        among(lambda key: key[1] == 65000), title="By length of requests, pool 65000",
        skip=WARM_UP_S, colours=colours,
    )  # fmt: skip
    boxes = [
        Box(name, ensemble.each(over_time)[0].ravel(), colours[name], None)
        for name, ensemble in samples.items()
    ]
    return [
        _bounded(small, service_bound(35000, 1)), _bounded(large, service_bound(65000, 1)),
        Boxes("All settings", DIFFERENCE, boxes),
    ]  # fmt: skip


# -- tables -----------------------------------------------------------------------------------


def suites_table(rows: list[dict[str, Any]]) -> str:
    """One line a run."""
    lines = [
        "| suite | scheduler | all served after (s) | tokens/s | TTFT, first client (s) | last "
        "client (s) | difference while both wait | bound | scheduler, ms a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, *_, last = row["clients"].values()
        waits = f"{first['ttft_mean']:.2f} | {last['ttft_mean']:.2f}"
        bound = f"{row['bound']:,.0f}" if row["mode"].startswith("vtc") else "–"
        spent = row["scheduler_ms"].get("scheduler_p50_ms", float("nan"))
        lines.append(
            f"| {row['suite']} | {label(row['mode'])} | {row['total_time']:.1f} | "
            f"{row['throughput']:,.0f} | {'– | –' if row['suite'] == REAL else waits} | "
            f"{row['difference_while_waiting']:,.0f} | {bound} | {spent:.2f} |"
        )
    return "\n".join(lines)


def step_table(rows: list[dict[str, Any]]) -> str:
    """How much longer a decode step of as many requests takes under VTC than under stock."""
    by_key = {(row["suite"], row["mode"]): row.get("decode_ms", {}) for row in rows}
    lines = [
        "| suite | decode step, ms under FCFS | under VTC, more | steps |",
        "|---|---|---|---|",
    ]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        stock, fair = by_key.get((suite, "stock"), {}), by_key.get((suite, "vtc"), {})
        both = [(*stock[n], *fair[n]) for n in stock if n in fair]
        if both:
            count = sum(min(a, b) for _, a, _, b in both)
            usual = sum(min(a, b) * ms for ms, a, _, b in both) / count
            more = sum(min(a, b) * (other - ms) for ms, a, other, b in both) / count
            lines.append(f"| {suite} | {usual:.2f} | {more:+.3f} | {count:,} |")
    return "\n".join(lines)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """Throughput and latency of every mode relative to stock in the same round."""
    lines = [
        "| load | scheduler | output tokens/s | relative to stock, mean ± standard error | range | "
        "TTFT p50, p99 (ms) | TPOT p50, p99 (ms) | schedule() + update (ms a step) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load, mode, found in relative_rates(rows, "mode", "round", "stock"):
        here = [r for r in rows if (r["load"], r["mode"]) == (load, mode)]
        ratios = np.array(found)
        error = ratios.std(ddof=1) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0

        def middle(name: str, scale: float = 1.0, rows: Any = here) -> float:
            return scale * float(np.median([r[name] for r in rows]))

        spent = middle("schedule_ms") + middle("update_ms")
        lines.append(
            f"| {load} | {mode} | {middle('output_tokens_per_s'):,.0f} | "
            f"{ratios.mean():.4f} ± {error:.4f} | {ratios.min():.3f}–{ratios.max():.3f} | "
            f"{middle('ttft_p50_s', 1e3):.0f}, {middle('ttft_p99_s', 1e3):.0f} | "
            f"{middle('tpot_p50_s', 1e3):.2f}, {middle('tpot_p99_s', 1e3):.2f} | {spent:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Everything, from what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results/h200"))
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    new = {(m.suite, m.mode): m for folder in arguments.raw for m in read(folder)}
    for measured in new.values():
        if measured.suite != REAL:
            keep(measured, output)
    runs = {key: m for key, m in new.items() if m.suite == REAL}
    runs |= {(m.suite, m.mode): m for m in read(output)}
    path = output / "sums.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_key = {(row["suite"], row["mode"]): row for row in kept}
    for key, measured in runs.items():
        before = by_key.get(key, {})
        kept_of_steps = {name: before[name] for name in OF_STEPS if name in before}
        log = new.get(key, measured).log  # compact files have none
        by_key[key] = sums(measured) | kept_of_steps | _of_steps(log)
    ordered = [by_key[key] for key in sorted(by_key)]
    path.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    costs = [
        json.loads(line)
        for folder in arguments.raw
        if (folder / "runs.jsonl").exists()
        for line in (folder / "runs.jsonl").read_text().splitlines()
    ]
    if costs:
        text = "".join(json.dumps(row) + "\n" for row in costs)
        (output / "cost.jsonl").write_text(text)
    elif (output / "cost.jsonl").exists():
        costs = [json.loads(line) for line in (output / "cost.jsonl").read_text().splitlines()]
    print("drawn:", *draw(runs, output))
    parts = [suites_table(ordered), step_table(ordered), cost_table(costs) if costs else ""]
    tables = "\n\n".join(part for part in parts if part)
    print(tables)
    if arguments.page:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(fill(page, MARK, f"\n{tables}\n"), encoding="utf-8")


if __name__ == "__main__":
    main()

"""From raw measurements of tools/server_modes.py to results/h200: data, figures, tables.

    python -m tools.h200_results RAW_FOLDER... [--output results/h200] [--page docs/results.md]

Every run SUITE-MODE.jsonl becomes a compact file (times to a tenth of a millisecond, no token
times) with a manifest of what it was measured on; but not those of the real trace, whose requests
are not ours to give: of them only figures and sums are kept. SUITE.2-MODE.jsonl is the same once
more. The figures are the paper's, in the paper's time: all times multiplied by what the run was
hurried by; of several runs they show the median and the range. runs.jsonl (the cost of fairness)
is copied. The tables go into the page between its markers. What is already in the output folder
stays and is used, so folders may be added one by one.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tools.page import arguments, mean, read_rows, show, table, write_rows
from tools.server_modes import relative_rates

from fairlane import metrics
from fairlane.core.audit import service_bound
from fairlane.experiments.drawings import Box, Boxes, Curve, Drawing, Panel, write_numbers
from fairlane.experiments.figure import Ensemble, Results
from fairlane.experiments.figures import get_figures
from fairlane.experiments.panels import (
    DIFFERENCE,
    difference_panel,
    revision_panel,
    series_colour,
)
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
NAME = re.compile(r"(.+?)(?:\.(\d+))?-((?:stock|fcfs|vtc|lcf|rpm).*)")
LLAMA_13B = "overload-s4"
Key = tuple[str, str, int]  # suite, mode, turn
RUNNING_7B = 64
POOL_7B = 230_032  # tokens of KV cache; 64 requests never fill it
MODELS = {
    "llama7b": "Llama-2-7b, random weights, bfloat16",
    "llama13b": "Llama-2-13b, random weights, bfloat16",
}
PREDICTION = "prediction"
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
    PREDICTION: ("overload", ("vtc", "vtc-predict", "vtc-oracle")),
    "moving-average": (REAL, ("stock", "vtc", "vtc-predict", "vtc-oracle")),
}
LENGTHS = {256: LLAMA_13B, 512: f"{LLAMA_13B}-long", 768: f"{LLAMA_13B}-768"}
ABLATED = {"pool 35000": 35000, "preempting fairly": 35000, "pool 65000": 65000}
ABLATION = {
    f"{length} tokens, {what}": (suite, mode)
    for what, mode in zip(ABLATED, ("vtc-35000", "vtc-fairest-35000", "vtc-65000"), strict=True)
    for length, suite in LENGTHS.items()
}
BOUNDED = ("fig3", "fig7", "fig8")  # all clients wait nearly all the time
BIN = 8  # running requests
ENOUGH = 30  # steps of as many requests
STOCK = ("stock", "stock2")  # vLLM as it comes, twice
OF_STEPS = ("preemptions", "decode_ms")  # in the sums, and not to be had again without the log
WARM_UP_S = 20.0  # of the paper's time, in the ablation


@dataclass(frozen=True)
class Measured:
    """One run and what is told of it. turn: 1, or more where it was made again."""

    suite: str
    mode: str
    turn: int
    run: Run
    steps: dict[str, Any]
    server: dict[str, Any]  # what it was measured on
    log: Path  # of every step; only raw runs have one

    @property
    def key(self) -> Key:
        """What no other run has."""
        return self.suite, self.mode, self.turn

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
        memory = self.pool if self.is_13b else min(POOL_7B, RUNNING_7B * longest)
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


Sums = Mapping[str, Any]  # what `sums` says of a run, or a row of runs.jsonl
Runs = Mapping[tuple[str, str], Sequence[Measured]]  # suite, mode: all turns


# -- data -------------------------------------------------------------------------------------


def read(folder: Path) -> list[Measured]:
    """All runs of a folder, raw or kept."""
    found = []
    about = folder / "server.json"
    for path in sorted(folder.glob("*-*.jsonl")):
        match = NAME.fullmatch(path.stem)
        manifest = path.with_name(f"{path.stem}.manifest.json")
        if match is None or not manifest.exists():
            continue
        facts = json.loads(manifest.read_text())
        if "time_scale" not in facts:
            continue
        told = path.with_name(f"{path.stem}.steps.json")
        steps = json.loads(told.read_text()) if told.exists() else facts.get("steps", {})
        server = json.loads(about.read_text()) if about.exists() else facts
        suite, turn, mode = match[1], int(match[2] or 1), match[3].removesuffix("-64")
        log = path.with_name(f"{path.stem}.steps.jsonl")
        found.append(Measured(suite, mode, turn, read_run(path), steps, server, log))
    return found


def keep(measured: Measured, output: Path) -> None:
    """The run as a compact file."""
    server = measured.server
    facts = {name: server[name] for name in ("hardware", "engine", "vllm_options", "command")}
    facts |= {"scheduler": measured.mode, "steps": measured.steps}
    facts["model"] = MODELS[server["served_model"]]
    if measured.is_13b:
        facts["pool"] = measured.pool
    else:
        facts["running"] = RUNNING_7B
    if server["adapters"]:
        facts["adapters"] = server["adapters"]
    told = {
        key: value
        for key, value in measured.run.manifest.items()
        if key not in ("server", "clients", "model")
    }
    records = [_scaled(record, 1.0, 4) for record in measured.run.records]
    run = Run({**told, **facts}, records, measured.run.total_time_s)
    again = f".{measured.turn}" if measured.turn > 1 else ""
    write_jsonl(output / f"{measured.suite}{again}-{measured.mode}.jsonl", run)


def sums(measured: Measured) -> dict[str, Any]:
    """What the tables show of a run; times as measured."""
    run = measured.run
    clients = summarise(run.records)
    ordered = sorted(clients, key=lambda c: (len(c.client), c.client))
    return {
        "suite": measured.suite,
        "mode": measured.mode,
        "turn": measured.turn,
        "time_scale": run.manifest["time_scale"],
        **{name: round(value, 4) for name, value in headline(run).items()},
        "difference_while_waiting": round(_difference(run), 1),
        "bound": measured.bound(),
        "first_client_ttft": round(ordered[0].ttft.mean, 4),
        "last_client_ttft": round(ordered[-1].ttft.mean, 4),
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
    rows = read_rows(log)
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
    if limit:
        return f"RPM {limit[1]}"
    pool = re.fullmatch(r"vtc-(fairest-)?(\d+)", mode)
    if pool:
        return f"VTC, pool {int(pool[2]):,}{', preempting fairly' if pool[1] else ''}"
    return LABELS.get(mode, mode)


def ensembles(runs: Runs, suite: str, modes: Iterable[str]) -> Results | None:
    """The series of a figure; None where a run is missing."""
    if any((suite, mode) not in runs for mode in modes):
        return None
    return {label(mode): _ensemble(label(mode), runs[suite, mode]) for mode in modes}


def _ensemble(name: str, runs: Sequence[Measured]) -> Ensemble:
    return Ensemble(name, [measured.sample() for measured in runs])


def draw(runs: Runs, output: Path) -> list[str]:
    """Every figure whose runs are there; their names."""
    drawn = []
    for name, (suite, modes) in FIGURES.items():
        results = ensembles(runs, suite, modes)
        if results is None:
            continue
        of = [measured for mode in modes for measured in runs[suite, mode]]
        heading, panels = _page(name, results)
        if name in BOUNDED:
            panels = [_bounded(panel, of[0].bound()) for panel in panels]
        _save(name, heading, panels, of, output)
        drawn.append(name)
    if all(key in runs for key in ABLATION.values()):
        of = [measured for key in ABLATION.values() for measured in runs[key]]
        _save("fig14", "Figure 14: ablation", _ablation(runs), of, output)
        drawn.append("fig14")
    return drawn


def _page(name: str, results: Results) -> tuple[str, list[Drawing]]:
    """Heading and panels; those of the paper, but for the one that needs another suite there."""
    if name == PREDICTION:
        return "VTC with predicted output lengths", [revision_panel(results, title="Two clients")]
    figure = get_figures([name])[0]
    return figure.heading, figure.panels(results)


def _save(
    name: str, heading: str, panels: list[Drawing], of: Sequence[Measured], output: Path
) -> None:
    model = "Llama-2-13b" if of[0].is_13b else "Llama-2-7b"
    turns = [sum(other.key[:2] == m.key[:2] for other in of) for m in of]
    low, high = min(turns), max(turns)
    times = f"{high} times" if low == high > 1 else f"up to {high} times" if high > 1 else "once"
    note = (
        f"measured {times}, sent {of[0].stretch:.0f} times as fast as in the paper; "
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


def _ablation(runs: Runs) -> list[Drawing]:
    """Differences by length of requests and by pool, and their distribution over time."""
    colours = {name: series_colour(name, i) for i, name in enumerate(ABLATION)}
    samples = {name: _ensemble(name, runs[key]) for name, key in ABLATION.items()}

    def over_time(sample: Sample) -> Any:
        x = metrics.ticks(metrics.span(sample.table), 100, skip_zero=True)
        return metrics.accumulated_difference(sample.table, x, skip=WARM_UP_S)

    panels: list[Drawing] = []
    for what, pool in ABLATED.items():
        among = {name: found for name, found in samples.items() if name.endswith(what)}
        title = what if "pool" in what else f"pool {pool}, {what}"
        panel = difference_panel(
            among, title=f"By length, {title}", skip=WARM_UP_S, colours=colours
        )
        panels.append(_bounded(panel, service_bound(pool, 1)))
    boxes = [
        Box(name, found.each(over_time)[0].ravel(), colours[name], None)
        for name, found in samples.items()
    ]
    return [*panels, Boxes("All settings", DIFFERENCE, boxes)]


# -- tables -----------------------------------------------------------------------------------


def suites_table(rows: Sequence[Sums]) -> str:
    """One line for a suite and a scheduler; of several runs the medians."""
    columns = (
        "suite", "scheduler", "runs", "all served after (s)", "tokens/s", "TTFT, first client (s)",
        "last client (s)", "median client (s)", "difference while both wait, by clients",
        "by the server", "bound", "turned away", "preempted", "scheduler, ms a step",
    )  # fmt: skip
    lines = []
    for (suite, mode), turns in _by_turns(rows).items():
        waits = [
            "–" if suite == REAL else f"{_middle(turns, which):.2f}"
            for which in ("first_client_ttft", "last_client_ttft")
        ]
        lines.append([
            suite, label(mode), str(len(turns)), f"{_middle(turns, 'total_time'):.1f}",
            f"{_middle(turns, 'throughput'):,.0f}", *waits,
            f"{_middle(turns, 'median_client_ttft'):.2f}",
            f"{_middle(turns, 'difference_while_waiting'):,.0f}",
            "–" if turns[0]["auditor"] is None else f"{_middle(turns, 'auditor'):,.0f}",
            f"{turns[0]['bound']:,.0f}" if mode.startswith("vtc") else "–",
            f"{_middle(turns, 'aborted'):,.0f}", f"{_middle(turns, 'preemptions'):,.0f}",
            f"{_middle([row['scheduler_ms'] for row in turns], 'scheduler_p50_ms'):.2f}",
        ])  # fmt: skip
    return table(columns, lines, words=2)


def spread_table(rows: Sequence[Sums]) -> str:
    """What differs between runs of the same: least and most."""
    shown = {
        "total_time": ("all served after (s)", 1), "mean_first_token_latency": ("mean TTFT (s)", 2),
        "median_client_ttft": ("median client's TTFT (s)", 2),
        "difference_while_waiting": ("difference while both wait", 0),
    }  # fmt: skip
    columns = ("suite", "scheduler", "runs", *(title for title, _ in shown.values()))
    lines = [
        [
            suite, label(mode), str(len(turns)),
            *(_range([row[name] for row in turns], digits) for name, (_, digits) in shown.items()),
        ]
        for (suite, mode), turns in _by_turns(rows).items()
        if len(turns) > 1
    ]  # fmt: skip
    return table(columns, lines, words=2)


def _by_turns(rows: Sequence[Sums]) -> dict[tuple[str, str], list[Sums]]:
    found: dict[tuple[str, str], list[Sums]] = {}
    for row in rows:
        found.setdefault((row["suite"], row["mode"]), []).append(row)
    return found


def _middle(rows: Sequence[Sums], name: str) -> float:
    return float(median(row[name] for row in rows))


def _range(values: list[float], digits: int) -> str:
    low, high = (f"{value:,.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def pairs_table(rows: Sequence[Sums]) -> str:
    """VTC beside stock in the same turn: time for all, and of steps of as many requests."""
    of_vtc = {(row["suite"], row["turn"]): row for row in rows if row["mode"] == "vtc"}
    pairs: dict[str, list[tuple[Sums, Sums]]] = {}
    for row in rows:
        beside = of_vtc.get((row["suite"], row["turn"]))
        if row["mode"] == "stock" and beside:
            pairs.setdefault(row["suite"], []).append((row, beside))
    columns = (
        "suite", "all served after, VTC/FCFS", "decode step, ms under FCFS", "under VTC, more",
        "steps",
    )  # fmt: skip
    lines, every = [], []
    for suite, found in pairs.items():
        ratios = [fair["total_time"] / stock["total_time"] for stock, fair in found]
        every += ratios
        lines.append([suite, ", ".join(f"{ratio:.3f}" for ratio in ratios), *_steps(found)])
    if every:
        lines.append([f"mean of {len(every)} pairs", mean(every, 3), "", "", ""])
    return table(columns, lines)


def _steps(pairs: Sequence[tuple[Sums, Sums]]) -> tuple[str, str, str]:
    """Milliseconds of a decode step under stock, how many more under VTC, and steps compared."""
    both = [
        (ms, other, min(count, others))
        for stock, fair in pairs
        for requests, (ms, count) in stock.get("decode_ms", {}).items()
        for other, others in [fair.get("decode_ms", {}).get(requests, (0.0, 0))]
    ]
    steps = sum(count for _, _, count in both)
    if not steps:
        return "–", "–", "–"
    usual = sum(ms * count for ms, _, count in both) / steps
    more = sum((other - ms) * count for ms, other, count in both) / steps
    return f"{usual:.2f}", f"{more:+.3f}", f"{steps:,}"


def cost_table(rows: Sequence[Sums]) -> str:
    """Throughput and latency of every mode, relative to the mean of stock in the same round."""
    columns = (
        "load", "scheduler", "output tokens/s", "relative to stock, mean ± standard error", "range",
        "TTFT p50, p99 (ms)", "TPOT p50, p99 (ms)", "schedule() + update (ms a step)",
    )  # fmt: skip
    lines = []
    for load, mode, ratios in relative_rates(rows, STOCK):
        here = [r for r in rows if (r["load"], r["mode"]) == (load, mode)]
        ttft = (f"{1e3 * _middle(here, f'ttft_{p}_s'):.0f}" for p in ("p50", "p99"))
        tpot = (f"{1e3 * _middle(here, f'tpot_{p}_s'):.2f}" for p in ("p50", "p99"))
        spent = _middle(here, "schedule_ms") + _middle(here, "update_ms")
        lines.append([
            load, mode, f"{_middle(here, 'output_tokens_per_s'):,.0f}", mean(ratios, 4),
            f"{min(ratios):.3f}–{max(ratios):.3f}", ", ".join(ttft), ", ".join(tpot),
            f"{spent:.2f}",
        ])  # fmt: skip
    return table(columns, lines, words=2)


def _in_order(key: Key) -> Key:
    """To sort by: numbers in names as numbers."""
    suite, mode, turn = key
    return suite, re.sub(r"\d+", lambda digits: digits[0].zfill(6), mode), turn


def main() -> None:
    """Everything, from what is there."""
    given = arguments(__doc__, "results/h200")
    output: Path = given.output
    new = {m.key: m for folder in given.raw for m in read(folder)}
    for measured in new.values():
        if measured.suite != REAL:
            keep(measured, output)
    all_runs = {key: m for key, m in new.items() if m.suite == REAL}
    all_runs |= {m.key: m for m in read(output)}
    path = output / "sums.jsonl"
    by_key = {(row["suite"], row["mode"], row["turn"]): row for row in read_rows(path)}
    for key, measured in all_runs.items():
        before = by_key.get(key, {})
        kept_of_steps = {name: before[name] for name in OF_STEPS if name in before}
        log = new.get(key, measured).log  # compact files have none
        by_key[key] = sums(measured) | kept_of_steps | _of_steps(log)
    ordered = [by_key[key] for key in sorted(by_key, key=_in_order)]
    write_rows(path, ordered)
    costs = [row for folder in given.raw for row in read_rows(folder / "runs.jsonl")]
    if costs:
        write_rows(output / "cost.jsonl", costs)
    costs = read_rows(output / "cost.jsonl")
    runs: dict[tuple[str, str], list[Measured]] = {}
    for key in sorted(all_runs):
        runs.setdefault(key[:2], []).append(all_runs[key])
    print("drawn:", *draw(runs, output))
    parts = [suites_table(ordered), spread_table(ordered), pairs_table(ordered)]
    parts.append(cost_table(costs) if costs else "")
    tables = "\n\n".join(part for part in parts if part)
    show(tables, given.page, MARK)


if __name__ == "__main__":
    main()

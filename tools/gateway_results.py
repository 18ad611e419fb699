"""From raw measurements of tools/gateway_runs.py to results/gateway: data, figures, tables.

    python -m tools.gateway_results RAW_FOLDER... [--output results/gateway] [--page PAGE]

Rows of all folders come together, each with `at_once`, how many requests its engine runs at most.
Runs of a suite become compact files (no token times); of the real trace, whose requests are not
ours to give, only sums are kept. The tables go into the page between its markers. Without a raw
folder figures and tables are made of what is in the output folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tools.page import arguments, mean, read_rows, show, table, write_rows

from fairlane import metrics
from fairlane.experiments.drawings import Curve, Drawing, Panel
from fairlane.experiments.figure import Ensemble
from fairlane.experiments.figures import get_figures
from fairlane.experiments.plotting import draw_page, save_page
from fairlane.experiments.samples import Sample
from fairlane.metrics import backlogged_difference, headline, summarise
from fairlane.records import RequestRecord, Run, read_run, write_jsonl

MARK = "gateway tables"
REAL = "real"
MODES = {"gateway": "VTC", "direct": "FCFS"}  # whose order it is
NAME = re.compile(r"(.+)\.(\d+)-(gateway|direct)")
Row = dict[str, Any]
SHOWN = {  # of what is polled, and its colour
    "window": "#332288", "in_flight": "#88CCEE", "engine_running": "#117733",
    "engine_waiting": "#CC6677",
}  # fmt: skip


# -- data -------------------------------------------------------------------------------------


def collect(raw: Sequence[Path], output: Path) -> None:
    """Everything that is kept of raw folders."""
    abouts, runs, polls, sums = [], [], [], []
    for folder in raw:
        about = json.loads((folder / "about.json").read_text())
        at_once = int(re.search(r"--max-num-seqs (\d+)", about["engine_command"])[1])  # type: ignore[index]
        abouts.append({"at_once": at_once, **about})
        runs += [{"at_once": at_once, **row} for row in read_rows(folder / "runs.jsonl")]
        polls += [{"at_once": at_once, **row} for row in read_rows(folder / "polls.jsonl")]
        for path in sorted(folder.glob("*.jsonl")):
            match = NAME.fullmatch(path.stem)
            if match:
                run = read_run(path)
                sums.append({"at_once": at_once, **sum_up(run, match[1], match[3])})
                if match[1] != REAL:
                    keep(run, about, output / f"{match[1]}-{match[3]}.jsonl")
    (output / "manifest.json").write_text(json.dumps(abouts, indent=2) + "\n")
    write_rows(output / "runs.jsonl", runs)
    write_rows(output / "polls.jsonl", polls)
    write_rows(output / "sums.jsonl", sums)


def keep(run: Run, about: Row, path: Path) -> None:
    """A run as a compact file."""
    told = {k: v for k, v in run.manifest.items() if k not in ("server", "clients", "model")}
    facts = {name: about[name] for name in ("hardware", "engine", "engine_command", "command")}
    records = [_scaled(record, 1.0, 4) for record in run.records]
    write_jsonl(path, Run({**told, **facts}, records, run.total_time_s))


def _scaled(record: RequestRecord, k: float, digits: int = 9) -> RequestRecord:
    def at(value: float | None) -> float | None:
        return None if value is None else round(k * value, digits)

    return replace(
        record, arrival_s=at(record.arrival_s) or 0.0, ttft_s=at(record.ttft_s),
        latency_s=at(record.latency_s), token_times_s=None,
    )  # fmt: skip


def sum_up(run: Run, suite: str, mode: str) -> Row:
    """What the table shows of a run; times as measured."""
    clients = sorted(summarise(run.records), key=lambda c: (len(c.client), c.client))
    difference = backlogged_difference(metrics.Table.from_records(run.records))
    return {
        "suite": suite,
        "mode": mode,
        **{name: round(value, 4) for name, value in headline(run).items()},
        "difference_while_waiting": round(difference, 1),
        "first_client_ttft": round(clients[0].ttft.mean, 4),
        "last_client_ttft": round(clients[-1].ttft.mean, 4),
        "median_client_ttft": round(float(np.median([c.ttft.mean for c in clients])), 4),
        "service_while_sent": _service_while_sent(run),
    }


def _service_while_sent(run: Run) -> list[float]:
    """What the first and the last client were served until the last request was sent."""
    end = max(record.arrival_s for record in run.records)
    served: dict[str, float] = {}
    for r in run.records:
        part = 0.0
        if r.ttft_s is not None and r.latency_s is not None:
            flowing = max(r.latency_s - r.ttft_s, 1e-9)
            part = min(1.0, max(0.0, (end - r.arrival_s - r.ttft_s) / flowing))
            prompt = r.prompt_len if r.arrival_s + r.ttft_s <= end else 0
            served[r.client] = served.get(r.client, 0.0) + prompt + 2 * part * r.output_len
    names = sorted(served, key=lambda name: (len(name), name))
    return [round(served[names[0]], 1), round(served[names[-1]], 1)]


# -- figures ----------------------------------------------------------------------------------


def window_panels(polls: Sequence[Row]) -> list[Drawing]:
    """The window and what runs and waits, from the gateway's first request on."""
    cold = [p for p in polls if p["run"].startswith("cold.") and "window" in p]
    panels: list[Drawing] = []
    for at_once, rows in groupby(cold, key=lambda p: p["at_once"]):
        found = list(rows)
        x = np.array([row["at"] for row in found])
        curves = [
            Curve(name.replace("_", " "), x, _column(found, name), colour)
            for name, colour in SHOWN.items()
        ]
        panels.append(Panel(f"An engine of {at_once} at once", "requests", curves))
    return panels


def _column(rows: Sequence[Row], name: str) -> Any:
    values = [np.nan if row[name] is None else float(row[name]) for row in rows]
    return np.array([values])


def draw(output: Path) -> None:
    """The figures whose data is there."""
    panels = window_panels(read_rows(output / "polls.jsonl"))
    if panels:
        page = draw_page("The gateway's window, from its first request on", panels)
        save_page(page, output / "window.png")
    paths = {label: output / f"overload-{mode}.jsonl" for mode, label in MODES.items()}
    if all(path.exists() for path in paths.values()):
        results = {label: Ensemble(label, [_sample(path)]) for label, path in paths.items()}
        note = "VTC: in the gateway. FCFS: the engine alone. Times are the paper's."
        drawn = get_figures(["fig3"])[0].panels(results)
        save_page(draw_page("Two overloading clients", drawn, note=note), output / "service.png")


def _sample(path: Path) -> Sample:
    """A run in the paper's time."""
    run = read_run(path)
    k = 1 / float(run.manifest["time_scale"])
    records = [_scaled(record, k) for record in run.records]
    return Sample.of(replace(run, records=records, total_time_s=k * run.total_time_s))


# -- tables -----------------------------------------------------------------------------------


def throughput_table(runs: Sequence[Row]) -> str:
    """Each load through the gateway relative to the engine alone in the same round."""
    columns = (
        "at once", "load", "rounds", "alone, tokens/s", "gateway, tokens/s",
        "ratio, mean ± standard error", "range", "alone, TTFT p50, p99 (ms)", "gateway",
        "alone, TPOT p50, p99 (ms)", "gateway", "gateway's CPU, of a core", "µs a token",
    )  # fmt: skip
    lines = []
    loads = [row for row in runs if row["step"] in ("closed", "open") and "error" not in row]
    for (at_once, step), rows in groupby(loads, key=lambda r: (r["at_once"], r["step"])):
        found = list(rows)
        alone = {r["round"]: r for r in found if r["mode"] == "direct"}
        through = {r["round"]: r for r in found if r["mode"] == "gateway" and r["round"] in alone}
        ratios = [
            row["output_tokens_per_s"] / alone[n]["output_tokens_per_s"]
            for n, row in through.items()
        ]
        first = found[0]
        load = f"{first['clients']} clients" if step == "closed" else f"{first['sent_per_s']:.1f}/s"
        a, g = list(alone.values()), list(through.values())
        cost = [1e6 * row["gateway_cpu_s"] / row["output_tokens"] for row in g]
        lines.append([
            str(at_once), load, str(len(ratios)), f"{_middle(a, 'output_tokens_per_s'):,.0f}",
            f"{_middle(g, 'output_tokens_per_s'):,.0f}", mean(ratios),
            f"{min(ratios):.3f}–{max(ratios):.3f}", _times(a, "ttft_s", 0), _times(g, "ttft_s", 0),
            _times(a, "tpot_s", 1), _times(g, "tpot_s", 1),
            f"{_middle(g, 'gateway_cpu_share'):.2f}", f"{median(cost):.1f}",
        ])  # fmt: skip
    return table(columns, lines, words=2)


def suites_table(sums: Sequence[Row], runs: Sequence[Row]) -> str:
    """What clients got of the suites."""
    audited = {row["step"]: row.get("auditor") or {} for row in runs if row["mode"] == "gateway"}
    columns = (
        "suite", "order of", "all served after (s)", "tokens/s", "TTFT, first client (s)",
        "last client (s)", "median client (s)", "difference while both wait, by clients",
        "by the gateway", "served while sent, last/first client",
    )  # fmt: skip
    lines = []
    for row in sums:
        real = row["suite"] == REAL
        first, last = row["service_while_sent"]
        seen = audited.get(row["suite"], {}).get("observed_difference")
        who = "the gateway (VTC)" if row["mode"] == "gateway" else "the engine (FCFS)"
        lines.append([
            row["suite"], who, f"{row['total_time']:.1f}", f"{row['throughput']:,.0f}",
            "–" if real else f"{row['first_client_ttft']:.2f}",
            "–" if real else f"{row['last_client_ttft']:.2f}",
            f"{row['median_client_ttft']:.2f}", f"{row['difference_while_waiting']:,.0f}",
            "–" if row["mode"] == "direct" or seen is None else f"{seen:,.0f}",
            "–" if real else f"{last / first:.2f}",
        ])  # fmt: skip
    return table(columns, lines, words=2)


def waiting_table(polls: Sequence[Row]) -> str:
    """What ran and waited where: medians over the second half of each load's runs."""
    columns = ("at once", "load", "through", "window", "run inside", "wait inside", "wait here")
    lines = []
    seen: dict[tuple[int, str, str], list[Row]] = {}
    for key, polled in groupby(polls, key=lambda p: (p["at_once"], p["run"])):
        name, _, mode = key[1].rpartition("-")
        found = [row for row in polled if "error" not in row]
        busy = found[len(found) // 3 : -len(found) // 5 or None]  # neither begin nor end
        seen.setdefault((key[0], name.partition(".")[0], mode), []).extend(busy)
    for (at_once, load, mode), rows in sorted(seen.items(), key=lambda item: item[0]):
        lines.append([
            str(at_once), load, "the gateway" if mode == "gateway" else "nothing",
            *(_usual(rows, name) for name in
              ("window", "engine_running", "engine_waiting", "waiting_here")),
        ])  # fmt: skip
    return table(columns, lines, words=3)


def _usual(rows: Sequence[Row], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{median(values):.0f}" if values else "–"


def _middle(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(median(row[name] for row in rows))


def _times(rows: Sequence[Row], name: str, digits: int) -> str:
    return ", ".join(f"{1e3 * median(row[name][i] for row in rows):.{digits}f}" for i in (0, 2))


def main() -> None:
    """Everything, from what is there."""
    given = arguments(__doc__, "results/gateway")
    output: Path = given.output
    if given.raw:
        collect(given.raw, output)
    runs, polls = read_rows(output / "runs.jsonl"), read_rows(output / "polls.jsonl")
    draw(output)
    sums = read_rows(output / "sums.jsonl")
    parts = [throughput_table(runs), suites_table(sums, runs), waiting_table(polls)]
    tables = "\n\n".join(parts)
    show(tables, given.page, MARK)


if __name__ == "__main__":
    main()

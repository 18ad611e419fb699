"""From raw measurements of tools/cluster_runs.py to results/cluster: data, a figure, a table.

    python -m tools.cluster_results RAW_FOLDER... [--output results/cluster] [--page PAGE]

Rows of all folders come together; of curves the sums over replicas are kept, by client and second.
The table goes into the page between its markers. Without a raw folder figure and table are made
of what is in the output folder.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tools.cluster_sums import BIN_S
from tools.page import arguments, mean, read_rows, show, table, write_rows

from fairlane.experiments.drawings import Curve, Drawing, Panel
from fairlane.experiments.plotting import draw_page, save_page

MARK = "cluster table"
ALONE, SHARED = "independent", "shared"
COLOURS = (
    "#CC6677", "#332288", "#88CCEE", "#117733", "#DDCC77", "#44AA99", "#882255", "#999933",
)  # fmt: skip
DRAWN = (("skewed", ALONE), ("skewed", SHARED), ("sticky", ALONE), ("sticky", SHARED),
         ("hub lost", SHARED))  # fmt: skip
Row = dict[str, Any]


# -- data -------------------------------------------------------------------------------------


def collect(raw: Sequence[Path], output: Path) -> None:
    """Everything that is kept of raw folders. Rounds of the same step go on from folder to folder.

    Of each folder: `unit`, what a replica may be ahead for reasons of its own (U of theorem 4.4).
    """
    abouts, runs, curves = [], [], []
    for series, folder in enumerate(raw):
        alone = next(r for r in read_rows(folder / "told.jsonl") if r["mode"] == ALONE)
        about = json.loads((folder / "about.json").read_text())
        abouts.append({**about, "unit": alone["replicas"][0]["bound"] / 2})
        runs += [{"series": series, **row} for row in read_rows(folder / "runs.jsonl")]
        curves += [{"series": series, **row} for row in _by_client(folder / "curves.jsonl")]
    (output / "manifest.json").write_text(json.dumps(abouts, indent=2) + "\n")
    write_rows(output / "runs.jsonl", runs)
    write_rows(output / "curves.jsonl", curves)


def _by_client(path: Path) -> list[Row]:
    """Service by second over all replicas, for what is drawn."""
    sums: dict[tuple[str, int, str, str], Any] = {}
    for row in read_rows(path):
        if (row["step"], row["mode"]) in DRAWN:
            key = (row["step"], row["round"], row["mode"], row["client"])
            sums[key] = sums.get(key, 0.0) + np.array(row["service"])
    bins = round(1 / BIN_S)
    names = ("step", "round", "mode", "client")
    return [
        dict(zip(names, key, strict=True))
        | {"service": [round(float(x)) for x in found.reshape(-1, bins).sum(axis=1)]}
        for key, found in sums.items()
    ]


# -- figure -----------------------------------------------------------------------------------


def panels(curves: Sequence[Row], weights: Mapping[str, float]) -> list[Drawing]:
    """Service per weight since the load began, by client; bands are rounds."""
    drawn: list[Drawing] = []
    for step, mode in DRAWN:
        found = [row for row in curves if (row["step"], row["mode"]) == (step, mode)]
        lines = []
        for client, colour in zip(sorted({row["client"] for row in found}), COLOURS, strict=False):
            rows = [row["service"] for row in found if row["client"] == client]
            values = np.cumsum(np.array(rows), axis=1) / weights.get(client, 1.0) / 1000
            x = np.arange(1, values.shape[1] + 1, dtype=float)
            lines.append(Curve(client, x, values, colour))
        drawn.append(Panel(f"{step}, {mode}", "service per weight (thousands)", lines))
    return drawn


# -- table ------------------------------------------------------------------------------------


def steps_table(runs: Sequence[Row], unit: float, weights: Mapping[str, float]) -> str:
    """Each step without sharing and with. unit: U of one replica; differences are in that of all
    that were loaded.
    """
    columns = (
        "step", "charges", "rounds", "service, most : least", "per weight",
        "largest difference per weight", "in U", "output tokens/s", "shared/independent",
        "TTFT p50 (s)", "p99, worst round (s)", "fewest waiting",
    )  # fmt: skip
    lines = []
    ordered = sorted(runs, key=lambda r: (_place(runs, r["step"]), r["mode"]))
    for (step, mode), rows in groupby(ordered, key=lambda r: (r["step"], r["mode"])):
        found = list(rows)
        ratios = _ratios(runs, step) if mode == SHARED else []
        waiting = min(n for row in found for n in row["fewest_waiting"].values())
        widest = max(row["difference"] for row in found)
        served = _served(found)
        loaded = sum(map(any, zip(*found[0]["served"].values(), strict=True)))
        by_weight = {c: s / weights.get(c, 1.0) for c, s in served.items()}
        lines.append([  # no difference where a client does not wait all the time
            step, mode, str(len(found)), _most_to_least(served), _most_to_least(by_weight),
            *([f"{widest:,.0f}", f"{widest / unit / loaded:.3f}"] if waiting else ["–", "–"]),
            f"{median(row['output_tokens_per_s'] for row in found):,.0f}",
            mean(ratios, 3) if len(ratios) > 1 else "".join(f"{r:.3f}" for r in ratios) or "–",
            _times(found, 0, median), _times(found, 1, max), str(waiting),
        ])  # fmt: skip
    return table(columns, lines, words=2)


def _place(runs: Sequence[Row], step: str) -> int:
    return [row["step"] for row in runs].index(step)


def _served(rows: Iterable[Row]) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in rows:
        for client, by_replica in row["served"].items():
            total[client] = total.get(client, 0.0) + sum(by_replica)
    return total


def _most_to_least(served: Mapping[str, float]) -> str:
    most, least = max(served, key=lambda c: served[c]), min(served, key=lambda c: served[c])
    return f"{served[most] / served[least]:.2f} ({most} : {least})"


def _ratios(runs: Sequence[Row], step: str) -> list[float]:
    """Throughput with sharing by that without, of the same round."""
    rates = {
        (r["mode"], r["series"], r["round"]): r["output_tokens_per_s"]
        for r in runs
        if r["step"] == step
    }
    return [
        rate / rates[ALONE, series, number]
        for (mode, series, number), rate in rates.items()
        if mode == SHARED and (ALONE, series, number) in rates
    ]


def _times(rows: Sequence[Row], place: int, of: Callable[[list[float]], float]) -> str:
    """Over rounds, by client; of many clients the least and the greatest."""
    times = {c: of([row["ttft_s"][c][place] for row in rows]) for c in rows[0]["ttft_s"]}
    if len(times) > 2:
        return f"{min(times.values()):.1f}–{max(times.values()):.1f}"
    return ", ".join(f"{client} {seconds:.1f}" for client, seconds in times.items())


def main() -> None:
    """Everything, from what is there."""
    given = arguments(__doc__, "results/cluster")
    output: Path = given.output
    if given.raw:
        collect(given.raw, output)
    about = json.loads((output / "manifest.json").read_text())[0]
    runs, weights = read_rows(output / "runs.jsonl"), about["weights"]
    drawn = panels(read_rows(output / "curves.jsonl"), weights)
    page = draw_page("Service over all replicas", drawn, columns=2)
    save_page(page, output / "service.png")
    show(steps_table(runs, about["unit"], weights), given.page, MARK)


if __name__ == "__main__":
    main()

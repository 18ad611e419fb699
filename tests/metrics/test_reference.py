"""Every number measured on the artifact's files comes out of our metrics.

The listed values are rounded, most to 6 significant digits and the longer curves to 5, so ours
must round to them. How exactly the definitions are met is tested beside (`test_definitions.py`).
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlane import metrics
from fairlane.core.cost import QuadraticCost
from fairlane.metrics import Table
from fairlane.records import Run, read_run

Entry = dict[str, Any]
ABOUT = {  # what the list says about a file that no metric gives
    "config", "md5", "n", "figures", "revision", "sched", "epoch", "charge_on_finish",
}  # fmt: skip
TESTED = {
    "aborted", "total_time", "thr_tok_s", "thr_req_s", "ftl", "lat", "clients", "accdiff62",
    "table62", "table_rev", "table_rev_profile", "accdiff_rev", "plot62", "fig1112", "fig14",
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(reference_dir: Path) -> list[tuple[str, Entry, Run, Table]]:
    listed = json.loads((reference_dir / "metrics.json").read_text())["files"]
    found = []
    for name, entry in listed.items():
        run = read_run(reference_dir / "measured" / name)
        if "duplicate_of" not in entry:
            found.append((name, entry, run, Table.from_records(run.records)))
    assert len(found) >= 11
    return found


def agree(ours: Iterable[float], listed: Iterable[float | None], digits: int = 6) -> bool:
    """Whether ours rounds to the listed values; None is listed where there is nothing."""
    pairs = list(zip(ours, listed, strict=True))
    assert pairs
    return all(_rounds_to(value, rounded, digits) for value, rounded in pairs)


def _rounds_to(value: float, rounded: float | None, digits: int) -> bool:
    if rounded is None:
        return math.isnan(value)
    if rounded == 0:
        return abs(value) < 1e-9
    unit = 10.0 ** (math.floor(math.log10(abs(rounded))) - digits + 1)
    return abs(value - rounded) <= 0.5 * unit * (1 + 1e-6)


def test_agreement_is_rounding() -> None:
    assert agree([248716.4, 1e-12, math.nan], [248716.0, 0.0, None])
    assert not agree([248716.6], [248716.0])
    assert not agree([1.0], [None])
    assert not agree([math.nan], [1.0])
    assert agree([201.634], [201.63], digits=5)
    assert not agree([201.636], [201.63], digits=5)


def test_every_listed_key_is_tested(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    assert {key for _, entry, _, _ in measured for key in entry} == ABOUT | TESTED


def test_totals(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, run, table in measured:
        assert run.manifest["config"] == entry["config"], name
        assert len(run.records) == entry["n"], name
        assert int(table.aborted.sum()) == entry["aborted"], name
        ours = (
            run.total_time_s,
            metrics.tokens_per_second(table, run.total_time_s),
            table.delivered.sum() / run.total_time_s,
        )
        assert agree(ours, (entry[key] for key in ("total_time", "thr_tok_s", "thr_req_s"))), name


def test_latencies(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, _, table in measured:
        assert agree(metrics.first_token_latency(table), entry["ftl"]), name
        assert agree(metrics.request_latency(table), entry["lat"]), name


def test_clients(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, run, table in measured:
        summaries = metrics.summarise(run.records)
        assert list(table.clients) == [s.client for s in summaries] == list(entry["clients"]), name
        for summary, listed in zip(summaries, entry["clients"].values(), strict=True):
            assert (summary.requests, summary.aborted) == (listed["n"], listed["aborted"])
            assert agree([summary.service], [listed["service"]])
            assert agree(summary.ttft, listed["ftl"])
            assert agree(summary.latency, listed["lat"])


def test_accumulated_difference(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, _, table in measured:
        listed = entry["accdiff62"]
        assert metrics.span(table) == listed["T"], name
        _, curve = metrics.difference_curve(table)
        assert agree(curve, listed["curve"]), name
        assert agree([curve.max(), curve.mean()], [listed["max"], listed["mean"]]), name


def test_accumulated_difference_of_the_revision(
    measured: list[tuple[str, Entry, Run, Table]],
) -> None:
    for name, entry, _, table in measured:
        listed = entry["accdiff_rev"]
        _, curve = metrics.revision_curve(table.without_aborted())
        assert agree(curve, listed["curve"]), name
        assert agree([curve.max(), curve.mean()], [listed["max"], listed["mean"]]), name


def test_tables(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, run, table in measured:
        finished = table.without_aborted()
        time = run.total_time_s
        row = metrics.difference_table(table, time)
        assert agree([row.max, row.avg, row.var], entry["table62"].values()), name
        for key, row in (
            ("table_rev", metrics.revision_table(finished, time)),
            ("table_rev_profile", metrics.revision_table(finished, time, cost=QuadraticCost())),
        ):
            ours = (row.max, row.avg, row.var, row.throughput)
            assert agree(ours, entry[key].values()), (name, key)


def _listing(
    measured: list[tuple[str, Entry, Run, Table]], key: str
) -> Iterator[tuple[str, Entry, Table]]:
    found = [(name, entry[key], table) for name, entry, _, table in measured if key in entry]
    assert found
    yield from found


def test_service_and_response_time(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, listed, table in _listing(measured, "plot62"):
        x = metrics.ticks(listed["T"], listed["num_x"])
        assert [int(client) for client in table.clients] == listed["users"], name
        assert agree(metrics.service(table, x).T.flat, np.ravel(listed["service"]), 5), name
        ours = metrics.response_time(table, x).T.flat
        assert agree(ours, np.ravel(listed["response_time"]), 5), name


def test_response_time_of_chosen_clients(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, listed, table in _listing(measured, "fig1112"):
        assert [int(client) for client in metrics.shown_clients(table)] == listed["clients"], name
        x = metrics.ticks(metrics.span(table), listed["num_x"])
        response_time = metrics.response_time(table, x)
        for client, curve in listed["response_time"].items():
            assert agree(response_time[:, table.clients.index(client)], curve, 5), (name, client)


def test_ablation(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, listed, table in _listing(measured, "fig14"):
        for count, sums in listed.items():
            _, curve = metrics.ablation_curve(table, count=int(count))
            ours = (curve.max(), curve.mean(), np.median(curve))
            assert agree(ours, (sums[key] for key in ("max", "mean", "median"))), (name, count)
            if sums["curve"] is not None:
                assert agree(curve, sums["curve"], 5), (name, count)


def test_headline_is_made_of_these(measured: list[tuple[str, Entry, Run, Table]]) -> None:
    for name, entry, run, _ in measured:
        headline = metrics.headline(run)
        assert headline.pop("aborted") == entry["aborted"]
        assert agree(
            headline.values(),
            (
                entry["total_time"],
                entry["thr_tok_s"],
                entry["ftl"][0],
                entry["lat"][0],
                entry["accdiff62"]["max"],
                entry["accdiff62"]["mean"],
                entry["table_rev"]["max"],
                entry["table_rev"]["avg"],
            ),
        ), name

"""Drawings of single runs, and the report that the demonstration writes."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.clusters import ClusterSettings
from fairlane.experiments.plotting import plot_runs, save_page
from fairlane.experiments.report import RunGroup, runs_report
from fairlane.experiments.settings import Settings
from fairlane.experiments.tables import TextTable
from fairlane.records import Run, read_run

SCHEDULERS = ("fcfs", "rpm", "vtc")


def short(scheduler: str, suite: str = "overload") -> Run:
    limit = 20 if scheduler == "rpm" else None
    return Settings(suite=suite, scheduler=scheduler, rate_limit=limit, duration=60).run()


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {name: short(name) for name in SCHEDULERS}


@pytest.mark.parametrize(
    ("kind", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_runs_are_drawn_in_every_format_the_same_each_time(
    tmp_path: Path, runs: dict[str, Run], kind: str, begin: bytes
) -> None:
    for name in ("a", "b"):
        save_page(plot_runs({"vtc": runs["vtc"]}), tmp_path / f"{name}.{kind}")
    first = (tmp_path / f"a.{kind}").read_bytes()
    assert first.startswith(begin)
    assert first == (tmp_path / f"b.{kind}").read_bytes()


def test_another_format_is_refused_and_leaves_nothing(tmp_path: Path, runs: dict[str, Run]) -> None:
    with pytest.raises(FairlaneError, match=r"runs\.docx: give a name that ends in \.png"):
        save_page(plot_runs(runs), tmp_path / "runs.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_page_has_service_and_response_time_of_every_run_and_the_differences(
    runs: dict[str, Run],
) -> None:
    titles = [axes.get_title(loc="left") for axes in plot_runs(runs).axes]
    assert titles[:-1] == [
        *(f"Service under {name}" for name in SCHEDULERS),
        *(f"Response time under {name}" for name in SCHEDULERS),
        "Difference between clients",
        "Worst-off client's lack of service",
    ]


def test_the_same_quantity_has_the_same_scale_in_all_runs(runs: dict[str, Run]) -> None:
    limits = [axes.get_ylim() for axes in plot_runs(runs).axes]
    assert len(set(limits[:3])) == 1
    assert len(set(limits[3:6])) == 1


def test_service_at_each_replica_adds_up_to_that_of_all(runs: dict[str, Run]) -> None:
    two = ClusterSettings(replicas=2)
    run = Settings(suite="overload", scheduler="vtc", duration=60, cluster=two).run()
    page = plot_runs({"two": run}, by_replica=True)
    by_title = {axes.get_title(loc="left"): axes.lines for axes in page.axes}
    of_all = by_title["Service under two"]
    at = [by_title[f"Service at replica {replica} under two"] for replica in range(2)]
    for line, here, there in zip(of_all, *at, strict=True):
        assert max(map(max, (here.get_ydata(), there.get_ydata()))) > 0
        total = np.asarray(here.get_ydata()) + np.asarray(there.get_ydata())
        assert np.asarray(line.get_ydata()) == pytest.approx(total)
    with pytest.raises(FairlaneError, match="by-replica: these are runs of one server"):
        plot_runs(runs, by_replica=True)


def test_of_many_clients_four_are_shown_and_the_page_says_so() -> None:
    page = plot_runs({"vtc": short("vtc", "arena")})
    legend = page.axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 4
    assert "two heaviest and two in the middle" in page.get_supxlabel()


def test_a_run_of_one_client_and_one_without_tokens_can_be_drawn(tmp_path: Path) -> None:
    one = short("vtc")
    only = Run({}, [record for record in one.records if record.client == "0"], one.total_time_s)
    nothing = Run({}, [], 5.0)
    for record in short("vtc").records[:3]:
        record.outcome, record.ttft_s, record.latency_s = "aborted", None, None
        nothing.records.append(record)
    save_page(plot_runs({"one client": only, "nothing": nothing}), tmp_path / "runs.png")
    assert matplotlib.image.imread(tmp_path / "runs.png").ndim == 3


def test_the_artifacts_files_are_drawn(tmp_path: Path, reference_dir: Path) -> None:
    run = read_run(reference_dir / "measured" / "LShare" / "rpm10" / "all_results_real.jsonl")
    save_page(plot_runs({"rpm": run}), tmp_path / "rpm.png")
    assert matplotlib.image.imread(tmp_path / "rpm.png").ndim == 3


def test_a_report_of_runs_shows_tables_escaped_and_fetches_nothing(runs: dict[str, Run]) -> None:
    table = TextTable(["", "service"], [["<b>vtc</b>", "1 & 2"]], "Both > one")
    html = runs_report("Demo <1>", "About", [RunGroup("Two clients", "Why", runs, table)])
    assert "<td>&lt;b&gt;vtc&lt;/b&gt;</td><td>1 &amp; 2</td>" in html
    assert "<title>Demo &lt;1&gt;</title>" in html
    assert html.count('src="data:image/png;base64,') == 1
    assert not re.search(r"https?:|<script|<link|@import|url\(", html)
    turned_away = sum(record.outcome == "rejected" for record in runs["rpm"].records)
    rows = re.findall(r"<h3>rpm</h3>.*?</table>", html, re.DOTALL)[0]
    cells = re.findall(r"<tr>((?:<td>.*?</td>)+)</tr>", rows)
    found = [re.findall(r"<td>(.*?)</td>", row)[2] for row in cells]
    assert turned_away > 0
    assert sum(map(int, found)) == turned_away

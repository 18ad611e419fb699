"""The Grafana dashboard and the pages on operations speak of metrics that exist."""

import json
import re
from pathlib import Path

import pytest

from fairlane.door.telemetry import render
from fairlane.gateway.status import metrics as metrics_of_upstreams

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"fairlane_[a-z_]+")


@pytest.fixture
def of_gateways() -> set[str]:
    """What a gateway tells of its upstreams."""
    return set(re.findall(r"^# TYPE (\S+)", metrics_of_upstreams({}).decode(), re.MULTILINE))


@pytest.fixture
def metrics(of_gateways: set[str]) -> set[str]:
    """What any server tells."""
    full = {"service": 1.0, "counter": 1.0, "entitlement": 1.0, "rejected": {"queue_full": 1}}
    seen = {"observed_difference": 1.0, "at_most": 1.0, "bound": 1.0}
    told = ("connected", "members", "schedulers", "age_s", "stale", "max_debt", "exchanges",
            "failures", "heard", "bound")  # fmt: skip
    cluster = dict.fromkeys(told, 1.0)
    usage = dict.fromkeys(("up", "pending", "age_s", "failures"), 1.0)
    text = render({"a": full}, {**seen, "cluster": cluster, "usage": usage}, 1, "").decode()
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}
    return names | of_gateways


def test_the_dashboard_asks_for_metrics_that_exist(
    metrics: set[str], of_gateways: set[str]
) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert asked
    named = {name for expression in asked for name in METRIC.findall(expression)}
    assert named <= metrics
    assert of_gateways <= named
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


@pytest.mark.parametrize("page", ["operations.md", "deployment.md"])
def test_alerts_are_on_metrics_that_exist(metrics: set[str], page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    alerts = text.split("## What to alert on")[1].split("\n## ")[0]
    named = set(METRIC.findall(alerts))
    assert len(named) > 3
    assert named <= metrics

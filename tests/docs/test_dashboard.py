"""The Grafana dashboard and the pages on operations speak of metrics that exist."""

import json
import re
from pathlib import Path

import pytest

from fairlane.door.telemetry import render

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"fairlane_[a-z_]+")


@pytest.fixture
def metrics() -> set[str]:
    full = {"service": 1.0, "counter": 1.0, "entitlement": 1.0, "rejected": {"queue_full": 1}}
    seen = {"observed_difference": 1.0, "at_most": 1.0, "bound": 1.0}
    text = render({"a": full}, seen, 1, "").decode()
    return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}


def test_the_dashboard_asks_for_metrics_that_exist(metrics: set[str]) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert asked
    named = {name for expression in asked for name in METRIC.findall(expression)}
    assert named <= metrics
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_alerts_are_on_metrics_that_exist(metrics: set[str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    alerts = page.split("## What to alert on")[1].split("\n## ")[0]
    named = set(METRIC.findall(alerts))
    assert len(named) > 5
    assert named <= metrics

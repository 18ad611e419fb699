"""What users may import, and that a scheduler can be had without the rest."""

import subprocess
import sys

import pytest

import fairlane
from tests.processes import PATIENCE_S

PUBLIC = {
    "Audit", "Auditor", "ClientState", "ClientSummary", "Cost", "FairQueue", "FairlaneError",
    "LinearCost", "Outcome", "Policy", "PolicySpec", "QuadraticCost", "Rejection", "Request",
    "RequestRecord", "Run", "Settings", "Snapshot", "TracedRequest", "create_policy",
    "policy_names", "read_run", "service_bound", "simulate", "summarise", "write_jsonl",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(fairlane.__all__) == PUBLIC
    assert fairlane.__all__ == sorted(fairlane.__all__)
    assert set(dir(fairlane)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(fairlane, name).__doc__


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'vtc'"):
        fairlane.vtc  # noqa: B018


def test_a_scheduler_needs_the_standard_library_alone() -> None:
    script = (
        "import sys, fairlane\n"
        "fairlane.create_policy('vtc')\n"
        "ours = {'numpy', 'matplotlib', 'rich', 'typer'} & set(sys.modules)\n"
        "sys.exit(str(ours) if ours else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize(
    "module", ["fairlane.cli", "fairlane.gateway.run", "fairlane.engines.vllm.middleware"]
)
def test_servers_do_without_extras_that_are_not_configured(module: str) -> None:
    """As where only one of them was installed: with vLLM nobody has a database's library."""
    script = (
        "import sys\n"
        "extras = ('sqlalchemy', 'psycopg', 'opentelemetry', 'redis', 'ray', 'pyarrow')\n"
        "sys.modules.update(dict.fromkeys(extras))\n"  # importing them fails
        f"import {module}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


def test_a_run_from_settings_to_summaries() -> None:
    run = fairlane.Settings(suite="overload", scheduler="vtc", duration=20).run()
    one, two = fairlane.summarise(run.records)
    assert (one.client, one.requests, two.requests) == ("0", 30, 60)

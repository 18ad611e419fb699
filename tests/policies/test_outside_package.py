"""A policy from an outside package is found by its entry point, with no change here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from fairlane.core.policy import ClientQueue, Policy, Ticket
from fairlane.policies.registry import PolicySpec


class LastComeFirstServed(Policy):
    def __init__(self, limit=None):
        super().__init__()
        self._stack = ClientQueue()

    def peek(self, now):
        return next(reversed(self._stack.values())).request if self._stack else None

    def _enqueue(self, request):
        ticket = Ticket(request)
        self._stack.push(ticket)
        return ticket

    def _admit(self, ticket, cached_tokens):
        del self._stack[ticket.request.id]

    def _requeue(self, ticket, undo):
        self._stack.push(ticket)

    def _finish(self, ticket, outcome):
        self._stack.pop(ticket.request.id, None)


def lcfs(*, limit=None):
    return LastComeFirstServed(limit)


SPEC = PolicySpec(NAME, lcfs, "last come, first served", ("stack",))
"""

USE = """
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy, get_policy, policy_names
policy = create_policy("lcfs", limit=3)
for number in range(3):
    policy.enqueue(Request(number, "a", 1), 0.0)
print(policy.peek(0.0).id, get_policy("stack").name, "lcfs" in policy_names())
"""


def install(site: Path, name: str = "lcfs", target: str = "SPEC") -> None:
    """Lay an installed package down in `site`: a module and its metadata."""
    (site / "outsider.py").write_text(MODULE.replace("NAME", repr(name)))
    info = site / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fairlane.policies]\nlcfs = outsider:{target}\n")


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has `site` installed."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_outside_policy_is_listed_created_and_takes_options(tmp_path: Path) -> None:
    install(tmp_path)
    done = run(tmp_path, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "lcfs", "True"]


def test_a_bad_option_of_an_outside_policy_is_refused_by_name(tmp_path: Path) -> None:
    install(tmp_path)
    done = run(tmp_path, USE.replace("limit=3", "size=3"))
    assert "scheduler lcfs takes limit, not size" in done.stderr


@pytest.mark.parametrize(
    ("name", "target", "complaint"),
    [("vtc", "SPEC", "redefines 'vtc'"), ("lcfs", "lcfs", "is not a PolicySpec")],
)
def test_an_outsider_cannot_take_a_name_or_hand_in_something_else(
    tmp_path: Path, name: str, target: str, complaint: str
) -> None:
    install(tmp_path, name, target)
    done = run(tmp_path, USE)
    assert complaint in done.stderr

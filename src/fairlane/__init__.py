"""Fair scheduling of LLM serving between the clients that share it.

The schedulers need the standard library alone. What needs numpy (workloads, simulator, metrics)
is imported when it is first used, so a server that imports `fairlane` for a scheduler loads
nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fairlane.core.audit import Audit, Auditor, service_bound
from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import FairQueue
from fairlane.core.policy import Policy
from fairlane.core.types import ClientState, Outcome, Rejection, Request, Snapshot
from fairlane.policies.registry import PolicySpec, create_policy, policy_names
from fairlane.records import RequestRecord, Run, read_run, write_jsonl

if TYPE_CHECKING:
    from fairlane.experiments.settings import Settings
    from fairlane.metrics import ClientSummary, summarise
    from fairlane.simulator.run import simulate
    from fairlane.workloads import TracedRequest

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "Auditor",
    "ClientState",
    "ClientSummary",
    "Cost",
    "FairQueue",
    "FairlaneError",
    "LinearCost",
    "Outcome",
    "Policy",
    "PolicySpec",
    "QuadraticCost",
    "Rejection",
    "Request",
    "RequestRecord",
    "Run",
    "Settings",
    "Snapshot",
    "TracedRequest",
    "create_policy",
    "policy_names",
    "read_run",
    "service_bound",
    "simulate",
    "summarise",
    "write_jsonl",
]

_ON_FIRST_USE = {
    "ClientSummary": "fairlane.metrics",
    "Settings": "fairlane.experiments.settings",
    "TracedRequest": "fairlane.workloads",
    "simulate": "fairlane.simulator.run",
    "summarise": "fairlane.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'fairlane' has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

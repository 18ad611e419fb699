"""What is sent to the server: traces, the paper's suites, seeded generators, importers."""

from fairlane.workloads import paper as paper  # registers the paper's suites
from fairlane.workloads.config import WorkloadConfig, WorkloadError
from fairlane.workloads.generators import generate
from fairlane.workloads.suites import SUITES, Suite, get_suite, register, workload
from fairlane.workloads.trace import TracedRequest, TraceError

__all__ = [
    "SUITES",
    "Suite",
    "TraceError",
    "TracedRequest",
    "WorkloadConfig",
    "WorkloadError",
    "generate",
    "get_suite",
    "register",
    "workload",
]

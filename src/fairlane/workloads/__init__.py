"""What is sent to the server: traces, the paper's suites, seeded generators, importers."""

from fairlane.workloads import paper as paper  # registers the paper's suites, and so on
from fairlane.workloads import prefixes as prefixes
from fairlane.workloads.artifact_trace import import_artifact_pickle
from fairlane.workloads.config import WorkloadConfig, WorkloadError
from fairlane.workloads.generators import generate
from fairlane.workloads.lengths import LengthLimit
from fairlane.workloads.suites import SUITES, Suite, get_suite, register, workload
from fairlane.workloads.synthesis import synthesize
from fairlane.workloads.trace import TracedRequest, TraceError, TraceInfo, info, read_csv, write_csv

__all__ = [
    "SUITES",
    "LengthLimit",
    "Suite",
    "TraceError",
    "TraceInfo",
    "TracedRequest",
    "WorkloadConfig",
    "WorkloadError",
    "generate",
    "get_suite",
    "import_artifact_pickle",
    "info",
    "read_csv",
    "register",
    "synthesize",
    "workload",
    "write_csv",
]

"""Workloads that have a name: the registry that commands look suites up in.

To add a workload, write one seeded function `(config, seed) -> requests in arrival order` and
decorate it with `@workload(name, title=..., config=...)`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairlane.core.errors import UnknownNameError
from fairlane.workloads.config import WorkloadConfig, WorkloadError
from fairlane.workloads.generators import generate
from fairlane.workloads.trace import TracedRequest

A10G = "a10g-llama-2-7b"
A100 = "a100-llama-2-13b"

Generator = Callable[[WorkloadConfig, int], list[TracedRequest]]


def _from_config(config: WorkloadConfig, seed: int) -> list[TracedRequest]:
    return generate(config, seed=seed)


@dataclass(frozen=True, slots=True)
class Suite:
    """A named workload.

    profile: the latency profile that it was measured on and is simulated with by default.
    figures: the figures of the paper that show it.
    """

    name: str
    title: str
    config: WorkloadConfig
    profile: str = A10G
    figures: tuple[str, ...] = ()
    generator: Generator = _from_config

    @property
    def needs_trace(self) -> bool:
        """Whether the requests come from a file that the user brings."""
        return self.config.mode == "real"

    def check_trace(self, given: bool) -> None:
        """Raise WorkloadError where a trace is needed and not given, or given and not needed."""
        if self.needs_trace != given:
            need = "needs a trace file" if self.needs_trace else "takes no trace: real does"
            raise WorkloadError(f"suite {self.name} {need}")

    def requests(
        self,
        *,
        seed: int = 42,
        duration: float | None = None,
        trace: Sequence[TracedRequest] | None = None,
    ) -> list[TracedRequest]:
        """The requests in arrival order; `duration` in seconds replaces the suite's own.

        A trace is taken whole, or up to `duration`.

        Raises WorkloadError where a trace is needed and not given, or given and not needed.
        """
        config = self.config
        if duration is not None:
            config = dataclasses.replace(config, duration=duration)
        self.check_trace(trace is not None)
        if trace is not None:
            end = math.inf if duration is None else duration
            return [request for request in trace if request.arrival_s <= end]
        return self.generator(config, seed)


SUITES: dict[str, Suite] = {}


def get_suite(name: str) -> Suite:
    """The suite of that name; `-` and `_` are the same, case does not matter.

    Raises UnknownNameError, which lists the nearest names.
    """
    canonical = name.strip().lower().replace("_", "-")
    if canonical not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    return SUITES[canonical]


def register(suite: Suite) -> None:
    """Make `suite` known by its name, which is written with `-` and in lower case."""
    if suite.name != suite.name.lower().replace("_", "-"):
        raise WorkloadError(f"suite name {suite.name!r} must be lower case with '-'")
    if suite.name in SUITES:
        raise WorkloadError(f"there is a suite {suite.name!r} already")
    SUITES[suite.name] = suite


def workload(
    name: str,
    *,
    title: str,
    config: WorkloadConfig,
    profile: str = A10G,
    figures: tuple[str, ...] = (),
) -> Callable[[Generator], Generator]:
    """Decorate a function `(config, seed) -> requests` to make it the suite `name`."""

    def decorate(function: Generator) -> Generator:
        register(Suite(name, title, config, profile, figures, function))
        return function

    return decorate

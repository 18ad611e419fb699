"""What a figure is: the runs that it needs, and what it makes of them.

To add one, write a file in `figures/` that defines FIGURE; `fairlane reproduce` finds it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairlane.core.errors import FairlaneError
from fairlane.experiments.catalogue import find_experiment
from fairlane.experiments.drawings import Drawing, Grid
from fairlane.experiments.samples import Sample
from fairlane.experiments.settings import Settings
from fairlane.metrics import Floats

STAND_IN = "arena"  # the suite that stands in for the real trace where there is none


@dataclass(frozen=True, slots=True)
class Source:
    """Where one series of a figure comes from: the settings of its runs.

    file: the artifact's measurement of the same, below the folder of its results; "" if none.
    """

    settings: Settings
    file: str = ""

    @classmethod
    def of_artifact(cls, file: str) -> "Source":
        """The settings that the artifact's result file was measured with."""
        experiment = find_experiment(file)
        if experiment is None:
            raise FairlaneError(f"{file}: the artifact has no result file of that name")
        return cls(experiment.settings, file)

    @property
    def needs_trace(self) -> bool:
        """Whether it runs on a trace that the user brings."""
        return self.settings.suite == "real"

    def on_trace(self, trace: str | None, too_long: str | None = None) -> "Source":
        """The same on this trace; without one on a synthesized trace, which was not measured."""
        if not self.needs_trace:
            return self
        if trace is None:
            return Source(dataclasses.replace(self.settings, suite=STAND_IN))
        on_trace = dataclasses.replace(self.settings, trace=trace, too_long=too_long)
        return Source(on_trace, self.file)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """What a figure is drawn from: the runs of one series, and its measurement if there is one."""

    label: str
    samples: Sequence[Sample]
    measured: Sample | None = None

    def each(self, quantity: Callable[[Sample], Floats]) -> tuple[Floats, Floats | None]:
        """`quantity` of every run, stacked along a first axis, and of the measurement."""
        values = np.stack([quantity(sample) for sample in self.samples])
        return values, None if self.measured is None else quantity(self.measured)


Results = Mapping[str, Ensemble]


def _no_tables(_results: Results) -> list[Grid]:
    return []


def _no_panels(_results: Results) -> list[Drawing]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure or table of the paper or its revision.

    sources: by the label of each series. panels: what is drawn; a figure without any shows its
    tables. about: a sentence on what is to be seen.
    """

    name: str
    title: str
    about: str
    sources: Mapping[str, Source]
    panels: Callable[[Results], list[Drawing]] = _no_panels
    tables: Callable[[Results], list[Grid]] = _no_tables

    @property
    def heading(self) -> str:
        """The title, with the number that the paper gives the figure or table."""
        number = re.fullmatch(r"(fig|table)(\d+)", self.name)
        if number is None:
            return self.title
        return f"{'Figure' if number[1] == 'fig' else 'Table'} {number[2]}: {self.title}"

    def on_trace(self, trace: str | None, too_long: str | None = None) -> "Figure":
        """The figure on this trace; its title says so where a synthesized one stands in."""
        sources = {k: source.on_trace(trace, too_long) for k, source in self.sources.items()}
        title = self.title
        if trace is None and any(source.needs_trace for source in self.sources.values()):
            title += " (synthesized trace)"
        return dataclasses.replace(self, title=title, sources=sources)


def artifact(**files: str) -> dict[str, Source]:
    """Sources by label, each from `FOLDER/WORKLOAD` of the artifact."""
    return {label: measured(name) for label, name in files.items()}


def measured(name: str) -> Source:
    """The source that the artifact keeps as `FOLDER/all_results_WORKLOAD.jsonl`."""
    folder, _, workload = name.rpartition("/")
    return Source.of_artifact(f"{folder}/all_results_{workload}.jsonl")

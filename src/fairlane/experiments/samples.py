"""Runs as figures need them, kept on disk so that what was simulated once is not again.

A sample's file is named by a hash of the run's settings, the bytes of the files that they name, and
the sources that decide its numbers. So samples of other versions are passed over, never mixed in.
A policy of an outside package counts by its name alone: empty the folder when one changes.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fairlane
from fairlane.experiments.ensemble import Progress, run_jobs
from fairlane.experiments.settings import Settings
from fairlane.files import atomic_write
from fairlane.metrics import Table, headline
from fairlane.records import Run, read_run

_SOURCES = ("core", "policies", "workloads", "simulator", "metrics", "records.py")
_SETTINGS = ("cluster_runs.py", "clusters.py", "settings.py", "traces.py", "weights.py")
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One run: its requests as columns, its total time in seconds, and what sums it up."""

    table: Table
    total_time_s: float
    headline: dict[str, float]

    @classmethod
    def of(cls, run: Run) -> "Sample":
        """The sample of a run in memory."""
        return cls(Table.from_records(run.records), run.total_time_s, headline(run))

    @classmethod
    def read(cls, path: Path) -> "Sample":
        """The sample of a result file, ours or the artifact's. Raises RecordError."""
        return cls.of(read_run(path))


@cache
def _code_version() -> str:
    """A hash of all sources and profiles that a sample's numbers come from."""
    root = Path(fairlane.__file__).parent
    digest = hashlib.sha256()
    paths = [root / "experiments" / name for name in _SETTINGS]
    for name in _SOURCES:
        path = root / name
        paths += (
            [path] if path.is_file() else sorted(path.rglob("*.py")) + sorted(path.rglob("*.toml"))
        )
    for path in paths:
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class SampleStore:
    """A folder of samples, of one version of the sources: that of the process that made it."""

    folder: Path
    version: str = field(default_factory=_code_version)

    def load(self, settings: Settings) -> Sample | None:
        """The sample of a run with these settings; None where it is missing or damaged."""
        try:
            with (
                open(self._path(settings), "rb") as raw,  # np.load leaves a damaged one open
                np.load(raw, allow_pickle=False) as file,
            ):
                columns = {column.name: file[column.name] for column in fields(Table)}
                columns["clients"] = tuple(map(str, columns["clients"]))
                numbers = json.loads(str(file["numbers"]))
                return Sample(Table(**columns), numbers["total_time_s"], numbers["headline"])
        except _DAMAGED:
            return None

    def store(self, settings: Settings, sample: Sample) -> None:
        """Keep `sample`. Raises OutputError."""
        columns: dict[str, Any] = {c.name: getattr(sample.table, c.name) for c in fields(Table)}
        numbers = {"total_time_s": sample.total_time_s, "headline": sample.headline}
        with atomic_write(self._path(settings), binary=True) as file:
            np.savez_compressed(file, numbers=np.array(json.dumps(numbers)), **columns)

    def simulate(
        self,
        wanted: Iterable[Settings],
        *,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Simulate what is not there yet, on all cores; how many runs that were.

        `progress` counts the wanted runs, those that were there included.
        """
        every = list(dict.fromkeys(wanted))
        missing = [_Job(self, settings) for settings in every if self.load(settings) is None]
        there = len(every) - len(missing)

        def count(done: int, _total: int, label: str) -> None:
            if progress is not None:
                progress(there + done, len(every), label)

        if there:
            count(0, len(every), "kept from before")
        jobs = {job: job for job in missing}
        return sum(1 for _ in run_jobs(_simulate, jobs, workers=workers, progress=count))

    def _path(self, settings: Settings) -> Path:
        described = asdict(settings)
        for name, value in described.items():
            if value and (name == "trace" or str(value).endswith(".toml")):
                described[name] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
        text = json.dumps(described, sort_keys=True) + self.version
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


@dataclass(frozen=True, slots=True)
class _Job:
    store: SampleStore
    settings: Settings

    def __str__(self) -> str:
        return f"{self.settings.suite} under {self.settings.scheduler}, seed {self.settings.seed}"


def _simulate(job: _Job) -> None:
    job.store.store(job.settings, Sample.of(job.settings.run()))

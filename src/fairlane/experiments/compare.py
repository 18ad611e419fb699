"""The artifact's measurements beside simulations of the same runs, metric by metric."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fairlane.core.errors import FairlaneError
from fairlane.experiments.catalogue import Experiment, find_experiment
from fairlane.experiments.ensemble import Progress, run_jobs, seeds
from fairlane.experiments.settings import Settings
from fairlane.metrics import headline
from fairlane.records import Run, read_run
from fairlane.simulator.serving import AnyServer, ServerConfig

_SAME_BATCH_S = 0.02  # first tokens that differ by less come from the same prefill
_WARM_S = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one measured file.

    simulated, low, high: median and extremes over the runs. error: of the median, relative to the
    measured value and signed; 0 where both are 0, None where only the measured one is.
    """

    file: str
    metric: str
    measured: float
    simulated: float
    low: float
    high: float
    error: float | None


@dataclass(frozen=True, slots=True)
class ErrorMedian:
    """The median |error| of a metric, over all files and over those that took no part in a fit.

    in_range: of all files, how many were measured within the range of the simulated runs.
    """

    metric: str
    all_files: float
    files: int
    held_out: float
    held_out_files: int
    in_range: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found. skipped: files that were not compared, with the reason."""

    rows: list[Row]
    experiments: list[Experiment]
    skipped: dict[str, str]


class _Run(NamedTuple):
    file: str
    seed: int

    def __str__(self) -> str:
        return f"{self.file}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class _Measured:
    experiment: Experiment
    settings: Settings
    metrics: dict[str, float]


def compare(
    measured: Path,
    *,
    runs: int = 24,
    cold_start_s: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate every result file below `measured` that is laid out like the artifact's.

    runs: simulations per file, with seeds 0, 1, ... cold_start_s: delay of the first prefill, in
    place of what each file shows. Each file's own requests are simulated. Raises FairlaneError
    where there is nothing to compare.
    """
    if runs < 1:
        raise FairlaneError(f"runs must be at least 1, not {runs}")
    found, skipped = _find(measured)
    if cold_start_s is not None:
        found = [_with_cold_start(one, cold_start_s) for one in found]
    jobs = {
        _Run(one.experiment.file, settings.seed): settings
        for one in found
        for settings in seeds(one.settings, runs)
    }
    simulated: dict[str, list[dict[str, float]]] = {one.experiment.file: [] for one in found}
    for job, metrics in run_jobs(_headline, jobs, workers=workers, progress=progress):
        simulated[job.file].append(metrics)
    rows = [
        row
        for one in found
        for row in metric_rows(one.experiment.file, one.metrics, simulated[one.experiment.file])
    ]
    return Comparison(rows, [one.experiment for one in found], skipped)


def metric_rows(
    file: str, measured: Mapping[str, float], simulated: Sequence[Mapping[str, float]]
) -> Iterator[Row]:
    """The rows of one file: its `headline` metrics beside those of the runs that simulate it."""
    for metric, value in measured.items():
        values = [metrics[metric] for metrics in simulated]
        middle = median(values)
        yield Row(file, metric, value, middle, min(values), max(values), _error(middle, value))


def error_medians(comparison: Comparison) -> list[ErrorMedian]:
    """One row per metric; NaN where no file has an error."""
    fitted = {experiment.file for experiment in comparison.experiments if experiment.fitted}
    medians = []
    for metric in dict.fromkeys(row.metric for row in comparison.rows):
        errors = {
            row.file: abs(row.error)
            for row in comparison.rows
            if row.metric == metric and row.error is not None
        }
        in_range = sum(r.low <= r.measured <= r.high for r in comparison.rows if r.metric == metric)
        held_out = [error for file, error in errors.items() if file not in fitted]
        medians.append(
            ErrorMedian(
                metric,
                all_files=_median(errors.values()),
                files=len(errors),
                held_out=_median(held_out),
                held_out_files=len(held_out),
                in_range=in_range,
            )
        )
    return medians


def _find(folder: Path) -> tuple[list[_Measured], dict[str, str]]:
    """The files to compare, and the others with the reason why not."""
    if not folder.is_dir():
        raise FairlaneError(f"{folder}: not a folder; name the one that holds VTC/, FCFS/, ...")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")]
    # what lies in no folder are copies, most of it; they come last and are skipped
    files.sort(key=lambda file: ("/" not in file, file))
    found: list[_Measured] = []
    skipped: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    for file in files:
        experiment = find_experiment(file)
        if experiment is None:
            skipped[file] = "no settings known for this name"
            continue
        try:
            digest = hashlib.sha256((folder / file).read_bytes()).digest()
            first = seen.setdefault(digest, file)
            if first == file:
                found.append(_read(experiment, folder / file))
            else:
                skipped[file] = f"the same as {first}"
        except (FairlaneError, OSError) as error:
            skipped[file] = str(error)
    if not found:
        reasons = "".join(f"; {file}: {reason}" for file, reason in list(skipped.items())[:1])
        raise FairlaneError(
            f"{folder}: no result files like VTC/all_results_overload.jsonl below it{reasons}"
        )
    return found, skipped


def _read(experiment: Experiment, path: Path) -> _Measured:
    """Raises FairlaneError for a file, or a workload, that cannot be simulated."""
    run = read_run(path)
    settings = experiment.replay(path)
    delay = cold_start_s(run, settings.server())
    settings = replace(settings, first_prefill_delay_s=delay)
    settings.policy(settings.requests())  # such as a weight too few
    return _Measured(experiment, settings, headline(run))


def cold_start_s(run: Run, server: AnyServer) -> float:
    """How much longer the first prefill of a measured run took than the profile says, in seconds.

    A server that was just started is slow once. Less than 0.1 s is the noise of a warm one: 0.
    """
    firsts = sorted(
        (record.arrival_s + record.ttft_s, record.ttft_s, record.prompt_len)
        for record in run.records
        if record.ttft_s is not None
    )
    if not firsts:
        return 0.0
    batch = [prompt for stamp, _, prompt in firsts if stamp - firsts[0][0] < _SAME_BATCH_S]
    usual = server.profile.prefill(sum(batch) + server.prompt_overhead * len(batch))
    longest_wait = max(ttft for _, ttft, _ in firsts[: len(batch)])
    on_the_way = server.noise.delay_s[0] + server.reply_delay_s
    if isinstance(server, ServerConfig):
        on_the_way += server.idle_poll_s / 2
    delay = longest_wait - usual - on_the_way
    return round(delay, 3) if delay > _WARM_S else 0.0


def _with_cold_start(one: _Measured, cold_start_s: float) -> _Measured:
    return replace(one, settings=replace(one.settings, first_prefill_delay_s=cold_start_s))


def _headline(settings: Settings) -> dict[str, float]:
    return headline(settings.run())


def _error(simulated: float, measured: float) -> float | None:
    if measured:
        return (simulated - measured) / measured
    return None if simulated else 0.0


def _median(values: Iterable[float]) -> float:
    return median(list(values) or [float("nan")])

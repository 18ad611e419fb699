"""One setting, simulated once or over several seeds: its rows on disk and what clients got."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.experiments.acting import check_settings
from fairlane.experiments.ensemble import Progress, run_jobs, seeds
from fairlane.experiments.settings import Settings
from fairlane.metrics import ClientSummary, Spread, headline, summarise, summarise_replicas
from fairlane.policies.fcfs import fcfs
from fairlane.records import RequestRecord, Run, write_csv, write_jsonl, write_parquet
from fairlane.simulator.run import simulate
from fairlane.workloads.trace import TracedRequest

WRITERS: dict[str, Callable[[Path, Run], None]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
}


class Range(NamedTuple):
    """A quantity over the runs of an ensemble: NaN where no run has it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Range":
        """Median and extremes of what is there."""
        known = [value for value in values if value == value]
        if not known:
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(median(known), min(known), max(known))


@dataclass(frozen=True, slots=True)
class Report:
    """What a simulation gave. files: the rows written, one file per run.

    metrics: the headline metrics, and what an auditor saw. clients: per client the fields of
    `ClientSummary`, spreads as `ttft_mean`, `ttft_p50` and so on, in seconds. replicas: of a
    cluster, by number: `requests` and `service`, `observed_difference` at it, and the service of
    each client where they are few enough to be shown.
    """

    settings: Settings
    runs: int
    files: list[str]
    metrics: dict[str, Range]
    clients: dict[str, dict[str, Range]]
    replicas: dict[str, dict[str, Range]]


@dataclass(frozen=True, slots=True)
class _Job:
    settings: Settings
    output: Path | None
    format: str


_Values = dict[str, float]
_CLIENTS_SHOWN = 8  # at each replica


class _Numbers(NamedTuple):
    """What one run gave."""

    metrics: _Values
    clients: dict[str, _Values]
    replicas: dict[str, _Values]


def simulate_runs(
    settings: Settings,
    *,
    runs: int = 1,
    output: Path | None = None,
    format: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Simulate with `runs` consecutive seeds; write each run's rows and manifest to `output`.

    format: a name in WRITERS; None goes by the suffix of `output`. Of several runs each gets its
    own file, `NAME.seedN.SUFFIX`. say: is told, before anything is simulated, what settings mean.
    Raises FairlaneError for settings or files that do not work, and for what would have no effect.
    """
    if runs < 1:
        raise FairlaneError(f"runs must be at least 1, not {runs}")
    name = format or (output.suffix.removeprefix(".") if output else "jsonl")
    if name not in WRITERS:
        raise UnknownNameError("format", name, WRITERS)
    if format is not None and output is None:
        raise FairlaneError(f"format {format}: nothing is written without an output; name one")
    for note in check_settings(settings, runs=runs):
        if say is not None:
            say(note)
    jobs = {
        f"seed {one.seed}": _Job(one, _output(output, one.seed, runs), name)
        for one in seeds(settings, runs)
    }
    if runs == 1:  # no need to say which one an error befell
        ordered = [_run(job) for job in jobs.values()]
    else:
        results = dict(run_jobs(_run, jobs, workers=workers, progress=progress))
        ordered = [results[key] for key in jobs]
    return Report(
        settings=settings,
        runs=runs,
        files=[str(job.output) for job in jobs.values() if job.output],
        metrics=_ranges([run.metrics for run in ordered]),
        clients=_all_ranges([run.clients for run in ordered]),
        replicas=_all_ranges([run.replicas for run in ordered]),
    )


def summarise_run(settings: Settings, run: Run) -> list[ClientSummary]:
    """What each client got, and its slowdown against running alone, if that is on one server."""
    requests = settings.requests()
    return summarise(
        run.records,
        cost=settings.cost_function(),
        weights=settings.client_weights(requests),
        alone=run_alone(settings, requests) if settings.cluster is None else None,
    )


def run_alone(settings: Settings, requests: Sequence[TracedRequest]) -> list[RequestRecord]:
    """Every client's requests served with nobody else there, in arrival order and unlimited."""
    by_client: dict[str, list[TracedRequest]] = {}
    for request in requests:
        by_client.setdefault(request.client, []).append(request)
    server = replace(settings.server(), first_prefill_delay_s=0.0)
    records: list[RequestRecord] = []
    for own in by_client.values():
        records += simulate(own, fcfs(), server, seed=settings.seed).records
    return records


def client_values(summary: ClientSummary) -> _Values:
    """The numbers of a summary by name: spreads as `ttft_mean`, `ttft_p50` and so on."""
    values: _Values = {
        "requests": summary.requests,
        "aborted": summary.aborted,
        "service": summary.service,
        "share": summary.share,
        "entitlement": summary.entitlement,
    }
    spreads = {"ttft": summary.ttft, "tpot": summary.tpot, "latency": summary.latency}
    if summary.slowdown is not None:
        spreads["slowdown"] = summary.slowdown
    for quantity, spread in spreads.items():
        names = (f"{quantity}_{field}" for field in Spread._fields)
        values.update(zip(names, spread, strict=True))
    return values


def _output(output: Path | None, seed: int, runs: int) -> Path | None:
    if output is None or runs == 1:
        return output
    return output.with_name(f"{output.stem}.seed{seed}{output.suffix}")


def _run(job: _Job) -> _Numbers:
    run = job.settings.run(audited=True)
    if job.output is not None:
        WRITERS[job.format](job.output, run)
    summaries = summarise_run(job.settings, run)
    audit = run.manifest["audit"]
    metrics = headline(run) | {
        "observed_difference": audit["observed"],
        "bound": audit["bound"],
    }
    clients = {summary.client: client_values(summary) for summary in summaries}
    return _Numbers(metrics, clients, _replica_values(job.settings, run, list(clients)))


def _replica_values(settings: Settings, run: Run, clients: list[str]) -> dict[str, _Values]:
    if settings.cluster is None:
        return {}
    observed = run.manifest["audit"]["observed_here"]
    shown = clients if len(clients) <= _CLIENTS_SHOWN else []
    found = {}
    for one in summarise_replicas(
        run.records, settings.cluster.replicas, cost=settings.cost_function()
    ):
        values: _Values = {"requests": one.requests, "service": one.service}
        if observed:
            values["observed_difference"] = observed[one.replica]
        for client in shown:
            values[f"service of {client}"] = one.by_client.get(client, 0.0)
        found[str(one.replica)] = values
    return found


def _ranges(runs: Sequence[_Values]) -> dict[str, Range]:
    return {name: Range.of(values[name] for values in runs) for name in runs[0]}


def _all_ranges(runs: Sequence[dict[str, _Values]]) -> dict[str, dict[str, Range]]:
    return {name: _ranges([run[name] for run in runs]) for name in runs[0]}

"""The demonstration: what FCFS, rate limits and VTC make of two clients, and of twenty-seven."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from fairlane import metrics
from fairlane.core.audit import service_bound
from fairlane.experiments.acting import check_settings
from fairlane.experiments.ensemble import Progress, run_jobs
from fairlane.experiments.report import RunGroup, runs_report
from fairlane.experiments.settings import Settings
from fairlane.experiments.tables import TextTable
from fairlane.files import atomic_write
from fairlane.metrics import Table
from fairlane.records import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one scheduler made of one workload.

    service: cost per second that each shown client received while clients were sending.
    max_difference: the largest difference in service between two clients while both waited.
    bound: what VTC is proved to keep that below. Latencies are seconds.
    typical_first_token_latency: of the client in the middle, clients ranked by their means.
    """

    scheduler: str
    service: dict[str, float]
    max_difference: float
    bound: float
    throughput: float
    mean_first_token_latency: float
    typical_first_token_latency: float
    rejected: int


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The outcomes by workload, as numbers and as tables, and where the report lies."""

    outcomes: dict[str, list[Outcome]]
    tables: list[TextTable]
    report: Path


@dataclass(frozen=True, slots=True)
class _Scene:
    """One workload of the demonstration, under each scheduler."""

    title: str
    about: str
    settings: Mapping[str, Settings]


def demonstrate(
    *,
    trace: str | None = None,
    too_long: str | None = None,
    output: Path = Path("demo.html"),
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Demonstration:
    """Simulate all scenes and write the report to `output`.

    trace: the second scene's requests; None takes a synthesized trace. too_long: as in `Settings`.
    say: is told, before anything is simulated, how the trace was read. Raises FairlaneError for a
    trace that cannot be read and an output that cannot be written.
    """
    real = Settings(
        suite="real" if trace else "arena", scheduler="fcfs",
        trace=trace, too_long=too_long, seed=seed,
    )  # fmt: skip
    for note in check_settings(real):
        if say is not None:
            say(note)
    scenes = _scenes(real)
    jobs = {
        f"{scene.title}, {name}": settings
        for scene in scenes
        for name, settings in scene.settings.items()
    }
    runs = dict(run_jobs(_run, jobs, workers=workers, progress=progress))
    groups, outcomes = [], {}
    for scene in scenes:
        of_scene = {name: runs[f"{scene.title}, {name}"] for name in scene.settings}
        found = [_outcome(name, scene.settings[name], run) for name, run in of_scene.items()]
        outcomes[scene.title] = found
        groups.append(RunGroup(scene.title, scene.about, of_scene, _table(scene.title, found)))
    with atomic_write(output) as file:
        file.write(runs_report("Fair scheduling of LLM serving", _ABOUT, groups))
    return Demonstration(outcomes, [group.table for group in groups if group.table], output)


LEGEND = (
    "client: service a second while clients send, an input token counting 1 and an output token 2; "
    "max difference: of two clients' service over any time that both wait; "
    "TTFT: mean first-token latency, typical: the middle client's"
)
_ABOUT = (
    "Simulated on the server of the paper's measurements: Llama-2-7b on an A10G with room for "
    f"10,000 tokens. In the tables, {LEGEND}."
)


def _scenes(real: Settings) -> list[_Scene]:
    sends_twice = (
        "Client 1 sends twice as much as client 0, both more than half of what the server can do. "
        "FCFS gives client 1 twice the service; a rate limit is fair and leaves the server idle; "
        "VTC serves both alike and leaves nothing idle."
    )
    many = (
        "Clients send at very unequal rates. Under FCFS all wait for the heaviest; under VTC those "
        "who ask for less than their share hardly wait."
    )
    clients = len({request.client for request in real.requests()})
    overload = Settings(suite="overload", scheduler="fcfs", seed=real.seed)
    return [
        _Scene("Two clients, one sends twice as much", sends_twice, _under(overload, 30)),
        _Scene(f"A trace of {clients} clients", many, _under(real, 10)),
    ]


def _under(settings: Settings, rate_limit: int) -> dict[str, Settings]:
    """The same workload under the three schedulers."""
    rpm = f"RPM, {rate_limit} a minute"
    return {
        "FCFS": settings,
        rpm: replace(settings, scheduler="rpm", rate_limit=rate_limit),
        "VTC": replace(settings, scheduler="vtc"),
    }


def _run(settings: Settings) -> Run:
    return settings.run()


def _outcome(scheduler: str, settings: Settings, run: Run) -> Outcome:
    table = Table.from_records(run.records)
    span = max(metrics.span(table), 1.0)  # a trace may be shorter than a second
    received = metrics.accumulated(table, metrics.ticks(2 * span, 2))[1] / span
    shown = metrics.shown_clients(table)
    waits = [metrics.first_token_latency(table, client).mean for client in table.clients]
    headline = metrics.headline(run)
    return Outcome(
        scheduler=scheduler,
        service={c: float(received[table.clients.index(c)]) for c in sorted(shown)},
        max_difference=metrics.backlogged_difference(table),
        bound=_bound(settings, run),
        throughput=headline["throughput"],
        mean_first_token_latency=headline["mean_first_token_latency"],
        typical_first_token_latency=median(wait for wait in waits if wait == wait),
        rejected=int(headline["aborted"]),
    )


def _bound(settings: Settings, run: Run) -> float:
    server = settings.server()
    longest = max(record.prompt_len for record in run.records) + server.prompt_overhead
    return service_bound(server.memory_tokens, longest)


def _table(title: str, outcomes: list[Outcome]) -> TextTable:
    clients = list(outcomes[0].service)
    columns = [
        "",
        *(f"client {client}" for client in clients),
        "max difference",
        "VTC's bound",
        "tokens/s",
        "TTFT (s)",
        "typical (s)",
        "rejected",
    ]
    rows = []
    for one in outcomes:
        numbers = (one.max_difference, one.bound, one.throughput)
        waits = (one.mean_first_token_latency, one.typical_first_token_latency)
        rows.append(
            [
                one.scheduler,
                *(f"{service:,.0f}" for service in one.service.values()),
                *(f"{number:,.0f}" for number in numbers),
                *(f"{wait:,.1f}" for wait in waits),
                f"{one.rejected:,}",
            ]
        )
    return TextTable(columns, rows, title)

"""The demonstration: what FCFS, rate limits and VTC make of two clients, and of twenty-seven."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from fairlane import metrics
from fairlane.core.audit import service_bound
from fairlane.core.errors import FairlaneError
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
    bound: what VTC is proved to keep that below, None where that is not known. Latencies are
    seconds. typical_first_token_latency: of the client in the middle, clients ranked by their
    means. note: why the numbers may not be what they seem.
    """

    scheduler: str
    service: dict[str, float]
    max_difference: float
    bound: float | None
    throughput: float
    mean_first_token_latency: float
    typical_first_token_latency: float
    rejected: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The outcomes by workload, as numbers and as tables, and where the report lies."""

    outcomes: dict[str, list[Outcome]]
    tables: list[TextTable]
    report: Path


@dataclass(frozen=True, slots=True)
class _Scene:
    """One workload of the demonstration, under each scheduler.

    lives: what is run beside some of them, by the same names; gives a run and a note on it.
    """

    title: str
    about: str
    settings: Mapping[str, Settings]
    lives: Mapping[str, Callable[[], tuple[Run, str]]] = field(default_factory=dict)


def demonstrate(
    *,
    trace: str | None = None,
    too_long: str | None = None,
    output: Path = Path("demo.html"),
    seed: int = 0,
    live: bool | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Demonstration:
    """Run all scenes and write the report to `output`.

    trace: the second scene's requests; None takes a synthesized trace. too_long: as in `Settings`.
    live: whether two clients are sent through the gateway, too; None: where what that needs is
    installed. say: is told, before anything is run, how the trace was read, and what is left out.
    Raises FairlaneError for a trace that cannot be read and an output that cannot be written.
    """
    say = say or _to_nobody
    real = Settings(
        suite="real" if trace else "arena", scheduler="fcfs",
        trace=trace, too_long=too_long, seed=seed,
    )  # fmt: skip
    for note in check_settings(real):
        say(note)
    groups, outcomes = [], {}
    with TemporaryDirectory() as folder:
        scenes = [*_scenes(real), *_live_scenes(live, Path(folder), seed, say)]
        jobs = {
            f"{scene.title}, {name}": settings
            for scene in scenes
            for name, settings in scene.settings.items()
        }
        simulated = dict(run_jobs(_run, jobs, workers=workers, progress=progress))
        for scene in scenes:
            if scene.lives:
                say("now live, in real time: a quarter of a minute")
            runs, found = _played(scene, simulated)
            outcomes[scene.title] = found
            groups.append(RunGroup(scene.title, scene.about, runs, _table(scene.title, found)))
    with atomic_write(output) as file:
        file.write(runs_report("Fair scheduling of LLM serving", _ABOUT, groups))
    return Demonstration(outcomes, [group.table for group in groups if group.table], output)


def _to_nobody(note: str) -> None:
    """Nobody wants to know."""


def _played(scene: _Scene, simulated: Mapping[str, Run]) -> tuple[dict[str, Run], list[Outcome]]:
    """All runs of a scene by name, those that are live made now, and what came of them."""
    runs, found = {}, []
    for name, settings in scene.settings.items():
        run = runs[name] = simulated[f"{scene.title}, {name}"]
        found.append(_outcome(name, run, _bound(settings, run)))
        if name in scene.lives:
            label = f"{name}, live"
            run, note = scene.lives[name]()
            runs[label] = run
            found.append(replace(_outcome(label, run, None), note=note))
    return runs, found


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


_NEEDS = (
    "the live part needs what is not installed: "
    "pip install aiohttp httptools python-multipart uvicorn uvloop"
)


def _live_scenes(
    wanted: bool | None, folder: Path, seed: int, say: Callable[[str], None]
) -> list[_Scene]:
    """Two clients simulated and through the gateway, unless that is not wanted or cannot be."""
    if wanted is False:
        return []
    try:
        from fairlane.experiments import live  # needs what a plain install does not bring
    except FairlaneError as error:
        if wanted:
            raise FairlaneError(_NEEDS) from error
        say(f"left out: {_NEEDS}")
        return []
    settings = live.simulated(folder, seed)
    lives = {name: partial(live.live, one, folder) for name, one in settings.items()}
    return [_Scene(live.TITLE, live.ABOUT, settings, lives)]


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


def _outcome(scheduler: str, run: Run, bound: float | None) -> Outcome:
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
        bound=bound,
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
        bound = "" if one.bound is None else f"{one.bound:,.0f}"
        waits = (one.mean_first_token_latency, one.typical_first_token_latency)
        rows.append(
            [
                one.scheduler + (" (late, see below)" if one.note else ""),
                *(f"{service:,.0f}" for service in one.service.values()),
                f"{one.max_difference:,.0f}",
                bound,
                f"{one.throughput:,.0f}",
                *(f"{wait:,.1f}" for wait in waits),
                f"{one.rejected:,}",
            ]
        )
    return TextTable(columns, rows, title)

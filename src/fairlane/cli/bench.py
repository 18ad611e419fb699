"""`fairlane bench`: one workload against a real server."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import Json, format_number, print_json, say
from fairlane.cli.results import print_results

if TYPE_CHECKING:
    from fairlane.experiments.bench import BenchReport
    from fairlane.loadgen.send import Progress

NOTHING_FINISHED = 3
INTERRUPTED = 130


def bench(
    suite: Annotated[str, typer.Argument(help="A name from `fairlane suites`.")],
    server: Annotated[str, typer.Option(help="Its address: http://HOST:8000.")],
    clients: Annotated[
        Path | None, typer.Option(help="TOML file with the API key or headers of each client.")
    ] = None,
    client_model: Annotated[
        str | None, typer.Option(help="Each client's model, as in adapter-{client}.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What clients ask for; the server's first by default.")
    ] = None,
    rate_scale: Annotated[
        float, typer.Option(help="Times the rate, for as long; of a trace, in less time.")
    ] = 1.0,
    time_scale: Annotated[
        float, typer.Option(help="Everything takes so many times as long; 0.1 hurries.")
    ] = 1.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds that clients send for, before --time-scale.")
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(help="For the suite real: a CSV trace, real_trace.pkl or a result file."),
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="tokens (random ids) or words (one, repeated).")
    ] = "tokens",
    omit: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out a field that the server refuses: ignore_eos, min_tokens, "
            "stream_options, temperature or user. May be given several times."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="What clients are entitled to: 1,2,3,4, or alice=1,bob=2.")
    ] = None,
    cost: Annotated[
        str, typer.Option(help="linear, quadratic, or a TOML file of `fairlane profile-cost`.")
    ] = "linear",
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = (
        3600.0
    ),
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that requests may run on after Ctrl-C.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="Write one row per request here (.jsonl), and a manifest beside it."),
    ] = None,
    json: Json = False,
) -> None:
    """Send a suite to an OpenAI-compatible server and say what each client got.

    Every request leaves at its own time, whatever the server does. The rows are those of `fairlane
    simulate`: `fairlane plot` draws both. Ctrl-C stops sending, waits for what is under way and
    writes what there is.

    Exit status: 0 if a request finished, however many others did not; 3 if none did; 2 for what is
    wrong before anything is sent; 130 after Ctrl-C.

    \b
    fairlane bench overload --server http://127.0.0.1:8000 --output vtc.jsonl
    fairlane bench overload --server http://HOST:8000 --clients clients.toml --rate-scale 4
    fairlane bench real --trace trace.csv --server http://HOST:8000 --client-model adapter-{client}
    """
    from fairlane.experiments.bench import BenchSettings
    from fairlane.experiments.bench import bench as run
    from fairlane.experiments.weights import parse_weights

    settings = BenchSettings(
        server=server,
        suite=suite,
        trace=trace,
        duration=duration,
        rate_scale=rate_scale,
        time_scale=time_scale,
        model=model,
        clients=str(clients) if clients is not None else None,
        client_model=client_model,
        prompts=prompts,
        omit=tuple(omit or ()),
        weights=parse_weights(weights),
        cost=cost,
        timeout_s=timeout,
        drain_s=drain,
        seed=seed,
    )
    with _progress_line() as progress:
        report = run(settings, output=output, progress=progress, say=say)
    if json:
        print_json(_as_json(report, output))
    elif report.metrics:
        print_results(f"{suite} at {server}", report.metrics, report.clients)
    _say_more(report, output)
    if report.sent.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not report.finished:
        say("no request finished")
        raise typer.Exit(NOTHING_FINISHED)


def _say_more(report: "BenchReport", output: Path | None) -> None:
    """What went wrong, and where the rows are."""
    rates = report.run.manifest["client"]
    if rates["intended_rate"]:  # one request, or several at once, have none
        say(
            f"sent {format_number(rates['achieved_rate'])} requests/s of "
            f"{format_number(rates['intended_rate'])} intended"
        )
    for failure, count in report.sent.failures.most_common():
        said = report.sent.said[failure]
        say(f"{count:,} {failure}" + (f", the first: {said}" if said else ""))
    if report.sent.unsent:
        say(f"{report.sent.unsent:,} requests were not sent")
    for warning in report.warnings:
        say(f"warning: {warning}")
    if output is not None:
        say(f"wrote {output}")


def _as_json(report: "BenchReport", output: Path | None) -> dict[str, object]:
    clients = [
        {"client": client, **{name: value.median for name, value in values.items()}}
        for client, values in report.clients.items()
    ]
    return {
        "manifest": report.run.manifest,
        "file": str(output) if output is not None else None,
        "metrics": {name: value.median for name, value in report.metrics.items()},
        "clients": clients,
        "warnings": report.warnings,
    }


@contextmanager
def _progress_line() -> "Iterator[Callable[[Progress], None] | None]":
    """Rewrites one line of standard error; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        yield lambda progress: live.update(Text(progress_text(progress)), refresh=True)


def progress_text(progress: "Progress") -> str:
    """One line: rates achieved and intended so far, requests, tokens, the client's lag."""
    elapsed = progress.elapsed_s
    return (
        f"{elapsed:.0f} s: {progress.sent / elapsed:.2f} requests/s of "
        f"{progress.due / elapsed:.2f} intended, {progress.sent:,}/{progress.total:,} sent, "
        f"{progress.running:,} running, {progress.finished:,} finished, "
        f"{progress.rejected:,} rejected, {progress.aborted:,} aborted, "
        f"{progress.tokens / elapsed:,.0f} tokens/s, lag {progress.lag_s * 1000:.0f} ms"
    )

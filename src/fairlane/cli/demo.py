"""`fairlane demo`: the idea in a minute."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import Json, TooLong, Workers, print_json, print_table, progress_bar, say


def demo(
    context: typer.Context,
    trace: Annotated[
        str | None,
        typer.Option(help="CSV, real_trace.pkl or a result file; a synthesized one by default."),
    ] = None,
    too_long: TooLong = None,
    output: Annotated[Path, typer.Option(help="The HTML report.")] = Path("fairlane-demo.html"),
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise.")] = 0,
    gateway: Annotated[
        bool | None,
        typer.Option(help="Also through the gateway, in real time; by default where it can."),
    ] = None,
    workers: Workers = None,
    live: Annotated[
        bool, typer.Option("--live", help="Instead of all that: watch a gateway that runs.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the live gateway; a free one.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Of the live demonstration; 40.")
    ] = None,
    browser: Annotated[
        bool, typer.Option(help="Open the live gateway's page, where there is a screen.")
    ] = True,
    json: Json = False,
) -> None:
    """Show FCFS, rate limits and VTC side by side, in a minute.

    Two clients of which one sends twice as much, then a trace of 27 clients; then two clients live,
    through the gateway, before a simulated engine in real time (a quarter of a minute). Prints a
    short table for each and writes one HTML report with figures.

    With --live a gateway runs before one's eyes instead: one tenant floods it, another sends little
    and waits behind, until VTC takes over from first come, first served: after half of the time, or
    at a key. Prints the address of its page, and at the end what both tenants got of each.

    \b
    fairlane demo
    fairlane demo --trace trace.csv --output mine.html
    fairlane demo --no-gateway
    fairlane demo --live
    fairlane demo --live --seconds 20 --port 8000 --no-browser
    """
    if live:
        _play_live(context, port or 0, seconds or 40.0, browser, json)
        return
    for name, value in (("port", port), ("seconds", seconds)):
        if value is not None:
            raise typer.BadParameter(f"--{name} is for --live")
    from fairlane.experiments.demo import LEGEND, demonstrate

    with progress_bar("simulating") as progress:
        done = demonstrate(
            trace=trace, too_long=too_long, output=output, seed=seed, live=gateway,
            workers=workers, progress=progress, say=say,
        )  # fmt: skip
    if json:
        outcomes = {title: [asdict(one) for one in found] for title, found in done.outcomes.items()}
        print_json({"report": str(done.report), "outcomes": outcomes})
        return
    for table in done.tables:
        first, *others = table.columns
        print_table((f"{first} ", *others), table.rows, table.title)
        print()
    print(LEGEND.replace("; ", "\n"))
    for one in (one for found in done.outcomes.values() for one in found if one.note):
        say(f"{one.scheduler}: {one.note}")
    say(f"wrote {done.report}: open it in a browser")


def _play_live(
    context: typer.Context, port: int, seconds: float, browser: bool, json: bool
) -> None:
    for name in ("trace", "too_long", "output", "seed", "gateway", "workers"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} is not for --live")
    from fairlane.cli.live import show_live

    show_live(port, seconds, browser, json)

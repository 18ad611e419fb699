"""`fairlane demo`: the idea in a minute."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import Json, TooLong, Workers, print_json, print_table, progress_bar, say


def demo(
    trace: Annotated[
        str | None,
        typer.Option(help="CSV, real_trace.pkl or a result file; a synthesized one by default."),
    ] = None,
    too_long: TooLong = None,
    output: Annotated[Path, typer.Option(help="The HTML report.")] = Path("fairlane-demo.html"),
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise.")] = 0,
    live: Annotated[
        bool | None,
        typer.Option(help="Also through the gateway, in real time; by default where it can."),
    ] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Show FCFS, rate limits and VTC side by side, in a minute.

    Two clients of which one sends twice as much, then a trace of 27 clients; then two clients live,
    through the gateway, before a simulated engine in real time (a quarter of a minute). Prints a
    short table for each and writes one HTML report with figures.

    \b
    fairlane demo
    fairlane demo --trace trace.csv --output mine.html
    fairlane demo --no-live
    """
    from fairlane.experiments.demo import LEGEND, demonstrate

    with progress_bar("simulating") as progress:
        done = demonstrate(
            trace=trace, too_long=too_long, output=output, seed=seed, live=live,
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

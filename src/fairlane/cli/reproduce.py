"""`fairlane reproduce`: every figure and table of the paper."""

from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import (
    Json,
    Runs,
    TooLong,
    Workers,
    print_json,
    print_table,
    progress_bar,
    say,
)


def reproduce(
    only: Annotated[
        str | None, typer.Option(help="Figures and tables with commas between; all by default.")
    ] = None,
    runs: Runs = 24,
    trace: Annotated[
        Path | None, typer.Option(help="The real trace as CSV; a synthesized one by default.")
    ] = None,
    too_long: TooLong = None,
    measured: Annotated[
        Path | None, typer.Option(help="Results of the paper's artifact, drawn beside ours.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("reproduction"),
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Simulate and draw the paper's figures and tables.

    The revision's are included. Writes each as PDF, PNG and CSV, and one HTML report. What was
    simulated is kept, so that an interrupted reproduction goes on where it was.

    \b
    fairlane reproduce
    fairlane reproduce --only fig3,fig9 --runs 4
    fairlane reproduce --measured VTC-artifact/fair_bench --output all
    """
    from fairlane.experiments.compare import error_medians
    from fairlane.experiments.reproduce import reproduce as run

    names = [name.strip() for name in only.split(",")] if only is not None else []
    with progress_bar("reproducing") as progress:
        done = run(
            only=names,
            runs=runs,
            trace=trace,
            too_long=too_long,
            measured=measured,
            output=output,
            workers=workers,
            progress=progress,
            say=say,
        )
    medians = error_medians(done.errors)
    if json:
        print_json(
            {
                "report": str(done.report),
                "figures": done.figures,
                "simulated": done.simulated,
                "errors": {m.metric: m.all_files for m in medians},
            }
        )
        return
    print_table(("figure ", "files "), [[f, f"{output / f}.png .pdf .csv"] for f in done.figures])
    if medians:
        print()
        rows = [[m.metric, f"{m.all_files:.2%}", str(m.files)] for m in medians]
        print_table(("metric ", "median |error|", "files"), rows)
    say(f"wrote {done.report}")

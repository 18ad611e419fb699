"""`fairlane plot`: curves of result files, ours and the artifact's."""

from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import say
from fairlane.core.errors import FairlaneError


def plot(
    files: Annotated[list[Path], typer.Argument(help="Result files (.jsonl).")],
    output: Annotated[
        Path, typer.Option(help="The drawing; its suffix is the format: png, pdf or svg.")
    ] = Path("fairlane.png"),
    by_replica: Annotated[
        bool, typer.Option("--by-replica", help="Also draw service at each replica of a cluster.")
    ] = False,
) -> None:
    """Draw service, response time and difference of results.

    Shows any result files beside each other, the artifact's included.

    \b
    fairlane plot vtc.jsonl fcfs.jsonl --output both.pdf
    fairlane plot shared.jsonl independent.jsonl --by-replica
    fairlane plot VTC-artifact/fair_bench/VTC/all_results_overload.jsonl
    """
    from fairlane.experiments.plotting import plot_runs, save_page
    from fairlane.records import read_run

    if twice := [file for i, file in enumerate(files) if file in files[:i]]:
        raise FairlaneError(f"{twice[0]}: named twice; once draws it")
    names = [file.stem for file in files]
    unique = len(set(names)) == len(names)
    runs = {file.stem if unique else str(file): read_run(file) for file in files}
    save_page(plot_runs(runs, by_replica=by_replica), output)
    say(f"wrote {output}")

"""`fairlane profile-cost`: the quadratic cost function of a server."""

from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import Json, format_number, print_json, print_table, say
from fairlane.core.errors import FairlaneError


def profile_cost(
    times: Annotated[
        Path | None,
        typer.Argument(help="CSV: phase, prompt_len, output_len, seconds, and batch if not 1."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Take times from a latency profile: a name or a TOML file.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Equal requests that run together, with --profile: 16."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the cost as TOML, or as JSON by suffix.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit the quadratic cost function to measured times.

    h(x, y) = prompt x + output_linear y + cross x y + output_square y^2 + constant, in
    milliseconds per request of x input and y output tokens. Each row of the CSV times one phase of
    `batch` equal requests: prefill, decode (all output tokens) or request (both).

    \b
    fairlane profile-cost times.csv --output cost.toml
    fairlane profile-cost --profile a10g-llama-2-7b --batch 32
    fairlane simulate overload --cost cost.toml
    """
    from fairlane.experiments.profile_cost import (
        BATCH,
        fit_cost,
        profile_timings,
        read_timings,
        write_cost,
    )
    from fairlane.simulator.profile import get_profile

    if times is not None and batch is not None:
        raise FairlaneError("--batch is for --profile; a CSV file says it in a column")
    if times is not None and profile is None:
        fit, source = fit_cost(read_timings(times)), times.name
    elif profile is not None and times is None:
        fit = fit_cost(profile_timings(get_profile(profile), batch or BATCH))
        source = f"profile {profile}, batches of {batch or BATCH}"
    else:
        raise FairlaneError("give either a CSV file of times or --profile")
    if output is not None:
        write_cost(output, fit, source)
    if json:
        print_json({"cost": fit.coefficients(), "timings": fit.timings, **fit.residuals()})
        return
    numbers = {**fit.coefficients(), "times": fit.timings, **fit.residuals()}
    print_table(("cost (ms) ", ""), [[name, _exactly(value)] for name, value in numbers.items()])
    if output is not None:
        say(f"wrote {output}")


def _exactly(value: float) -> str:
    return format_number(value) if isinstance(value, int) else f"{value:.8g}"

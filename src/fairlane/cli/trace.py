"""`fairlane trace`: look at, convert and make up traces of requests."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import Json, TooLong, format_number, print_json, print_table, say

if TYPE_CHECKING:
    from fairlane.workloads import TraceInfo

app = typer.Typer(
    help="Look at, convert and make up traces.", no_args_is_help=True, rich_markup_mode=None
)
Source = Annotated[
    str, typer.Argument(help="CSV, the artifact's real_trace.pkl, or a result file (.jsonl).")
]


@app.command()
def info(file: Source, json: Json = False) -> None:
    """Say what a trace asks for: rates, lengths, and how unequal its clients are.

    \b
    fairlane trace info trace.csv
    """
    from fairlane.experiments.traces import read_requests
    from fairlane.workloads import info as summarise

    trace = read_requests(file)
    found = summarise(trace.requests)
    if json:
        print_json({"start_s": trace.start_s, **asdict(found)})
    else:
        _print(found, trace.start_s)


@app.command("import")
def import_(
    file: Source,
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    memory_tokens: Annotated[
        int | None, typer.Option(min=2, help="Refuse requests that do not fit in this memory.")
    ] = None,
    too_long: TooLong = None,
) -> None:
    """Check a trace and write it as CSV: client, arrival_s, prompt_len, output_len.

    Arrivals are counted from the first. A pickle is read without executing anything in it.

    \b
    fairlane trace import real_trace.pkl trace.csv
    fairlane trace import VTC/all_results_overload.jsonl requests.csv
    """
    from fairlane.experiments.traces import import_trace

    for note in import_trace(file, output, memory_tokens=memory_tokens, too_long=too_long):
        say(note)


@app.command()
def synthesize(
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another trace.")] = 42,
    clients: Annotated[int, typer.Option(min=1, help="How many clients send.")] = 27,
    requests_per_minute: Annotated[float, typer.Option(help="Of all clients together.")] = 210,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 600,
    mean_prompt: Annotated[float, typer.Option(help="Tokens.")] = 136,
    mean_output: Annotated[float, typer.Option(help="Tokens.")] = 256,
    max_len: Annotated[int, typer.Option(min=1, help="Of prompts and outputs, tokens.")] = 1023,
) -> None:
    """Make up a trace like the one of the paper: clients of very unequal rates.

    \b
    fairlane trace synthesize trace.csv
    fairlane trace synthesize busy.csv --clients 100 --requests-per-minute 600 --seed 1
    """
    from fairlane.workloads import synthesize as make
    from fairlane.workloads import write_csv

    requests = make(
        seed=seed,
        clients=clients,
        requests_per_minute=requests_per_minute,
        duration_s=duration,
        mean_prompt=mean_prompt,
        mean_output=mean_output,
        max_len=max_len,
    )
    write_csv(output, requests)
    say(f"wrote {output}: {len(requests)} requests")


def _print(found: "TraceInfo", start_s: float) -> None:
    print_table(
        ("trace ", ""),
        [
            ["requests", format_number(found.requests)],
            ["clients", format_number(len(found.clients))],
            ["first arrival (s)", f"{start_s:,}"],
            ["duration from there (s)", format_number(found.duration_s)],
            ["requests per minute", format_number(found.requests_per_minute)],
            ["inequality of clients (Gini)", format_number(found.gini)],
            ["variation of gaps (1 is Poisson)", format_number(found.gap_cv)],
        ],
    )
    print()
    lengths = {"prompt": found.prompt, "output": found.output}
    print_table(
        ("tokens ", *asdict(found.prompt)),
        [[name, *map(format_number, asdict(of).values())] for name, of in lengths.items()],
    )
    print()
    print_table(
        ("client ", "requests", "per minute", "mean prompt", "mean output"),
        [
            [client, *map(format_number, numbers)]
            for client, *numbers in (asdict(one).values() for one in found.clients)
        ],
    )

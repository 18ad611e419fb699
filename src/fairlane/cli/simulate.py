"""`fairlane simulate`: one workload under one scheduler."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import (
    Json,
    Runs,
    TooLong,
    Workers,
    parse_numbers,
    print_json,
    progress_bar,
    say,
)
from fairlane.cli.results import print_replicas, print_results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fairlane.experiments.runs import Range, Report


def simulate(
    suite: Annotated[str, typer.Argument(help="A name from `fairlane suites`.")],
    scheduler: Annotated[str, typer.Option(help="A name from `fairlane schedulers`.")] = "vtc",
    profile: Annotated[
        str | None, typer.Option(help="A name from `fairlane profiles`, or a TOML file.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="1,2,3,4: of clients as they first send, or by number; or bob=2,eve=3."),
    ] = None,
    cost: Annotated[
        str, typer.Option(help="linear, quadratic, or a TOML file of `fairlane profile-cost`.")
    ] = "linear",
    rate_limit: Annotated[
        int | None, typer.Option(help="Requests per minute and client that rpm lets pass.")
    ] = None,
    predict_range: Annotated[
        float | None, typer.Option(help="How far vtc-oracle may be off: 0.5 for +-50 %.")
    ] = None,
    quantum: Annotated[
        float | None, typer.Option(help="Service per turn of drr and dlpm, in tokens' worth.")
    ] = None,
    prefix_cache_tokens: Annotated[
        int | None, typer.Option(min=0, help="Size of a prefix cache; none by default.")
    ] = None,
    memory_tokens: Annotated[
        int | None, typer.Option(min=1, help="Size of the KV cache; the profile's by default.")
    ] = None,
    preemption: Annotated[
        str | None,
        typer.Option(help="Of a vLLM profile: newest (default of fcfs) or fairest (of others)."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds that clients send for; the suite's by default.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Requests per second of each client: 1,2.")
    ] = None,
    rate_scale: Annotated[float, typer.Option(help="Times the rate, in the same time.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and the oracle.")] = 0,
    runs: Runs = 1,
    trace: Annotated[
        str | None,
        typer.Option(help="For the suite real: a CSV trace, real_trace.pkl or a result file."),
    ] = None,
    too_long: TooLong = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write one row per request here, and a manifest beside it."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="jsonl, csv or parquet; by the output's suffix by default.")
    ] = None,
    charging: Annotated[
        str | None,
        typer.Option(help="delivery (default), step-start or step-start-and-finish."),
    ] = None,
    artifact: Annotated[
        bool, typer.Option("--artifact", help="Lift and charge as the paper's artifact did.")
    ] = False,
    cold_start: Annotated[
        float, typer.Option(help="Seconds by which the first prefill takes longer.")
    ] = 0.0,
    no_noise: Annotated[
        bool, typer.Option("--no-noise", help="Every step takes exactly what the profile says.")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Servers of this kind; one without a router.")
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="Before replicas: random (default), round-robin, least-tokens, skewed, sticky, "
            "prefix."
        ),
    ] = None,
    reach: Annotated[
        str | None,
        typer.Option(help="bob=0.25: bob's requests go to a quarter of the replicas; all to all."),
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(
            help="Seconds after which replicas tell each other what they charged (0.2), off, or "
            "central: one queue before all."
        ),
    ] = None,
    guard: Annotated[
        float | None,
        typer.Option(help="Part of a replica's service given as if it stood alone (0.05)."),
    ] = None,
    max_debt: Annotated[
        float | None,
        typer.Option(help="Service per weight that a client may be ahead for service elsewhere."),
    ] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Simulate a suite and say what each client got.

    Shows first-token latency (TTFT) and time per output token (TPOT), each client's share of the
    service while it waited beside the share it was entitled to, and how much longer its requests
    took than with the server to itself. With several runs numbers are medians, ranges in brackets.

    \b
    fairlane simulate overload --scheduler vtc
    fairlane simulate overload-weighted --weights 1,2,3,4 --runs 8
    fairlane simulate arena --scheduler rpm --rate-limit 10 --output rpm.jsonl
    fairlane simulate shared-prefix --scheduler dlpm --prefix-cache-tokens 2048
    fairlane simulate overload --profile h200-llama-2-7b --rate-scale 10 --duration 45
    fairlane simulate overload --replicas 8 --router least-tokens --reach 1=0.25
    fairlane simulate real --trace trace.csv --scheduler vtc-oracle --predict-range 0.5
    fairlane simulate real --trace long.csv --duration 600 --too-long clip
    """
    from fairlane.experiments.clusters import cluster_settings, parse_exchange, parse_reach
    from fairlane.experiments.runs import simulate_runs
    from fairlane.experiments.settings import Settings
    from fairlane.experiments.weights import parse_weights

    settings = Settings(
        suite=suite,
        scheduler=scheduler,
        profile=profile,
        weights=parse_weights(weights),
        cost=cost,
        rate_limit=rate_limit,
        predict_range=predict_range,
        quantum=quantum,
        prefix_cache_tokens=prefix_cache_tokens,
        memory_tokens=memory_tokens,
        preemption=preemption,
        duration=duration,
        rates=parse_numbers(rates, "--rates"),
        rate_scale=rate_scale,
        seed=seed,
        trace=trace,
        too_long=too_long,
        charging=charging or ("step-start-and-finish" if artifact else "delivery"),
        artifact_lift=artifact,
        first_prefill_delay_s=cold_start,
        noise=not no_noise,
        cluster=cluster_settings(
            replicas,
            router=router,
            reach=parse_reach(reach),
            exchange=parse_exchange(exchange),
            guard=guard,
            max_debt=max_debt,
        ),
    )
    with progress_bar("simulating") as progress:
        report = simulate_runs(
            settings, runs=runs, output=output, format=format, workers=workers,
            progress=progress, say=say,
        )  # fmt: skip
    if json:
        print_json(_as_json(report))
    else:
        print_results(
            f"{suite} under {scheduler}", report.metrics, report.clients,
            of_cluster=replicas is not None,
        )  # fmt: skip
        print_replicas(report.replicas)
        for file in report.files:
            say(f"wrote {file}")


def _as_json(report: "Report") -> dict[str, object]:
    return {
        "settings": report.settings.described(),
        "runs": report.runs,
        "files": report.files,
        "metrics": {name: value._asdict() for name, value in report.metrics.items()},
        "clients": _rows("client", report.clients),
        **({"replicas": _rows("replica", report.replicas)} if report.replicas else {}),
    }


def _rows(what: str, ranges: "Mapping[str, Mapping[str, Range]]") -> list[dict[str, object]]:
    return [
        {what: name, **{quantity: value._asdict() for quantity, value in values.items()}}
        for name, values in ranges.items()
    ]

"""`fairlane simulated-engine`: an OpenAI-compatible engine without a GPU."""

import signal
from typing import Annotated

import typer

from fairlane.cli.output import say

INTERRUPTED = 130


def simulated_engine(
    profile: Annotated[
        str, typer.Argument(help="A name from `fairlane profiles`, or a TOML file.")
    ] = "h200-llama-2-7b",
    speed: Annotated[float, typer.Option(help="How many times faster than real time.")] = 10.0,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8001,
    memory_tokens: Annotated[
        int | None, typer.Option(min=1, help="Size of the KV cache; the profile's by default.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests that run at once; the profile's by default.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="Who is served next: a name from `fairlane schedulers`.")
    ] = "fcfs",
    model: Annotated[
        str | None, typer.Option(help="The name to serve; the profile's by default.")
    ] = None,
    mean_output: Annotated[
        float, typer.Option(help="Mean length of answers that end by themselves, tokens.")
    ] = 200.0,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths, words and noise.")] = 0,
    no_noise: Annotated[
        bool, typer.Option("--no-noise", help="Every step takes exactly what the profile says.")
    ] = False,
) -> None:
    """Serve OpenAI's API on a simulated engine: no GPU, no model, tokens at their real pace.

    It batches, queues and runs out of memory as the engine that the profile was measured on, and
    answers with words that mean nothing. SIGTERM ends it with status 0, Ctrl-C with 130.

    \b
    fairlane simulated-engine
    fairlane simulated-engine h200-llama-2-7b --speed 1 --max-num-seqs 16 --memory-tokens 20000
    fairlane bench overload --server http://127.0.0.1:8001 --time-scale 0.1 --duration 60
    curl http://127.0.0.1:8001/metrics
    """
    from fairlane.addresses import listen
    from fairlane.simulated.app import SimulatedEngine
    from fairlane.simulated.serve import serve

    engine = SimulatedEngine(
        profile,
        speed,
        memory_tokens=memory_tokens,
        max_num_seqs=max_num_seqs,
        scheduler=scheduler,
        model=model,
        mean_output=mean_output,
        seed=seed,
        noise=not no_noise,
    )

    def ready(url: str) -> None:
        say(f"fairlane: simulated {engine.model} at {speed:g} times its speed, ready at {url}")

    with listen(host, port) as listening:
        ended_by = serve(engine, listening, ready)
    if ended_by is signal.SIGINT:
        raise typer.Exit(INTERRUPTED)

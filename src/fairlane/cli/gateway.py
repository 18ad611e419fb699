"""`fairlane gateway`: token-fair in front of any engine."""

import asyncio
import logging
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import say

if TYPE_CHECKING:
    from fairlane.gateway.config import GatewayConfig

INTERRUPTED = 130
_PROFILE = "h200-llama-2-7b"


def gateway(
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="An engine's address, http://HOST:8001. May be several."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration (TOML): upstreams, tenants, prices.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A name from `fairlane schedulers`, in place of the file's.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that pass bytes; one of them decides.")
    ] = 1,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Bring an engine along, a simulated one.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help=f"Of the simulated engine; {_PROFILE} by default.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="How many times faster than real time it is; 1.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests that run in it at once; the profile's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check everything, say what is served, and end.")
    ] = False,
) -> None:
    """Serve OpenAI and Anthropic clients fairly, with any engine behind.

    Requests wait here, in a fair order, until an engine has room: how much it takes at once is
    learned from its own numbers, or from outside. Everything is checked before it listens; changed
    tenants and [upstreams] are taken up while it runs. SIGTERM or Ctrl-C serves who is here to the
    end, and ends with status 0 or 130.

    \b
    fairlane gateway --upstream http://127.0.0.1:8001
    fairlane gateway --upstream http://10.0.0.1:8001 --upstream http://10.0.0.2:8001 --port 80
    fairlane gateway --config fairlane.toml --host 0.0.0.0 --workers 4
    fairlane gateway --simulated --speed 10 --max-num-seqs 16
    """
    from fairlane.gateway.config import GatewayConfig
    from fairlane.gateway.serve import serve

    logging.basicConfig(format="fairlane: %(message)s", level=logging.WARNING)
    for name, value in (("profile", profile), ("speed", speed), ("max-num-seqs", max_num_seqs)):
        if value is not None and not simulated:
            raise typer.BadParameter(f"--{name} is for --simulated")
    settings = GatewayConfig() if config is None else GatewayConfig.read(config)
    if scheduler is not None:
        settings = settings.with_scheduler(scheduler)
    urls = list(upstream or [])
    with ExitStack() as life:
        if simulated:
            from fairlane.simulated.app import SimulatedEngine
            from fairlane.simulated.serve import in_thread

            engine = SimulatedEngine(profile or _PROFILE, speed or 1.0, max_num_seqs=max_num_seqs)
            urls.append(life.enter_context(in_thread(engine)))
        settings = settings.with_upstreams(urls)
        if check:
            _check(settings)
        elif serve(settings, host, port, config, workers) is signal.SIGINT:
            raise typer.Exit(INTERRUPTED)


def _check(settings: "GatewayConfig") -> None:
    from fairlane.gateway.run import Running

    for model, upstreams in asyncio.run(Running(settings).check()).items():
        print(f"{model}: {', '.join(upstreams)}")
    if settings.access.warning:
        say(f"warning: {settings.access.warning}")

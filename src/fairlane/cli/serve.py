"""`fairlane serve`: vLLM with fair scheduling, in one command."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fairlane.cli.output import parse_numbers, say
from fairlane.core.errors import FairlaneError

VLLM_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model's folder or name, as for vLLM.")],
    scheduler: Annotated[
        str | None, typer.Option(help="A name from `fairlane schedulers`; vtc by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration (TOML): tenants, limits, prices.")
    ] = None,
    dummy: Annotated[bool, typer.Option("--dummy", help="Random weights.")] = False,
    num_adapters: Annotated[
        int, typer.Option(min=0, help="Clients as LoRA adapters of random weights: adapter-0 ...")
    ] = 0,
    memory_tokens: Annotated[
        int | None, typer.Option(min=1, help="Size of the KV cache; as vLLM finds by default.")
    ] = None,
    rate_limit: Annotated[
        int | None, typer.Option(min=1, help="Requests per minute and client; beyond, status 429.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of adapter-0, adapter-1 and so on: 1,2,3.")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="linear, quadratic, or a file of `fairlane profile-cost`.")
    ] = None,
    in_ray: Annotated[
        bool, typer.Option("--ray", help="By Ray Serve LLM, in replicas that share one fairness.")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: how many; 1 by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the command.")
    ] = False,
) -> None:
    """Serve a model with vLLM, fairly between clients. Other options are vLLM's own.

    Everything that can be wrong is found before the model is loaded: the configuration, the
    tenants, options that do not go together, a port that is taken.

    \b
    fairlane serve meta-llama/Llama-3.1-8B --config fairlane.toml --port 8000
    fairlane serve ./llama --dummy --num-adapters 50 --scheduler vtc --memory-tokens 10000
    fairlane serve meta-llama/Llama-3.1-8B --config fairlane.toml --ray --replicas 4
    """
    from fairlane.engines.ray import serve as by_ray
    from fairlane.engines.vllm.serve import ServeOptions, check_installed, plan

    if replicas is not None and not in_ray:
        raise FairlaneError("--replicas: without --ray there is one server; add --ray")
    options = ServeOptions(
        config=config,
        scheduler=scheduler,
        dummy=dummy,
        num_adapters=num_adapters,
        memory_tokens=memory_tokens,
        rate_limit=rate_limit,
        weights=parse_numbers(weights, "--weights"),
        cost=cost,
    )
    if not dry_run:
        (by_ray.check_installed if in_ray else check_installed)()
    if in_ray:
        planned = by_ray.plan(model, options, replicas or 1, context.args, os.environ)
    else:
        planned = plan(model, options, context.args, os.environ)
    if planned.warning:
        say(f"warning: {planned.warning}")
    shown = [f"{name}={value}" for name, value in planned.environment.items()] + planned.command
    if dry_run:
        print(shlex.join(shown))
        return
    say(f"fairlane: {shlex.join(shown)}")
    os.execve(planned.command[0], planned.command, os.environ | planned.environment)

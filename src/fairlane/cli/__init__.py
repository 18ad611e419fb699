"""The `fairlane` command: one subcommand per file, none with logic of its own.

Subcommands import what they run inside their functions, so that the command starts at once
whatever one of them needs. Errors of the user's making end with status 2 and one line.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from fairlane import __version__
from fairlane.cli import (
    bench,
    compare,
    demo,
    gateway,
    lists,
    plot,
    profile_cost,
    reproduce,
    serve,
    simulate,
    simulated_engine,
    tenants,
    top,
    trace,
    usage,
)

INTERRUPTED = 130
# what all usage errors are; typer has no public name for it
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="fairlane",
    help="Fair scheduling of LLM serving: simulate, measure, reproduce, draw.",
    epilog="Start with `fairlane demo`; `fairlane COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("schedulers")(lists.schedulers)
app.command("suites")(lists.suites)
app.command("profiles")(lists.profiles)
app.command("simulate")(simulate.simulate)
app.command("bench")(bench.bench)
app.command("simulated-engine")(simulated_engine.simulated_engine)
app.command("serve", context_settings=serve.VLLM_OPTIONS)(serve.serve)
app.command("gateway")(gateway.gateway)
app.add_typer(tenants.app, name="tenants")
app.command("top")(top.top)
app.command("usage")(usage.usage)
app.command("reproduce")(reproduce.reproduce)
app.command("compare")(compare.compare)
app.command("plot")(plot.plot)
app.add_typer(trace.app, name="trace")
app.command("profile-cost")(profile_cost.profile_cost)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fairlane {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for bad input, 130 for an interrupt, 1 for a mistake of
    ours, and what a subcommand's help says beside these.
    """
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = app(args=arguments, prog_name="fairlane", standalone_mode=False) or 0
        sys.stdout.flush()
        return _interrupted() if status == INTERRUPTED else int(status)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _UsageError as error:
        return _complain_of_usage(error)
    except ValueError as error:
        return _complain(str(error), error, 2)
    except OSError as error:
        return _complain(f"{error.filename}: {(error.strerror or '').lower()}", error, 2)
    except Exception as error:
        return _complain(f"a mistake of fairlane's own: {error!r}", error, 1)


def _interrupted() -> int:
    print("fairlane: interrupted", file=sys.stderr)
    return INTERRUPTED


def _complain_of_usage(error: typer.BadParameter) -> int:
    """One line that names the help; or the help itself where nothing was asked for."""
    message = error.format_message()
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
        return 2
    command = error.ctx.command_path if error.ctx else "fairlane"
    return _complain(f"{message.rstrip('.')}; see {command} --help", error, 2)


def _complain(message: str, error: Exception, status: int) -> int:
    """One line to standard error; where it came from only if FAIRLANE_TRACEBACK is set."""
    if os.environ.get("FAIRLANE_TRACEBACK"):
        raise error
    print(f"fairlane: {' '.join(message.split())}", file=sys.stderr)
    return status

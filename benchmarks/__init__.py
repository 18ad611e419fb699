"""Measurements of speed and of fairness: `python -m benchmarks.NAME` prints tables in Markdown.

`make bench` runs all that need neither vLLM nor Ray. With --quick each takes seconds: it shows that
it runs, and its numbers mean nothing.
"""

import argparse
from typing import Any


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="seconds, to show that it runs")
    return made


def chosen(options: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """What the command line asks for; with --quick, `quick` are the defaults."""
    if options.parse_known_args()[0].quick:
        options.set_defaults(**quick)
    return options.parse_args()

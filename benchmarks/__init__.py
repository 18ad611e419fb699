"""Measurements of speed and of fairness: `python -m benchmarks.NAME` prints tables in Markdown.

`make bench` runs all that need no vLLM. With --quick each takes seconds: it shows that it runs, and
its numbers mean nothing.
"""

import argparse


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="seconds, to show that it runs")
    return made

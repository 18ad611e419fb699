"""Which versions of an engine were tested; others are tried, with a warning.

Shared by the modules that hold an engine's private names. Imports the standard library alone.
"""

import logging
import re


def was_tested(
    engine: str,
    version: str,
    oldest: tuple[int, ...],
    newest: tuple[int, int],
    log: logging.Logger,
) -> bool:
    """Whether a version is from `oldest` to any of `newest`; warns when it is not."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    found = tuple(int(n or 0) for n in numbers.groups()) if numbers else (0, 0, 0)
    if found >= oldest and found[:2] <= newest:
        return True
    first, last = (".".join(map(str, edge)) for edge in (oldest, newest))
    log.warning(
        "Fairlane was tested with %s %s to %s.x, and this is %s: watch for errors, or take a "
        "version in between.", engine, first, last, version,
    )  # fmt: skip
    return False

"""Takes up changed `[upstreams]` of a configuration while the gateway runs.

What else changed in the file needs a restart, and the log says so. A file that is wrong, or an
upstream that cannot be asked what it serves, changes nothing; the log says why, once, and it is
tried again.
"""

import logging
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.files import stamp_of
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.fleet import Fleet, UpstreamPlan

log = logging.getLogger("fairlane.gateway")
_HERE = "upstreams"


class Reload:
    """See the module. named: upstreams of the command line, which stay."""

    def __init__(self, path: Path, named: Sequence[UpstreamPlan]) -> None:
        self._path = path
        self._named = named
        self._seen = stamp_of(path)
        self._tables = _tables(path)
        self._wanted = False  # a change that is not taken up yet
        self._said = ""

    async def look(self, fleet: Fleet) -> None:
        """Look whether the file changed, and take up what it says of upstreams."""
        stamp = stamp_of(self._path)
        if stamp == self._seen and not self._wanted:
            return
        self._seen, self._wanted = stamp, True
        try:
            config = GatewayConfig.read(self._path)
            before = fleet.addresses.keys()
            plans = [*config.upstreams, *self._named]
            if not plans:
                raise FairlaneError(f"{self._path}: no upstream is left; the last ones stay")
            await fleet.change(plans)
        except FairlaneError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.error("the upstreams stay as they were: %s", error)
            return
        self._wanted, self._said = False, ""
        after = fleet.addresses.keys()
        log.warning(
            "%s is taken up: upstreams %s%s", self._path.name, ", ".join(sorted(after)),
            "".join(f"; {name} is drained" for name in sorted(before - after)),
        )  # fmt: skip
        self._tell_the_rest()

    def _tell_the_rest(self) -> None:
        """Say what changed in the file and has no effect before a restart."""
        before, self._tables = self._tables, _tables(self._path)
        names = sorted(before.keys() | self._tables.keys())
        changed = [n for n in names if n != _HERE and before.get(n) != self._tables.get(n)]
        if changed:
            log.warning("changes of %s need a restart", ", ".join(changed))


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

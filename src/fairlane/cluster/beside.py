"""A loop that runs beside its host: watched while it does, and let say its last word at the end.

For `Exchange` and `SharedLimits`, in any host. Imports the standard library alone.
"""

import asyncio
import logging
from typing import Protocol

END_S = 5.0  # for the last word


class Loop(Protocol):
    """What may run beside a host."""

    async def run(self) -> None:
        """Until `stop`; then what is left to say."""

    def stop(self) -> None:
        """Let `run` come to its end."""


class Beside:
    """Runs `loop` from now on. failed: what is logged when it ends by an error."""

    def __init__(self, loop: Loop, failed: str, log: logging.Logger) -> None:
        self._loop, self._failed, self._log = loop, failed, log
        self._task = asyncio.get_running_loop().create_task(loop.run())
        self._task.add_done_callback(self._say_failure)

    async def end(self) -> None:
        """Let it come to its end, or cancel it after END_S."""
        self._loop.stop()
        await asyncio.wait({self._task}, timeout=END_S)
        self._task.cancel()
        await asyncio.wait({self._task})

    def _say_failure(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error(self._failed, exc_info=error)

"""Limits that hold over all servers of a pool: a server's side, from its start to its end."""

import asyncio
import logging

from fairlane.cluster.config import Cluster
from fairlane.cluster.hub import Hub
from fairlane.cluster.shared_limits import SharedLimits
from fairlane.door.admission import Admission

_END_S = 5.0  # for the last word to the hub


class Asking:
    """Has the hub of a pool asked about limits, where `cluster` says so."""

    def __init__(self, cluster: Cluster, admission: Admission, log: logging.Logger) -> None:
        self._cluster = cluster
        self._admission = admission
        self._log = log
        self._hub: Hub | None = None
        self.shared: SharedLimits | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on. Raises FairlaneError where the hub cannot be asked at all."""
        if not self._cluster.shared_limits:
            return
        self._hub = self._cluster.connect()
        assert self._hub is not None, "shared_limits is refused without a hub"
        every_s = self._cluster.every_s
        self.shared = SharedLimits(self._hub, every_s=every_s, log=self._log)
        self._admission.ask(self.shared)
        self._task = asyncio.create_task(self.shared.run())
        self._task.add_done_callback(self._tell_failure)

    async def stop(self) -> None:
        """Tell the hub the rest, and end."""
        if self._task is None or self.shared is None or self._hub is None:
            return
        self.shared.stop()
        await asyncio.wait({self._task}, timeout=_END_S)
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        await self._hub.close()

    def _tell_failure(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("limits hold for this server alone from now on", exc_info=error)

"""Limits that hold over all servers of a pool: a server's side, from its start to its end."""

import logging

from fairlane.cluster.beside import Beside
from fairlane.cluster.config import Cluster
from fairlane.cluster.hub import Hub
from fairlane.cluster.shared_limits import SharedLimits
from fairlane.door.admission import Admission


class Asking:
    """Has the hub of a pool asked about limits, where `cluster` says so."""

    def __init__(self, cluster: Cluster, admission: Admission, log: logging.Logger) -> None:
        self._cluster = cluster
        self._admission = admission
        self._log = log
        self._hub: Hub | None = None
        self.shared: SharedLimits | None = None
        self._running: Beside | None = None

    def start(self) -> None:
        """From now on. Raises FairlaneError where the hub cannot be asked at all."""
        if not self._cluster.shared_limits:
            return
        self._hub = self._cluster.connect()
        assert self._hub is not None, "shared_limits is refused without a hub"
        every_s = self._cluster.every_s
        self.shared = SharedLimits(self._hub, every_s=every_s, log=self._log)
        self._admission.ask(self.shared)
        failed = "limits hold for this server alone from now on"
        self._running = Beside(self.shared, failed, self._log)

    async def stop(self) -> None:
        """Tell the hub the rest, and end."""
        running, self._running = self._running, None
        if running is not None and self._hub is not None:
            await running.end()
            await self._hub.close()

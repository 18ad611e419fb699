"""Usage is kept: what was served and refused is written to the database, every few seconds.

It runs beside a host, in its loop; the database is asked in a thread. Where it cannot be used,
what is to be written stays in memory, the log says so once, a metric tells, and nobody's request
waits.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from fairlane.cluster.beside import Beside
from fairlane.door.admission import Admission
from fairlane.usage.config import Keeping
from fairlane.usage.ledger import Ledger
from fairlane.usage.store import Store, StoreError
from fairlane.usage.tally import Grown

Take = Callable[[], Awaitable[Iterable[Grown]]]
"""What each scheduler served since it was last asked. May raise anything."""


class Keeper:
    """Keeps the usage of one server; see the module.

    take: the schedulers' part. log: where its host's words go. clock: seconds since 1970.
    """

    def __init__(
        self,
        keeping: Keeping,
        admission: Admission,
        take: Take,
        log: logging.Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._every_s = keeping.every_s
        self._admission = admission
        self._take = take
        self._log = log
        self._clock = clock
        self.store: Store = keeping.store()
        self.ledger = Ledger(self.store, keeping.keep_days, clock)
        self._ends = asyncio.Event()
        self._running: Beside | None = None

    async def begin(self) -> None:
        """From now on. Raises FairlaneError for a database of another version."""
        await self._take_all()
        await self._exchange()
        self._log.warning("usage is kept in %s", self.store.name)
        self._running = Beside(self, "usage is kept no more", self._log)

    async def end(self) -> None:
        """Write the rest, and end."""
        running, self._running = self._running, None
        if running is not None:
            await running.end()
            self.store.close()

    async def run(self) -> None:
        """See Loop."""
        while not self._ends.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), self._every_s)
            await self._turn()
        if self.ledger.pending:  # a batch that had failed is in, and what came after it is left
            await self._turn()
        if self.ledger.pending:
            self._log.error("%d rows of usage are lost", self.ledger.pending)

    def stop(self) -> None:
        """See Loop."""
        self._ends.set()

    def report(self) -> dict[str, Any]:
        """For telemetry: how writing goes."""
        told = self.ledger.report
        return {
            "up": not told.problem,
            "problem": told.problem or None,
            "failures": told.failures,
            "pending": self.ledger.pending,
            "age_s": None if told.at is None else max(0.0, self._clock() - told.at),
        }

    # -- inside ------------------------------------------------------------------------------

    async def _turn(self) -> None:
        await self._take_all()
        await self._exchange()

    async def _take_all(self) -> None:
        try:
            for grown in await self._take():
                self.ledger.add(grown)
        except Exception as error:
            self._log.error("what was served is not known: %s: %s", type(error).__name__, error)
        self.ledger.add(self._admission.tally.take())

    async def _exchange(self) -> None:
        self.ledger.prepare()
        try:
            await asyncio.to_thread(self.ledger.exchange, ())
        except StoreError as error:
            if self.ledger.failed(str(error)):
                self._log.error("usage is kept in memory until it can be written: %s", error)
            return
        again = bool(self.ledger.report.problem)
        self.ledger.written()
        if again:
            self._log.warning("usage is written again")

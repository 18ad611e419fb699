"""Usage is kept: what was served and refused is written to the database, every few seconds, and
what quotas need is read.

It runs beside a host, in its loop; the database is asked in a thread. Where it cannot be used,
what is to be written stays in memory, the log says so once, a metric tells, and nobody's request
waits.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fairlane.cluster.beside import Beside
from fairlane.door.door import Door
from fairlane.usage.config import Keeping
from fairlane.usage.errors import StoreError
from fairlane.usage.ledger import Ledger
from fairlane.usage.quotas import Quota, Quotas
from fairlane.usage.rows import Sums
from fairlane.usage.tally import Grown

if TYPE_CHECKING:  # an extra
    from fairlane.usage.store import Store

Take = Callable[[], Awaitable[Iterable[Grown]]]
"""What each scheduler served since it was last asked. May raise anything."""


class Keeper:
    """Keeps the usage of one server, and says who is within quotas; see the module.

    take: the schedulers' part. changed: is called when somebody's weight falls, or is whole again.
    log: where its host's words go. clock: seconds since 1970.
    """

    def __init__(
        self,
        keeping: Keeping,
        door: Door,
        take: Take,
        changed: Callable[[], None],
        log: logging.Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._every_s = keeping.every_s
        self._door = door
        self._take = take
        self._changed = changed
        self._log = log
        self.clock = clock
        self.store: Store = keeping.store()
        self.ledger = Ledger(self.store, keeping.keep_days, clock)
        self.quotas = Quotas(
            self._quotas_of, self.ledger.unwritten, clock, soft_weight=keeping.soft_weight
        )
        door.admission.quotas = self.quotas
        self._ends = asyncio.Event()
        self._running: Beside | None = None

    async def check(self) -> None:
        """Raise FairlaneError for a database of another version; one that is away may come."""
        with suppress(StoreError):
            await asyncio.to_thread(self.store.spent, ())

    async def begin(self) -> None:
        """From now on. Raises as `check`."""
        self._log.warning("usage is kept in %s", self.store.name)
        await self._turn()
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
            "age_s": None if told.at is None else max(0.0, self.clock() - told.at),
        }

    # -- inside ------------------------------------------------------------------------------

    def _quotas_of(self, path: str) -> Sequence[Quota]:
        limits = self._door.limits_of(path)
        return () if limits is None else limits.quotas

    async def _turn(self) -> None:
        await self._take_all()
        await self._exchange()

    async def _take_all(self) -> None:
        found: list[Grown] = []
        try:
            found += await self._take()
        except Exception as error:
            self._log.error("what was served is not known: %s: %s", type(error).__name__, error)
        found.append(self._door.admission.tally.take())
        await asyncio.to_thread(self._add, found)

    def _add(self, found: Iterable[Grown]) -> None:
        for grown in found:
            self.ledger.add(grown)

    async def _exchange(self) -> None:
        paths = list(dict.fromkeys((*self._door.tenants.with_quotas, *self.quotas.asked)))
        self.ledger.prepare()
        try:
            sums = await asyncio.to_thread(self._write, paths)
        except StoreError as error:
            if self.ledger.failed(str(error)):
                self._log.error("usage is kept in memory until it can be written: %s", error)
        else:
            again = bool(self.ledger.report.problem)
            self.ledger.written()
            self.quotas.read(sums)
            if again:
                self._log.warning("usage is written again")
        over = await asyncio.to_thread(self.quotas.beyond, paths)
        if over != self.quotas.over:
            self.quotas.over = over
            self._changed()

    def _write(self, paths: Iterable[str]) -> Sums:
        return self.ledger.exchange(self.quotas.wanted(paths))

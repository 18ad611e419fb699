"""What was served and is not in the database yet, and how it gets there.

What has grown is added to a batch in memory. A batch that was begun to be written stays as it is
until it is in, however often that is tried; what grows meanwhile goes into the next.
"""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairlane.usage.rows import Batch, Spent
from fairlane.usage.tally import Grown

if TYPE_CHECKING:  # an extra
    from fairlane.usage.store import Store

_MOST = 100_000  # rows in memory while the database is away; then all others are one
_DAY_S = 86400.0
_FORGETS_S = 3600.0


@dataclass(slots=True)
class Report:
    """How writing goes. at: of the last success, by the ledger's clock."""

    failures: int = 0
    at: float | None = None
    problem: str = ""


class Ledger:
    """See the module. clock: seconds since 1970. keep_days: how long things stay written."""

    def __init__(
        self, store: "Store", keep_days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._keep_s = keep_days * _DAY_S
        self._clock = clock
        self._writer = uuid.uuid4().hex
        self._sequence = 1
        self._next = Batch()
        self._sending = Batch()
        self._forgets_at = 0.0
        self.report = Report()

    @property
    def pending(self) -> int:
        """Rows that are not in the database."""
        return len(self._next) + len(self._sending)

    def add(self, grown: Grown) -> None:
        """Add what has grown until now."""
        self._next.add(grown, self._clock(), _MOST)

    def unwritten(self, period: str, path: str) -> Spent:
        """What was spent and is not in the database."""
        key = (period, path)
        none = Spent()
        return self._next.spent.get(key, none).plus(self._sending.spent.get(key, none))

    def prepare(self) -> None:
        """Let the next `exchange` write what has grown."""
        if not self._sending:
            self._sending, self._next = self._next, Batch()

    def exchange(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Spent]:
        """Write, and read what was spent, by anybody; blocks. Raises StoreError; try again then.

        To be followed by `written`, in the thread that adds.
        """
        now = self._clock()
        if self._sending:
            self._store.write(self._writer, self._sequence, self._sending, now)
        if now >= self._forgets_at:
            self._store.forget(now - self._keep_s)
            self._forgets_at = now + _FORGETS_S
        return self._store.spent(wanted)

    def written(self) -> None:
        """The last exchange succeeded."""
        if self._sending:
            self._sequence += 1
            self._sending = Batch()
        self.report.at, self.report.problem = self._clock(), ""

    def failed(self, problem: str) -> bool:
        """The last exchange failed; whether that is new."""
        new = not self.report.problem
        self.report.failures += 1
        self.report.problem = problem
        return new

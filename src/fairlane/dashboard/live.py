"""What is seen of a server, once a period, for however many look: frames, and a history of them.

One producer for a server's process. It runs while somebody asks for frames, and for as long after
as history is kept. What all operators get is made once, by the first who asks: what changed since
the frame before, and all of it for who is new or too slow. A client's frame is its own row.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fairlane.dashboard.history import History
from fairlane.dashboard.rows import COLUMNS, Row, Rows, Servers, chosen, number
from fairlane.door.door import Door

log = logging.getLogger("fairlane.dashboard")
PERIOD_S = 1.0
LINGER_S = 600.0  # after the last question
_DRAWN = 12  # clients whose history everyone gets who sees all
Look = Callable[[], Awaitable[Mapping[str, Any]]]
"""What operators are told by GET /fairlane/tenants, and `upstreams` where there are any."""
Told = tuple[int, bytes]
TELLS = ("frame", "history", "begin")  # what a Live is asked


class Frame:
    """One period; see the module. rows: by path. before: those of the frame before."""

    def __init__(
        self, number: int, head: Mapping[str, Any], rows: dict[str, Row], before: dict[str, Row]
    ) -> None:
        self.number = number
        self._head = head
        self._rows, self._before = rows, before
        self._made: dict[str | None, bytes] = {}
        self._full: bytes | None = None

    def since(self, last: int | None) -> bytes:
        """For who sees all, and had the frame `last`."""
        if last is not None and last == self.number - 1:
            if None not in self._made:
                changed = [r for path, r in self._rows.items() if self._before.get(path) != r]
                gone = [path for path in self._before if path not in self._rows]
                self._made[None] = _event(self._head, changed, gone, full=False)
            return self._made[None]
        if self._full is None:
            self._full = _event(self._head, self._rows.values(), [], full=True)
        return self._full

    def of(self, client: str) -> bytes:
        """For one client: itself, and nothing of others."""
        if client not in self._made:
            nothing = dict.fromkeys(("now", "observed", "bound", "at_most", "between"))
            silent = self._head["policy"] is None
            head = {
                "t": self._head["t"], "policy": self._head["policy"],
                "problem": "the scheduler did not answer" if silent else None,
                "difference": nothing,
            }  # fmt: skip
            row = self._rows.get(client)
            self._made[client] = _event(head, [] if row is None else [row], [], full=True)
        return self._made[client]

    def done_with(self) -> dict[str, Row]:
        """The rows; what came before is needed no more."""
        self._before = {}
        return self._rows


class Live:
    """The producer; see the module. look: asks the schedulers; may raise anything.

    door: of this process, which hears of first tokens. period_s: between two frames.
    """

    def __init__(self, look: Look, door: Door, *, period_s: float = PERIOD_S) -> None:
        self._look = look
        self._door = door
        self._period_s = period_s
        self._history = History(round(LINGER_S / period_s))
        self._number = 0
        self._reset()
        self._new = asyncio.Event()
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None

    async def tell(self, what: str, whose: str | None, *more: Any) -> Any:
        """What viewers ask for. whose: a client's path; None: of who sees all.

        "frame", the number of the last one or None: the next one's number and event, at once where
        there is one. "history", a path: its last minutes, which the host lets see whom it may.
        "begin": those of all together, as JSON.
        """
        self._keep_on()
        if what == "frame":
            return await self._next(whose, *more)
        if what == "history":
            return self._history.of(*more)
        return self._begin(whose)

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def runs(self) -> bool:
        """Whether it looks at the schedulers."""
        return self._task is not None and not self._task.done()

    # -- inside ------------------------------------------------------------------------------

    async def _next(self, whose: str | None, last: int | None) -> Told:
        while self._frame is None or (last is not None and self._frame.number <= last):
            await self._new.wait()
        frame = self._frame
        return frame.number, frame.since(last) if whose is None else frame.of(whose)

    def _begin(self, whose: str | None) -> bytes:
        if whose is None:
            return _json(self._history.most_served(_DRAWN)).encode()
        own = self._history.of(whose)
        nothing = [None] * len(own["t"])
        told = {"t": own["t"], "total": own["rate"], "now": nothing, "bound": nothing}
        return _json({**told, "clients": {whose: own["rate"]}}).encode()

    def _reset(self) -> None:
        self._rows = Rows(self._door.admission.first_tokens)
        self._servers = Servers()
        self._frame: Frame | None = None

    def _keep_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._until = loop.time() + LINGER_S
        if not self.runs:
            self._reset()
            self._history.clear()
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        at, said = loop.time(), ""
        while loop.time() < self._until:
            try:
                self._take(await self._look())
            except Exception as error:
                if repr(error) != said:
                    said = repr(error)
                    log.exception("a mistake of the dashboard's own")
            at = max(at + self._period_s, loop.time())
            await asyncio.sleep(at - loop.time())

    def _take(self, seen: Mapping[str, Any]) -> None:
        before = {} if self._frame is None else self._frame.done_with()
        if seen.get("policy") is None:  # the scheduler did not answer: what is known stays
            rows = before
        else:
            tenants = self._door.tenants
            rows = chosen(self._rows.take(seen["clients"], tenants, self._door.clock()))
        t = round(time.time(), 3)
        head = {"t": t, "policy": seen.get("policy"), "problem": seen.get("problem")}
        head["difference"] = difference = _difference(seen)
        if "upstreams" in seen:
            head["upstreams"] = seen["upstreams"]
        if seen.get("cluster") is not None:
            head["cluster"] = self._servers.take(seen["cluster"], self._door.clock())
        self._history.add(t, rows, difference["now"], difference["bound"])
        self._number += 1
        self._frame = Frame(self._number, head, rows, before)
        self._new.set()
        self._new = asyncio.Event()


def _difference(seen: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "now": number(seen.get("difference_now"), 1),
        "observed": number(seen.get("observed_difference"), 1),
        "bound": number(seen.get("bound"), 1),
        "at_most": number(seen.get("at_most"), 1),
    }
    return {**told, "between": seen.get("between")}


def _event(head: Mapping[str, Any], rows: Iterable[Row], gone: list[str], *, full: bool) -> bytes:
    clients = [[row[column] for column in COLUMNS] for row in rows]
    return event("frame", _json({**head, "full": full, "clients": clients, "gone": gone}))


def event(name: str, data: str) -> bytes:
    """A server-sent event; `data` is of one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()


def _json(value: Any) -> str:
    """One line of ASCII: any name is written, and no line end breaks an event."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))

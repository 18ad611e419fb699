"""A desk for other processes: what its tickets say, over a pair of sockets.

The sockets are a pair that only the deciding process and its own child have, so messages are
pickled. All that is sent within one turn of the loop travels together. Where the child is gone, its
requests end, charged for what was told of them.
"""

import asyncio
import itertools
import logging
import pickle
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

from fairlane.core.errors import FairlaneError
from fairlane.door.admission import Caller, Refused
from fairlane.door.door import Door
from fairlane.door.visits import Visit
from fairlane.gateway.desk import Desk, Failure, LocalTicket, Served, Ticket, Wish
from fairlane.gateway.dispatch import TICK_S

log = logging.getLogger("fairlane.gateway")
_LENGTH = 4  # bytes that say how many follow
Message = tuple[Any, ...]


def packed(messages: list[Message]) -> bytes:
    """Messages as they travel."""
    data = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH) + data


def first(to: socket.socket) -> Message:
    """The first message that comes, awaited by a process that has no loop yet."""
    length = int.from_bytes(_exactly(to, _LENGTH))
    message: Message = pickle.loads(_exactly(to, length))[0]
    return message


def _exactly(to: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = to.recv(count - len(data))
        if not more:
            raise FairlaneError("the gateway has stopped")
        data += more
    return data


class Channel(asyncio.Protocol):
    """One end of a pair of sockets. received: is called with each message; lost: at the end."""

    def __init__(self, received: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._received, self._lost = received, lost
        self._transport: asyncio.WriteTransport | None = None
        self._out: list[Message] = []
        self._in = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, *message: Any) -> None:
        """Send a message, soon."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(message)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._in += data
        while len(self._in) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._in[:_LENGTH])
            if len(self._in) < end:
                return
            messages = pickle.loads(self._in[_LENGTH:end])
            del self._in[:end]
            for message in messages:
                self._received(message)

    def connection_lost(self, error: Exception | None) -> None:
        """The other process is gone."""
        self._transport = None
        self._lost()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        messages, self._out = self._out, []
        if self._transport is not None and messages:
            self._transport.write(packed(messages))


# -- in the process that passes bytes ---------------------------------------------------------


class RemoteDesk:
    """The desk of another process.

    door: that of this process, which looks at keys alone. told: is called with what else the other
    process says.
    """

    def __init__(self, door: Door, told: Callable[[Message], None], lost: Callable[[], None]):
        self._door = door
        self._told = told
        self._gone = lost
        self.channel = Channel(self._receive, self._lost)
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._tokens: dict[int, int] = {}

    def take_up_changes(self) -> None:
        """Take up a changed file of tenants, before anybody's key is looked at."""
        self._door.look_for_changes()

    async def arrive(self, caller: Caller) -> Ticket:
        """A request of a known client comes in. Raises Refused, by its client's limits."""
        number = next(self._numbers)
        headers = await self.ask("arrive", number, caller.client, caller.operator)
        return RemoteTicket(self, number, headers)

    async def tell(self, what: str, caller: Caller, *more: Any) -> Any:
        """See AnyDesk."""
        number = next(self._numbers)
        return await self.ask("tell", number, what, caller.client, caller.operator, *more)

    async def ask(self, what: str, number: int, *more: Any) -> Any:
        """Send a message and await its answer. Raises Refused."""
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.channel.send(what, number, *more)
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    def counts(self, number: int, tokens: int) -> None:
        """A request has so many tokens so far: told with those of others, some times a second."""
        if not self._tokens:
            asyncio.get_running_loop().call_later(TICK_S, self._report)
        self._tokens[number] = tokens

    def ends(self, number: int, served: Served, visit: Visit) -> None:
        """A request is over."""
        self._tokens.pop(number, None)
        self.channel.send("end", number, served, visit)

    def over(self, visit: Visit) -> None:
        """A request that never had a ticket is over."""
        self.channel.send("over", visit)

    def _report(self) -> None:
        tokens, self._tokens = self._tokens, {}
        if tokens:
            self.channel.send("tokens", tokens)

    def _receive(self, message: Message) -> None:
        kind, *rest = message
        if kind not in ("answer", "refused"):
            self._told(message)
            return
        answer = self._answers.get(rest[0])
        if answer is None or answer.done():  # nobody waits for it any more
            return
        if kind == "answer":
            answer.set_result(rest[1])
        else:
            answer.set_exception(Refused(*rest[1]))

    def _lost(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Refused(503, "stopped", "The gateway has stopped."))
        self._gone()


class RemoteTicket:
    """A ticket of another process's desk; see Ticket."""

    def __init__(self, desk: RemoteDesk, number: int, headers: Mapping[str, str]) -> None:
        self._desk, self._number = desk, number
        self.rate_headers = headers

    async def turn(self, wish: Wish) -> str:
        """See Ticket."""
        name, self.rate_headers = await self._desk.ask("turn", self._number, wish)
        return str(name)

    def flows(self) -> None:
        """Its answer begins."""
        self._desk.channel.send("flows", self._number)

    def tokens(self, so_far: int) -> None:
        """Its answer holds so many tokens so far."""
        self._desk.counts(self._number, so_far)

    def fails(self, failure: Failure) -> None:
        """The upstream whose turn it was did not take it."""
        self._desk.channel.send("fails", self._number, failure)

    def end(self, served: Served, visit: Visit) -> None:
        """It is over."""
        self._desk.ends(self._number, served, visit)


# -- in the process that decides --------------------------------------------------------------


class Hatch:
    """The desk's end of one channel. told: is called with what is not for the desk."""

    def __init__(self, desk: Desk, told: Callable[[Message], None]) -> None:
        self._desk = desk
        self._told = told
        self.channel = Channel(self._receive, self._lost)
        self._tickets: dict[int, LocalTicket] = {}
        self._work: dict[int, asyncio.Task[None]] = {}  # what awaits something, by its number
        self._takes: Mapping[str, Callable[..., None]] = {
            "arrive": lambda number, *who: self._later(number, self._arrive(number, *who)),
            "tell": lambda number, *asked: self._later(number, self._tell(number, *asked)),
            "turn": lambda number, wish: self._later(number, self._turn(number, wish)),
            "flows": lambda number: self._tickets[number].flows(),
            "tokens": self._tokens,
            "fails": lambda number, failure: self._tickets[number].fails(failure),
            "end": self._end,
            "over": desk.over,
        }

    def _receive(self, message: Message) -> None:
        kind, *rest = message
        take = self._takes.get(kind)
        if take is None:
            self._told(message)
        else:
            take(*rest)

    async def _arrive(self, number: int, client: str, operator: bool) -> None:
        self._desk.take_up_changes()
        try:
            ticket = await self._desk.arrive(Caller(client, operator))
        except Refused as refused:
            self._refuse(number, refused)
            return
        self._tickets[number] = ticket
        self.channel.send("answer", number, dict(ticket.rate_headers))

    async def _turn(self, number: int, wish: Wish) -> None:
        ticket = self._tickets[number]
        try:
            name = await ticket.turn(wish)
        except Refused as refused:
            self._refuse(number, refused)
            return
        self.channel.send("answer", number, (name, dict(ticket.rate_headers)))

    async def _tell(
        self, number: int, what: str, client: str | None, operator: bool, *more: Any
    ) -> None:
        self._desk.take_up_changes()
        try:
            told = await self._desk.tell(what, Caller(client, operator), *more)
        except Refused as refused:
            self._refuse(number, refused)
            return
        self.channel.send("answer", number, told)

    def _refuse(self, number: int, refused: Refused) -> None:
        told = (refused.status, refused.code, refused.message, refused.rejection)
        self.channel.send("refused", number, told)

    def _tokens(self, counts: Mapping[int, int]) -> None:
        for number, tokens in counts.items():
            self._tickets[number].tokens(tokens)

    def _end(self, number: int, served: Served, visit: Visit) -> None:
        ticket = self._taken(number)
        if ticket is not None:  # it was let in
            ticket.end(served, visit)

    def _taken(self, number: int) -> LocalTicket | None:
        work = self._work.pop(number, None)
        if work is not None:
            work.cancel()
        return self._tickets.pop(number, None)

    def _later(self, number: int, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._work[number] = task
        task.add_done_callback(lambda done: self._done(number, done))

    def _done(self, number: int, task: "asyncio.Task[None]") -> None:
        if self._work.get(number) is task:
            del self._work[number]
        if not task.cancelled() and task.exception() is not None:
            log.error("a mistake of the gateway's own", exc_info=task.exception())

    def _lost(self) -> None:
        """The process that served these requests is gone."""
        for number, ticket in list(self._tickets.items()):
            self._taken(number)
            ticket.lost()

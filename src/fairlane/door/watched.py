"""How an answer goes that an application behind gives."""

from fairlane.door.answers import Message, Send
from fairlane.door.tracing import UNTRACED
from fairlane.door.visits import Visit

_SWITCHED = 101  # to a WebSocket


class Watched:
    """`send` that notes how an answer begins, and whether it comes to its end.

    trace: its spans. complete: whether all of it was handed to the server. good: and is no error.
    """

    def __init__(self, send: Send, visit: Visit) -> None:
        self._send = send
        self.visit = visit
        self.trace = UNTRACED
        self.complete = False

    async def send(self, message: Message) -> None:
        """See ASGI."""
        kind = message["type"]
        if kind == "http.response.start":
            self.visit.status = message["status"]
        elif kind == "websocket.accept":
            self.visit.status, self.complete = _SWITCHED, True
        elif kind == "http.response.body" and not message.get("more_body"):
            self.complete = True
        await self._send(message)

    @property
    def good(self) -> bool:
        """See the class."""
        return self.complete and (self.visit.status or 0) < 400

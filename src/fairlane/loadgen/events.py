"""Server-sent events out of the bytes of an answer: as the standard cuts them, and servers do.

Source: the HTML standard, "Server-sent events". Lines end by LF, CR or both, a byte order mark may
come first, comments and unknown fields are passed over. Three departures, all of real servers: the
end of the body ends the last event; llama.cpp's older servers tell errors in a field `error`; and
what is no stream of events at all (an error as JSON, a page) is kept for its reader, in `other`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fairlane.loadgen.errors import MALFORMED, AnswerError

LONGEST_EVENT = 1 << 20  # bytes; what is longer is no chunk of a completion
LONGEST_OTHER = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ERROR = "error"


class Event(NamedTuple):
    """One event. name: "" where the server gave none. data: its lines, joined by newlines."""

    name: str
    data: bytes


class EventParser:
    """Cuts a body into events, wherever the bytes break.

    other: the lines of a body in which no event has come so far, but for comments; at most
    LONGEST_OTHER bytes.
    """

    def __init__(self) -> None:
        self.other = b""
        self._rest = b""  # of a line without its end
        self._ended_by_cr = False  # what came so far; a LF that comes next belongs to it
        self._first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._found = False

    def feed(self, received: bytes) -> Iterator[Event]:
        """Every event that these bytes complete. Raises AnswerError for one without an end."""
        *lines, self._rest = (self._rest + self._with_line_feeds(received)).split(b"\n")
        for line in lines:
            if line:
                self._take_line(line)
            elif self._data or self._name == ERROR:
                yield self._event()
            else:
                self._name = ""
        if self._size + len(self._rest) > LONGEST_EVENT:
            raise AnswerError(MALFORMED, "an event without an end")

    def end(self) -> Iterator[Event]:
        """The event that the end of the body completes, if there is one. Raises AnswerError."""
        return self.feed(b"\n\n\n")  # one may belong to a CR, one ends the line, one the event

    def _with_line_feeds(self, received: bytes) -> bytes:
        if self._ended_by_cr:
            received = received.removeprefix(b"\n")
        self._ended_by_cr = received.endswith(b"\r")
        if b"\r" in received:
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return received

    def _take_line(self, line: bytes) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.startswith(b":"):
            return
        if not self._found:
            self.other = (self.other + line + b"\n")[:LONGEST_OTHER]
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._add(value)
        elif field == b"event":
            self._name = value.decode(errors="replace").strip()
        elif field == b"error":
            self._name = ERROR
            self._add(value)

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1

    def _event(self) -> Event:
        event = Event(self._name, b"\n".join(self._data))
        self._name, self._size = "", 0
        self._data.clear()
        if not self._found:
            self._found, self.other = True, b""
        return event

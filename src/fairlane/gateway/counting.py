"""How many tokens an answer holds, while it passes and at its end.

Bytes go in as the engine sends them and come out as they were, an event of pure usage left out
where the client did not ask for it. Chunks are the running count: an event that brings something
counts as one token. What the engine says of usage settles it, upwards or downwards, since chunks
are not tokens: a first one may have none, a late one several. Only events that speak of usage are
parsed.

An engine's word is taken for its own answer only as far as it is a number of tokens: a usage of
zeros beside an answer that flows (some send one with every chunk) is none.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairlane.gateway.body import Dialect

LONGEST_EVENT = 8 << 20  # bytes; beyond, it is passed on uncounted
# Of the chunks counted so far, those that may hold no token: a first one with a role alone, and one
# that only says why the answer ended. They are counted once the engine does, or the stream ends.
_IN_DOUBT = 2
_BYTES_A_TOKEN = 4
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_CHUNK = {
    Dialect.OPENAI: re.compile(rb"^data: ?(?!\[DONE\])\S", re.MULTILINE),
    Dialect.MESSAGES: re.compile(rb"^event: ?content_block_delta", re.MULTILINE),
    Dialect.RESPONSES: re.compile(rb"^event: ?response\.[a-z_.]*delta", re.MULTILINE),
    Dialect.MEDIA: re.compile(rb"^data: ?(?!\[DONE\])\S", re.MULTILINE),
}
_END = {
    Dialect.OPENAI: re.compile(rb"^data: ?\[DONE\]", re.MULTILINE),
    Dialect.MESSAGES: re.compile(rb"^event: ?message_stop", re.MULTILINE),
    Dialect.RESPONSES: re.compile(rb"^event: ?response\.(completed|incomplete)", re.MULTILINE),
    Dialect.MEDIA: re.compile(rb"^data: ?(\[DONE\]|.*\.(done|completed)\")", re.MULTILINE),
}
_TELLING = re.compile(rb'"(?:usage|error|timings)"')


@dataclass(slots=True)
class Usage:
    """Tokens, as an engine counts them."""

    input: int = 0
    cached: int = 0
    output: int = 0
    seconds: float = 0.0  # of audio, where it is told instead of tokens


class Counter:
    """Counts one answer that is streamed.

    chunks: events that brought something. usage: the most that was told. finished: whether the
    answer came to its own end. error: what an event of error said.
    """

    def __init__(self, dialect: Dialect, *, hides_usage: bool) -> None:
        self._dialect = dialect
        self._hides = hides_usage
        self._rest = b""
        self.chunks = 0
        self.usage: Usage | None = None
        self.finished = False
        self.error = ""

    @property
    def so_far(self) -> int:
        """Output tokens that are certain: never more than there will be at the end."""
        told = 0 if self.usage is None else self.usage.output
        return max(told, self.chunks - _IN_DOUBT, 0)

    @property
    def in_all(self) -> int:
        """Output tokens of what came, once no more comes."""
        told = 0 if self.usage is None else self.usage.output
        return told if told and self.finished else max(told, self.chunks)

    def feed(self, received: bytes) -> bytes:
        """What is to be passed on of these bytes, and of those before them."""
        data = self._rest + received if self._rest else received
        end = _last_event_end(data)
        if not end and len(data) > LONGEST_EVENT:
            end = len(data)
        whole, self._rest = data[:end], data[end:]
        if not _TELLING.search(whole):
            self._count(whole)
            return whole
        return b"".join(event for event in _events(whole) if self._takes(event))

    def rest(self) -> bytes:
        """What is left when the answer ends in the middle of an event."""
        left, self._rest = self._rest, b""
        return left

    # -- one event ---------------------------------------------------------------------------

    def _count(self, events: bytes) -> None:
        self.chunks += len(_CHUNK[self._dialect].findall(events))
        self.finished = self.finished or _END[self._dialect].search(events) is not None

    def _takes(self, event: bytes) -> bool:
        """Count an event that may speak of usage; whether it is passed on."""
        value = _data(event) or {}
        told = _usage(self._dialect, value)
        pure = self._dialect is Dialect.OPENAI and told is not None and not value.get("choices")
        if told is not None:
            self._learn(told)
        if not pure:
            self._count(event)
        if value.get("error"):
            self.error = str(value["error"])[:200]
        return not (pure and self._hides)

    def _learn(self, told: Usage) -> None:
        before = self.usage or Usage()
        self.usage = Usage(
            max(before.input, told.input),
            max(before.cached, told.cached),
            max(before.output, told.output),
            max(before.seconds, told.seconds),
        )


def usage_of(dialect: Dialect, body: bytes) -> Usage | None:
    """The usage that a whole answer tells, None where it tells none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return _usage(dialect, value) if isinstance(value, dict) else None


def output_of(dialect: Dialect, body: bytes, usage: Usage | None) -> int:
    """Output tokens of a whole answer; of one that tells no usage, guessed from its length."""
    if usage is not None:
        return usage.output
    return 0 if dialect in (Dialect.PLAIN, Dialect.MEDIA) else math.ceil(len(body) / _BYTES_A_TOKEN)


def _last_event_end(data: bytes) -> int:
    """Where the last whole event ends, 0 where none does."""
    end = data.rfind(b"\n\n")
    other = data.rfind(b"\r\n\r\n")
    return max(end + 2 if end >= 0 else 0, other + 4 if other >= 0 else 0)


def _events(whole: bytes) -> Iterator[bytes]:
    """Each event with the blank line that ends it; what follows the last one too."""
    begin = 0
    for blank in _BLANK_LINE.finditer(whole):
        yield whole[begin : blank.end()]
        begin = blank.end()
    if begin < len(whole):
        yield whole[begin:]


def _data(event: bytes) -> dict[str, Any] | None:
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        value = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _usage(dialect: Dialect, value: dict[str, Any]) -> Usage | None:
    """What an event or a whole answer says of usage."""
    if dialect is Dialect.MESSAGES:
        told = value.get("usage") or _inner(value, "message").get("usage")
        if not isinstance(told, dict):
            return None
        cached = _number(told, "cache_read_input_tokens")
        fresh = _number(told, "input_tokens") + _number(told, "cache_creation_input_tokens")
        return Usage(fresh + cached, cached, _number(told, "output_tokens"))
    if dialect in (Dialect.RESPONSES, Dialect.MEDIA):
        told = value.get("usage") or _inner(value, "response").get("usage")
        names = ("input_tokens", "input_tokens_details", "output_tokens")
    else:
        told = value.get("usage")
        names = ("prompt_tokens", "prompt_tokens_details", "completion_tokens")
        if not told and isinstance(value.get("timings"), dict):
            return _timings(value["timings"])
    if not isinstance(told, dict):
        return None
    cached = _number(_inner(told, names[1]), "cached_tokens")
    if dialect is Dialect.MEDIA and "prompt_tokens" in told:  # some engines' transcriptions
        return Usage(_number(told, "prompt_tokens"), 0, _number(told, "completion_tokens"))
    if told.get("type") == "duration":
        return Usage(seconds=float(_number(told, "seconds")))
    return Usage(_number(told, names[0]), cached, _number(told, names[2]))


def _timings(told: dict[str, Any]) -> Usage:
    """llama.cpp's, on the last chunk of every stream."""
    cached = _number(told, "cache_n")
    return Usage(_number(told, "prompt_n") + cached, cached, _number(told, "predicted_n"))


def _inner(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _number(told: dict[str, Any], name: str) -> int:
    """A count of tokens; 0 for whatever is none."""
    value = told.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(0, int(value)) if good and value is not None else 0

"""What a server's answer means: server-sent events in, a request's tokens and outcome out.

No I/O and no clock here: bytes are handed in with the time at which they came. The rules:

- A token's time is that of the chunk that carried it. A chunk counts as one token; a server that
  falls behind may send several in one, so the number of tokens is the server's own count (`usage`
  in the last chunk) and the times are one per chunk.
- A closing chunk with a finish reason and no text is a token only if the server counts it as one.
- An answer is finished when its finish reason came. Whatever else happens first (an error event,
  something that is no event, the end of the connection) makes it aborted, with the reason.
"""

import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LONGEST_EVENT = 1 << 20  # bytes; what is longer is no chunk of a completion
DONE = b"[DONE]"
MALFORMED = "malformed stream"


class StreamError(Exception):
    """An answer that is broken off or cannot be understood: what kind of failure, and how."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class EventParser:
    """Cuts a body of server-sent events into the data of its events, wherever the bytes break.

    Only `data` fields matter here; comments (keep-alives) and other fields are passed over.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of every event that these bytes complete. Raises StreamError."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
        if len(self._rest) > LONGEST_EVENT:
            raise StreamError(MALFORMED, "an event without an end")


@dataclass(slots=True)
class Answer:
    """One request's answer so far.

    times_s: when each chunk with a token came. tokens: delivered, as the server counts them or,
    before it said so, as chunks came. prompt_tokens: as the server counts them, None until then.
    """

    times_s: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int | None = None
    counted: bool = False  # by the server
    finished: bool = False
    done: bool = False
    _closing_s: float | None = None

    def take(self, data: bytes, now: float) -> None:
        """Take in one event that came at `now`. Raises StreamError for one that is no chunk."""
        if data == DONE:
            self.done = True
            return
        chunk = _chunk(data)
        for choice in chunk["choices"]:
            self._take_choice(choice, now)
        usage = chunk.get("usage")
        if usage:
            self._count(usage)

    @property
    def complete(self) -> bool:
        """Whether all of it came, so that what befalls the connection now does not matter."""
        return self.done and self.finished and bool(self.times_s)

    def end(self) -> None:
        """The body ended as it should. Raises StreamError where the answer is incomplete."""
        if not self.finished:
            raise StreamError("stream broken off", "it ended before its last token")
        if not self.times_s:
            raise StreamError("no token", "the answer finished without one")

    def _take_choice(self, choice: dict[str, Any], now: float) -> None:
        self.finished = self.finished or choice.get("finish_reason") is not None
        if choice.get("text") or not self.finished:
            self.times_s.append(now)
            if not self.counted:
                self.tokens += 1
        else:
            self._closing_s = now

    def _count(self, usage: Any) -> None:
        try:
            prompt_tokens, tokens = usage["prompt_tokens"], usage["completion_tokens"]
            self.prompt_tokens, self.tokens = operator.index(prompt_tokens), operator.index(tokens)
        except (KeyError, TypeError):
            raise StreamError(MALFORMED, f"usage without counts: {excerpt(usage)}") from None
        self.counted = True
        if self._closing_s is not None and self.tokens > len(self.times_s):
            self.times_s.append(self._closing_s)
            self._closing_s = None


def _chunk(data: bytes) -> dict[str, Any]:
    """The chunk of a completion that an event holds. Raises StreamError."""
    try:
        chunk: Any = json.loads(data)
    except ValueError:
        raise StreamError(MALFORMED, f"not JSON: {excerpt(data)}") from None
    if isinstance(chunk, dict) and "error" in chunk:
        code, message = read_error(data)
        raise StreamError(f"error in the stream {code}".rstrip(), message)
    if not isinstance(chunk, dict) or not _are_objects(chunk.get("choices")):
        raise StreamError(MALFORMED, f"not a chunk of a completion: {excerpt(data)}")
    return chunk


def _are_objects(choices: Any) -> bool:
    return isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices)


def read_error(body: bytes) -> tuple[str, str]:
    """(code, message) of an OpenAI-shaped error; of another body, ("", its beginning)."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, str):
            return "", excerpt(error)
        code = error["code"] if isinstance(error.get("code"), str) else error.get("type")
        return excerpt(code or ""), excerpt(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", excerpt(body)


def excerpt(said: object, limit: int = 160) -> str:
    """The beginning of what a server said, as one printable line."""
    text = said[: 4 * limit].decode(errors="replace") if isinstance(said, bytes) else str(said)
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."

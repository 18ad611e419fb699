"""What a server's answer means: server-sent events in, a request's tokens and outcome out.

No I/O and no clock here: events are handed in with the time at which they came. The rules:

- A token's time is that of the chunk that carried it. A server that falls behind may send several
  tokens in one chunk, so their number is the server's own count (`usage`) and the times are one per
  chunk.
- A chunk with text carries a token. One without may be a token that has no text yet, or none: a
  role, a mark of the start, a closing chunk. The count says how many of them are tokens; without
  one, those between the first text and the finish reason.
- An answer is finished when a finish reason came that says so, or when `[DONE]` or the end of the
  body found all the tokens that were asked for. Whatever else happens first (an error event,
  something that is no event, the end of the connection) makes it aborted, with the reason.
- Keep-alives of all kinds are passed over.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from fairlane.loadgen.errors import MALFORMED, AnswerError, excerpt, is_error, read_error
from fairlane.loadgen.events import ERROR, Event

DONE = b"[DONE]"
BROKEN_OFF = "stream broken off"
NO_STREAM = "no stream"
MOST_TOKENS = 1 << 40  # no model has such a context
_NOT_ENDED = ("", "null", "not_finished")  # finish reasons of chunks that are not the last
_GIVEN_UP = ("abort", "aborted", "cancelled", "canceled", "error", "timeout")
_KEEP_ALIVE = ("ping", "pong", "heartbeat", "keepalive")


@dataclass(slots=True)
class Answer:
    """One request's answer so far.

    asked: tokens. prompt_tokens: as the server counts them, None until then. last_s: when the last
    chunk or count came. finished: a finish reason came. done: nothing more will come that matters.
    """

    asked: int
    prompt_tokens: int | None = None
    last_s: float = 0.0
    finished: bool = False
    done: bool = False
    _texts_s: list[float] = field(default_factory=list)
    # chunks without text: before the first text, after it, and with a finish reason
    _before_s: list[float] = field(default_factory=list)
    _between_s: list[float] = field(default_factory=list)
    _closing_s: list[float] = field(default_factory=list)
    _count: int | None = None  # the server's
    _uncounted: int = 0  # chunks with text since
    _strange: bytes = b""  # the first event that was passed over without being understood

    def take(self, event: Event, now: float) -> None:
        """Take in one event that came at `now`. Raises AnswerError for one that is no chunk."""
        data = event.data.strip()
        if event.name == ERROR:
            raise _told("error in the stream", data)
        if not data or (event.name and _is_keep_alive(event.name)):
            return
        if data == DONE:
            self.done = True
            return
        chunk = _chunk(data)
        choices, usage = chunk.get("choices"), chunk.get("usage")
        if not choices and not usage:
            self._strange = self._strange or (b"" if "choices" in chunk else data)
            return
        self.last_s = now
        if choices:
            self._take_choices(choices, now)
        if isinstance(usage, dict):
            self._take_count(usage)

    @property
    def tokens(self) -> int:
        """Delivered so far: as the server counts them, and chunks with tokens since."""
        if self._count is None:
            return len(self._texts_s) + len(self._between_s)
        return self._count + self._uncounted

    @property
    def counted(self) -> bool:
        """Whether the server counted all tokens."""
        return self._count is not None and not self._uncounted

    def times_s(self) -> list[float]:
        """When each chunk with a token came. Of those without text, the likeliest come first."""
        without_text = [*self._between_s, *self._closing_s, *reversed(self._before_s)]
        room = max(0, self.tokens - len(self._texts_s))
        return sorted(self._texts_s + without_text[:room])

    @property
    def complete(self) -> bool:
        """Whether all tokens came, so that what befalls the connection now does not matter."""
        return self.finished and bool(self.times_s())

    def end(self, other: bytes = b"") -> None:
        """The answer ended in order; `other` is a body without any event.

        Raises AnswerError where the answer is incomplete.
        """
        if other.strip():
            raise _no_stream(other)
        times = self.times_s()
        if not self.finished and self.tokens < self.asked:
            if not times and self._strange:
                raise AnswerError(MALFORMED, _no_chunk(self._strange))
            raise AnswerError(BROKEN_OFF, f"no finish reason after {self._progress()}")
        if not times:
            raise AnswerError("no token", "the answer finished without one")

    def _progress(self) -> str:
        return f"{self.tokens} of {self.asked} tokens"

    def _take_choices(self, choices: list[dict[str, Any]], now: float) -> None:
        """A chunk: one completion was asked for, so that all of its choices are one token's."""
        reasons = [reason for choice in choices if (reason := _finish_reason(choice))]
        if any(map(_text, choices)):
            self._texts_s.append(now)
            self._uncounted += self._count is not None
        elif reasons or self.finished:
            self._closing_s.append(now)
        else:
            (self._between_s if self._texts_s else self._before_s).append(now)
        for reason in reasons:
            if reason in _GIVEN_UP:
                raise AnswerError(
                    "given up by the server", f"finish reason {reason} after {self._progress()}"
                )
        self.finished = self.finished or bool(reasons)

    def _take_count(self, usage: dict[str, Any]) -> None:
        """Counts so far; none that cannot be, such as no token where there was text."""
        prompt, tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if prompt and _is_count(prompt):
            self.prompt_tokens = prompt
        if _is_count(tokens) and (tokens or not self._texts_s):
            self._count, self._uncounted = tokens, 0
            self.done = self.done or self.finished


def _is_keep_alive(name: str) -> bool:
    """Whether events of this name only keep the connection open: `ping`, `response.keep_alive`."""
    last = name.lower().rpartition(".")[2]
    return last.replace("-", "").replace("_", "") in _KEEP_ALIVE


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS


def _text(choice: dict[str, Any]) -> Any:
    """The text of a choice, of a proxy that answers as for a chat too."""
    delta = choice.get("delta")
    return choice.get("text") or (delta.get("content") if isinstance(delta, dict) else None)


def _finish_reason(choice: dict[str, Any]) -> str | None:
    """Why a choice ended; None where it goes on."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason not in _NOT_ENDED else None


def _chunk(data: bytes) -> dict[str, Any]:
    """The JSON object that an event holds. Raises AnswerError for an error and for what is none."""
    try:
        chunk: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise AnswerError(MALFORMED, f"not JSON: {excerpt(data)}") from None
    if is_error(chunk):
        raise _told("error in the stream", data)
    if chunk is None:  # a keep-alive too
        return {}
    if not isinstance(chunk, dict) or not _are_objects(chunk.get("choices") or []):
        raise AnswerError(MALFORMED, _no_chunk(data))
    return chunk


def _told(kind: str, error: bytes) -> AnswerError:
    code, message, fields = read_error(error)
    return AnswerError(f"{kind} {code}".rstrip(), message, fields=fields)


def _no_chunk(data: bytes) -> str:
    return f"not a chunk of a completion: {excerpt(data)}"


def _are_objects(choices: Any) -> bool:
    return isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices)


def _no_stream(body: bytes) -> AnswerError:
    """What a body says that holds no event: an error, or what else came in place of a stream."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return AnswerError(NO_STREAM, excerpt(body))
    if is_error(said):
        return _told("200", body)
    if isinstance(said, dict) and said.get("choices"):
        return AnswerError(NO_STREAM, "a completion in one piece, whose tokens have no times")
    return AnswerError(NO_STREAM, excerpt(body))

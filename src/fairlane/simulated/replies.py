"""What is answered: chunks and whole answers, field by field as vLLM 0.32 writes them.

A chunk is put together from pieces that are made once for a request, not by a JSON encoder: with
that, and nothing awaited by token, one core keeps up with tens of thousands of tokens a second.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from fairlane.core.types import Rejection
from fairlane.simulated.asked import Asked, BadRequest
from fairlane.simulated.words import FIRST, NEXT, words

DONE = b"data: [DONE]\n\n"


class Choice:
    """One answer of a request, as its tokens come: an `Owner`.

    start: index of its first word. prompt: tokens in its prompt; length: tokens that it will have,
    at whose end reason says why, stop or length.
    """

    __slots__ = ("index", "length", "prompt", "reason", "reply", "sent", "start", "tokens")

    def __init__(
        self, reply: "Reply", index: int, start: int, prompt: int, length: int, reason: str
    ) -> None:
        self.reply = reply
        self.index = index
        self.start = start
        self.prompt = prompt
        self.length = length
        self.reason = reason
        self.tokens = 0
        self.sent = 0  # of these, in chunks

    def accepted(self) -> None:
        """As of `Owner`."""
        self.reply.queued += 1
        if self.reply.queued == len(self.reply.choices):
            self.reply.wake()

    def rejected(self, rejection: Rejection) -> None:
        """As of `Owner`."""
        self.reply.fail(_too_many(rejection))

    def failed(self, reason: str) -> None:
        """As of `Owner`."""
        self.reply.fail(BadRequest(reason, status=503, kind="ServiceUnavailable"))

    def token(self, last: bool) -> None:
        """As of `Owner`."""
        self.tokens += 1
        self.reply.token(self, last)


class Reply:
    """A request's answer while it comes. What it is made of is in subclasses."""

    def __init__(self, asked: Asked, model: str) -> None:
        self.asked = asked
        self.choices: list[Choice] = []
        self.queued = 0
        self.error: BadRequest | None = None
        self._left = 0
        self._waiter: asyncio.Future[None] | None = None
        self._id = f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model

    def add(self, start: int, prompt: int, length: int, reason: str) -> Choice:
        """One more answer."""
        choice = Choice(self, len(self.choices), start, prompt, length, reason)
        self.choices.append(choice)
        self._left += 1
        return choice

    def token(self, choice: Choice, last: bool) -> None:
        """A choice has one more token."""
        if last:
            self._left -= 1

    @property
    def over(self) -> bool:
        """Whether the last token of all choices has come, or an error."""
        return self._left == 0 or self.error is not None

    def fail(self, error: BadRequest) -> None:
        """Nothing more comes."""
        self.error = self.error or error
        self.wake()

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def change(self) -> None:
        """Wait until something changes."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def in_queue(self) -> None:
        """Wait until all is in the engine's queue. Raises BadRequest where that is not so."""
        while self.queued < len(self.choices):
            if self.error is not None:
                raise self.error
            await self.change()

    def usage(self) -> dict[str, int]:
        """The tokens of all choices; a prompt counts once."""
        prompts = sum(choice.prompt for choice in self.choices[:: self.asked.n])
        return _usage(prompts, sum(choice.tokens for choice in self.choices))


class Whole(Reply):
    """An answer in one piece."""

    def token(self, choice: Choice, last: bool) -> None:
        """As of `Reply`."""
        super().token(choice, last)
        if self.over:
            self.wake()

    async def body(self) -> dict[str, Any]:
        """All of it. Raises BadRequest where it broke off."""
        while not self.over:
            await self.change()
        if self.error is not None:
            raise self.error
        chat = self.asked.chat
        return {
            "id": self._id,
            "object": "chat.completion" if chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": [_message(c) if chat else _text(c) for c in self.choices],
            "usage": self.usage(),
        }


class Streamed(Reply):
    """An answer in chunks, one for each token unless the request wants fewer."""

    def __init__(self, asked: Asked, model: str) -> None:
        super().__init__(asked, model)
        kind = "chat.completion.chunk" if asked.chat else "text_completion"
        head = {"id": self._id, "object": kind, "created": self._created, "model": model}
        self._head = b"data: " + json.dumps(head, separators=(",", ":")).encode()[:-1]
        self._befores: list[bytes] = []
        self._ready: list[bytes] = []
        self._begun = False
        if asked.chat:
            self._rest = b',"token_ids":null}]', b',"stop_reason":null,"token_ids":null}]'
            self._close = b"}"
        else:
            nulls = b',"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]'
            self._rest = nulls, nulls
            self._close = b""

    def add(self, start: int, prompt: int, length: int, reason: str) -> Choice:
        """As of `Reply`."""
        choice = super().add(start, prompt, length, reason)
        what = b'"delta":{"content":' if self.asked.chat else b'"text":'
        self._befores.append(self._head + b',"choices":[{"index":%d,%b' % (choice.index, what))
        return choice

    def token(self, choice: Choice, last: bool) -> None:
        """As of `Reply`."""
        super().token(choice, last)
        if not self._begun:
            self._begin()
        new = choice.tokens - choice.sent
        if choice.sent and new < self.asked.interval and not last:
            return
        at = choice.start + choice.sent
        if new == 1:
            text = (NEXT if choice.sent else FIRST)[at % len(NEXT)]
        else:
            text = json.dumps((" " if choice.sent else "") + words(at, new)).encode()
        choice.sent = choice.tokens
        self._ready.append(self._chunk(choice, text, last))
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def chunks(self) -> tuple[bytes, bool]:
        """What has come since the last call, waiting for it, and whether that is the end."""
        while not self._ready and not self.over:
            await self.change()
        if self.over:
            self._ready.append(self._end())
        data, self._ready = b"".join(self._ready), []
        return data, self.over

    def _begin(self) -> None:
        """A chat begins with a chunk for each choice that says who speaks."""
        self._begun = True
        if not self.asked.chat:
            return
        for choice in self.choices:
            self._ready.append(
                b'%b,"choices":[{"index":%d,"delta":{"role":"assistant","content":""},'
                b'"logprobs":null,"finish_reason":null}]%b,"prompt_token_ids":null}\n\n'
                % (self._head, choice.index, self._running_usage(choice.prompt, 0))
            )

    def _chunk(self, choice: Choice, text: bytes, last: bool) -> bytes:
        usage = b""
        if self.asked.continuous_usage:
            usage = self._running_usage(choice.prompt, choice.tokens)
        finish = b'"%b"' % choice.reason.encode() if last else b"null"
        before = self._befores[choice.index]
        return b"".join(
            (before, text, self._close, b',"logprobs":null,"finish_reason":', finish,
             self._rest[last], usage, b"}\n\n")
        )  # fmt: skip

    def _running_usage(self, prompt: int, tokens: int) -> bytes:
        if not self.asked.continuous_usage:
            return b""
        return b',"usage":' + json.dumps(_usage(prompt, tokens), separators=(",", ":")).encode()

    def _end(self) -> bytes:
        if self.error is not None:
            return b"data: %b\n\n%b" % (json.dumps(error_body(self.error)).encode(), DONE)
        if not self.asked.include_usage:
            return DONE
        usage = json.dumps(self.usage(), separators=(",", ":")).encode()
        return b'%b,"choices":[],"usage":%b}\n\n%b' % (self._head, usage, DONE)


def error_body(error: BadRequest) -> dict[str, Any]:
    """An error as vLLM has it."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.status,
        }
    }


def ignored_header(names: Iterable[str]) -> str:
    """Names of a client's own making, as far as they can stand in a header."""
    shown = [name for name in names if name.isascii() and name.isidentifier() and len(name) < 40]
    return ", ".join(shown[:20])


def _usage(prompt: int, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + tokens,
        "completion_tokens": tokens,
    }


def _text(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": words(choice.start, choice.tokens),
        "logprobs": None,
        "finish_reason": choice.reason,
        "stop_reason": None,
        "prompt_logprobs": None,
    }


def _message(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": {"role": "assistant", "content": words(choice.start, choice.tokens)},
        "logprobs": None,
        "finish_reason": choice.reason,
        "stop_reason": None,
    }


def _too_many(rejection: Rejection) -> BadRequest:
    after = rejection.retry_after_s
    return BadRequest(
        f"The scheduler turns this request away: {rejection.reason}.",
        status=429,
        kind="RateLimitError",
        retry_after=None if after is None else str(max(1, round(after))),
    )

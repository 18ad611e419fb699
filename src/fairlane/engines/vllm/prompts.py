"""Prompts against limits of tokens: taken when they are handed to the engine, and settled.

They are taken before the engine reads them, so that nobody has more under way than the limit
allows. What the engine then did not do is given back: all of a prompt that it never began to read,
whatever became of its request, and of tokens that its prefix cache held the part that is not paid
for. A prompt that was begun is charged in full, as the scheduler charges it: who hangs up while it
is read gets nothing for nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from fairlane.door.limits import RateLimits

log = logging.getLogger("vllm.fairlane")
AskScheduler = Callable[[list[str]], Awaitable[list[list[str] | None]]]


class _Prompt(NamedTuple):
    client: str
    tokens: int


class Prompts:
    """The prompts of which the engine has not said a word yet.

    ask: which of these requests ended before the engine began to read them, of each scheduler.
    cached_part: how much of a token one counts that the prefix cache held, 0 to 1.
    """

    def __init__(
        self,
        rates: RateLimits,
        ask: AskScheduler,
        clock: Callable[[], float],
        cached_part: float = 1.0,
    ) -> None:
        self._rates = rates
        self._ask = ask
        self._clock = clock
        self._cached_part = cached_part
        self._unread: dict[str, _Prompt] = {}
        self._gone: dict[str, _Prompt] = {}  # to ask for
        self._asking: asyncio.Task[None] | None = None

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._unread

    def take(self, request_id: str, client: str, tokens: int) -> None:
        """A prompt, or more of one that is streamed, is about to be handed to the engine."""
        before = self._unread.get(request_id, _Prompt(client, 0))
        self._unread[request_id] = _Prompt(client, before.tokens + tokens)
        self._rates.take_tokens(client, tokens, self._clock())

    def refused(self, request_id: str) -> None:
        """The engine did not take it."""
        prompt = self._unread.pop(request_id, None)
        if prompt is not None:
            self._give_back(prompt.client, prompt.tokens)

    def hear(self, output: Any) -> int:
        """The engine said something of a request: with its first token, it has read the prompt.

        Answers how much of it the prefix cache held.
        """
        if output.new_token_ids or getattr(output, "pooling_output", None) is not None:
            prompt = self._unread.pop(output.request_id)
            cached = min(_cached_tokens(output), prompt.tokens)
            self._give_back(prompt.client, cached * (1.0 - self._cached_part))
            return cached
        return 0

    def ended(self, request_ids: Iterable[str]) -> None:
        """The engine knows that these are over: ask it, soon, which it never began to read."""
        for request_id in request_ids:
            prompt = self._unread.pop(request_id, None)
            if prompt is not None and self._rates.limits_tokens(prompt.client):
                self._gone[request_id] = prompt
        if self._gone and (self._asking is None or self._asking.done()):
            self._asking = asyncio.get_running_loop().create_task(self._ask_on())

    async def _ask_on(self) -> None:
        while self._gone:
            asked, self._gone = self._gone, {}
            try:
                answers = await self._ask(list(asked))
            except Exception as error:
                log.warning("prompts that were not read stay charged: %s", type(error).__name__)
                continue
            for request_id in {i for answer in answers for i in answer or ()} & asked.keys():
                self._give_back(*asked[request_id])

    def _give_back(self, client: str, tokens: float) -> None:
        if tokens:
            self._rates.give_back_tokens(client, tokens, self._clock())


def _cached_tokens(output: Any) -> int:
    """How much of a prompt the prefix cache held, as the engine says with its first word of it."""
    stats = getattr(output, "prefill_stats", None) or output  # until vLLM 0.25 in the output itself
    return int(getattr(stats, "num_cached_tokens", 0) or 0)

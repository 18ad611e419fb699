"""The open loop: every request leaves at its own time, whatever the server does.

One task walks through the workload and starts a task per request when its time has come; nothing
ever waits for an answer before it sends, so a server that stalls gets the load it would get from
people. A request's latency counts from the time at which it was to be sent, not from when it was,
so that a client that falls behind cannot make the server look better. Nothing is sent twice, and
every request that was sent ends up in the records: finished, rejected or aborted.
"""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from fairlane.loadgen.clients import Identity
from fairlane.loadgen.health import Health
from fairlane.loadgen.prompts import MakePrompt, body
from fairlane.loadgen.server import Server
from fairlane.loadgen.stream import Answer, EventParser, StreamError, excerpt, read_error
from fairlane.records import RequestRecord
from fairlane.workloads.trace import TracedRequest

LOOP_SAMPLE_S = 0.05
PROGRESS_S = 1.0


class Progress(NamedTuple):
    """Where a run stands.

    due: requests that were to be sent by now. tokens: delivered so far. lag_s: how late the event
    loop was at worst since the last of these.
    """

    elapsed_s: float
    total: int
    due: int
    sent: int
    running: int
    finished: int
    rejected: int
    aborted: int
    tokens: int
    lag_s: float


@dataclass(slots=True)
class Sent:
    """What was sent and what came of it.

    records: of all requests sent, in arrival order. failures: how many ended for which reason.
    unsent: requests that an interrupt kept back. uncounted: finished requests whose tokens the
    server did not count. last_sent_s, total_time_s: seconds from the start to the last request
    sent, and to the end of the last answer.
    """

    records: list[RequestRecord] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    uncounted: int = 0
    unsent: int = 0
    last_sent_s: float = 0.0
    total_time_s: float = 0.0
    interrupted: bool = False


class _Refused(Exception):
    """The server answered with another status than 200."""

    def __init__(self, outcome: str, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.outcome = outcome
        self.kind = kind
        self.detail = detail


class OpenLoop:
    """Sends one workload, once.

    requests: in arrival order, in seconds from the start. identities: of all their clients.
    timeout_s: after which a request is given up, from when it was sent. drain_s: how long
    interrupted requests may still run on. progress: called every second.
    """

    def __init__(
        self,
        server: Server,
        requests: Sequence[TracedRequest],
        identities: Mapping[str, Identity],
        prompt: MakePrompt,
        *,
        timeout_s: float,
        drain_s: float,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.health = Health()
        self.sent = Sent()
        self._server = server
        self._requests = requests
        self._identities = identities
        self._prompt = prompt
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._progress = progress
        self._running: dict[asyncio.Task[None], Answer] = {}
        self._ended: Counter[str] = Counter()
        self._tokens_of_ended = 0
        self._worst_lag_s = 0.0
        self._pacer: asyncio.Task[None] | None = None
        self._over = False

    async def run(self, http: aiohttp.ClientSession) -> Sent:
        """Send everything, and wait for the last answer."""
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._pacer = asyncio.create_task(self._pace(http))
        watchers = [asyncio.create_task(self._watch_loop())]
        if self._progress is not None:
            watchers.append(asyncio.create_task(self._report()))
        try:
            with suppress(asyncio.CancelledError):
                await self._pacer
            while self._running:
                await asyncio.wait(self._running)
        finally:
            for watcher in watchers:
                watcher.cancel()
            self._over = True
        self.sent.unsent = len(self._requests) - len(self.sent.records)
        self.sent.records.sort(key=lambda record: record.arrival_s)
        return self.sent

    def interrupt(self) -> None:
        """Send nothing more; requests under way may end for `drain_s`, and at once when repeated.

        Does nothing before the run and after it. May be called by a signal handler.
        """
        if self._pacer is not None and not self._over:
            again, self.sent.interrupted = self.sent.interrupted, True
            self._loop.call_soon_threadsafe(self._stop, self._pacer, again)

    def progress(self) -> Progress:
        """Where the run stands now; forgets the worst lag of the loop."""
        elapsed = self._loop.time() - self._start
        lag, self._worst_lag_s = self._worst_lag_s, 0.0
        return Progress(
            elapsed_s=elapsed,
            total=len(self._requests),
            due=bisect_right(self._requests, elapsed, key=lambda request: request.arrival_s),
            sent=len(self._running) + self._ended.total(),
            running=len(self._running),
            finished=self._ended["finished"],
            rejected=self._ended["rejected"],
            aborted=self._ended["aborted"],
            tokens=self._tokens_of_ended + sum(a.tokens for a in self._running.values()),
            lag_s=lag,
        )

    def _stop(self, pacer: asyncio.Task[None], at_once: bool) -> None:
        pacer.cancel()
        self._loop.call_later(0 if at_once else self._drain_s, self._give_up)

    def _give_up(self) -> None:
        for task in self._running:
            task.cancel()

    async def _pace(self, http: aiohttp.ClientSession) -> None:
        """Start each request at its time; what it sends is made before, not when it is due."""
        for request in self._requests:
            identity = self._identities[request.client]
            prompt = self._prompt(request)
            payload = body(prompt, request.output_len, model=identity.model, user=identity.user)
            due = self._start + request.arrival_s
            await asyncio.sleep(due - self._loop.time())  # yields once where it is late already
            answer = Answer()
            send = self._send(http, request, payload, identity.headers, answer)
            task = asyncio.create_task(send)
            self._running[task] = answer
            task.add_done_callback(self._running.pop)

    async def _send(
        self,
        http: aiohttp.ClientSession,
        request: TracedRequest,
        payload: bytes,
        headers: Mapping[str, str],
        answer: Answer,
    ) -> None:
        """One request from its sending to its record."""
        self.sent.last_sent_s = self._loop.time() - self._start
        self.health.send_lags_s.append(self.sent.last_sent_s - request.arrival_s)
        outcome, kind, detail = "finished", "", ""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(http, payload, headers, answer)
        except (Exception, asyncio.CancelledError) as error:
            if not answer.complete:
                outcome, kind, detail = self._failure(error)
        if kind:
            self.sent.failures[f"{outcome}: {kind}"] += 1
        elif not answer.counted:
            self.sent.uncounted += 1
        self._ended[outcome] += 1
        self._tokens_of_ended += answer.tokens
        reason = f"{kind}: {detail}" if detail else kind
        self.sent.records.append(_record(request, answer, self._start, outcome, reason))
        self.sent.total_time_s = self._loop.time() - self._start

    async def _exchange(
        self,
        http: aiohttp.ClientSession,
        payload: bytes,
        headers: Mapping[str, str],
        answer: Answer,
    ) -> None:
        """Send, and read the stream into `answer`. Raises what went wrong."""
        async with http.post(self._server.completions, data=payload, headers=headers) as response:
            if response.status != 200:
                raise _refusal(response, await response.read())
            parser = EventParser()
            async for received in response.content.iter_any():
                now = self._loop.time()
                for data in parser.feed(received):
                    answer.take(data, now)
        answer.end()

    def _failure(self, error: BaseException) -> tuple[str, str, str]:
        """(outcome, kind, detail) of what ended a request before its last token."""
        match error:
            case _Refused():
                return error.outcome, error.kind, error.detail
            case StreamError():
                return "aborted", error.kind, error.detail
            case asyncio.CancelledError():
                return "aborted", "interrupted", ""
            case aiohttp.ConnectionTimeoutError():
                return "aborted", "cannot connect", "no answer to the connection"
            case TimeoutError():
                return "aborted", "timeout", f"not finished after {self._timeout_s:g} s"
            case aiohttp.ClientConnectorError():
                return "aborted", "cannot connect", excerpt(error)
            case aiohttp.ClientPayloadError():
                return "aborted", "disconnected", "in the stream"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return "aborted", "disconnected", excerpt(error)
            case _:
                return "aborted", type(error).__name__, excerpt(error)

    async def _watch_loop(self) -> None:
        """Note how late the loop wakes this task."""
        while True:
            due = self._loop.time() + LOOP_SAMPLE_S
            await asyncio.sleep(LOOP_SAMPLE_S)
            lag = max(0.0, self._loop.time() - due)
            self.health.loop_lags_s.append(lag)
            self._worst_lag_s = max(self._worst_lag_s, lag)

    async def _report(self) -> None:
        assert self._progress is not None
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._progress(self.progress())


def _refusal(response: aiohttp.ClientResponse, content: bytes) -> _Refused:
    code, message = read_error(content)
    kind = f"{response.status} {code}".rstrip()
    if response.status != 429:
        return _Refused("aborted", kind, message)
    wait = response.headers.get("Retry-After")
    return _Refused("rejected", kind, message + (f"; retry after {excerpt(wait)}" if wait else ""))


def _record(
    request: TracedRequest, answer: Answer, start: float, outcome: str, reason: str
) -> RequestRecord:
    """What the client of a request saw; times count from when it was to be sent."""
    times = [round(t - start - request.arrival_s, 6) for t in answer.times_s]
    return RequestRecord(
        id=request.id,
        client=request.client,
        arrival_s=request.arrival_s,
        prompt_len=request.prompt_len if answer.prompt_tokens is None else answer.prompt_tokens,
        output_len=answer.tokens if times else request.output_len,
        ttft_s=times[0] if times else None,
        latency_s=times[-1] if times else None,
        outcome=outcome,
        reason=reason,
        token_times_s=times or None,
    )

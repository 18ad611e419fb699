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
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from fairlane.loadgen.clients import Identity
from fairlane.loadgen.ends import failure, record, refusal
from fairlane.loadgen.errors import AnswerError
from fairlane.loadgen.events import EventParser
from fairlane.loadgen.health import Health
from fairlane.loadgen.prompts import MakePrompt, body
from fairlane.loadgen.server import IDLE_S, Server
from fairlane.loadgen.stream import Answer
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

    records: of all requests sent, in arrival order. failures: how many ended for which reason;
    said: what was said of the first of each. complaints: how often the server named a field that
    it does not take. unsent: requests that an interrupt kept back. uncounted: finished requests
    whose tokens the server did not count. last_sent_s, total_time_s: seconds from the start to the
    last request sent, and to the end of the last answer.
    """

    records: list[RequestRecord] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)
    complaints: Counter[str] = field(default_factory=Counter)
    uncounted: int = 0
    unsent: int = 0
    last_sent_s: float = 0.0
    total_time_s: float = 0.0
    interrupted: bool = False


class OpenLoop:
    """Sends one workload, once.

    requests: in arrival order, in seconds from the start. identities: of all their clients.
    timeout_s: after which a request is given up, from when it was sent. drain_s: how long
    interrupted requests may still run on. omit: fields that requests leave out, as of
    `prompts.body`. progress: called every second.
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
        omit: Collection[str] = (),
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
        self._omit = omit
        self._progress = progress
        self._running: dict[asyncio.Task[str], Answer] = {}
        self._emptying: set[asyncio.Task[None]] = set()
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
            await asyncio.gather(*self._emptying)
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
            payload = body(
                self._prompt(request), request.output_len,
                model=identity.model, user=identity.user, omit=self._omit,
            )  # fmt: skip
            due = self._start + request.arrival_s
            await asyncio.sleep(due - self._loop.time())  # yields once where it is late already
            answer = Answer(request.output_len)
            send = self._send(http, request, payload, identity.headers, answer)
            task = asyncio.create_task(send)
            self._running[task] = answer
            task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[str]) -> None:
        """Count a request among those that ended, and no longer among those that run."""
        answer = self._running.pop(task)
        if not task.cancelled():  # before it was sent
            self._ended[task.result()] += 1
            self._tokens_of_ended += answer.tokens

    async def _send(
        self,
        http: aiohttp.ClientSession,
        request: TracedRequest,
        payload: bytes,
        headers: Mapping[str, str],
        answer: Answer,
    ) -> str:
        """One request from its sending to its record; its outcome."""
        self.sent.last_sent_s = self._loop.time() - self._start
        self.health.send_lags_s.append(self.sent.last_sent_s - request.arrival_s)
        error: AnswerError | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(http, payload, headers, answer)
        except (Exception, asyncio.CancelledError) as raised:
            if not answer.complete:
                error = failure(raised, self._timeout_s)
        self._note(answer, error)
        ended = record(request, answer, self._start, error)
        self.sent.records.append(ended)
        return ended.outcome

    async def _exchange(
        self,
        http: aiohttp.ClientSession,
        payload: bytes,
        headers: Mapping[str, str],
        answer: Answer,
    ) -> None:
        """Send, and read the stream into `answer` until it is done. Raises what went wrong."""
        url = self._server.completions
        post = http.post(url, data=payload, headers=headers, allow_redirects=False)
        response = await post
        try:
            if response.status != 200:
                raise refusal(response, await response.read())
            other = await self._read(response.content, answer)
        except BaseException:
            response.close()
            raise
        if not response.content.is_eof():
            emptying = asyncio.create_task(_empty(response))
            self._emptying.add(emptying)
            emptying.add_done_callback(self._emptying.discard)
        answer.end(other)

    async def _read(self, content: aiohttp.StreamReader, answer: Answer) -> bytes:
        """Take in events until nothing more matters; a body without any is given back."""
        parser = EventParser()
        async for received in content.iter_any():
            now = self._loop.time()
            for event in parser.feed(received):
                answer.take(event, now)
            if answer.done:
                return b""
        for event in parser.end():
            answer.take(event, self._loop.time())
        return parser.other

    def _note(self, answer: Answer, error: AnswerError | None) -> None:
        """Count how a request ended, and until when it counts.

        A finished one ends with its last chunk, however long the connection is held open after it.
        """
        end = self._loop.time()
        if error is None:
            end = answer.last_s
            self.sent.uncounted += not answer.counted
        else:
            kind = f"{error.outcome}: {error.kind}"
            self.sent.failures[kind] += 1
            self.sent.said.setdefault(kind, error.detail)
            self.sent.complaints.update(error.fields)
        self.sent.total_time_s = max(self.sent.total_time_s, end - self._start)

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


async def _empty(response: aiohttp.ClientResponse) -> None:
    """Read what comes after an answer, for a moment, so that its connection can be used again."""
    with suppress(Exception):  # the answer is there, whatever comes now
        async with asyncio.timeout(IDLE_S), response:
            async for _ in response.content.iter_any():
                pass

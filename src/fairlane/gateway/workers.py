"""Several processes pass bytes, and this one decides: a gateway on more than one core.

There is one desk, so one order of each queue and one account of everyone, however many processes
there are. A worker that dies takes its connections along; its requests end, and another worker is
started in its place. Where this process dies, the workers end.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fairlane.core.errors import FairlaneError
from fairlane.gateway.run import Running
from fairlane.gateway.upstream import Address
from fairlane.gateway.wire import Hatch, Message
from fairlane.gateway.worker import Start

log = logging.getLogger("fairlane.gateway")
_AGAIN_S = 1.0  # before another worker is started
_LOOK_S = 0.05
_END_S = 10.0  # for workers to end once nothing is under way


@dataclass(eq=False)
class _Worker:
    process: asyncio.subprocess.Process
    hatch: Hatch
    ready: asyncio.Event


class Workers:
    """See the module. count: how many; listening: where they do."""

    def __init__(self, running: Running, listening: socket.socket, count: int) -> None:
        self._running = running
        self._listening = listening
        self._count = count
        self._workers: set[_Worker] = set()
        self._minding: set[asyncio.Task[None]] = set()
        self._begun = False
        self._stop = asyncio.Event()
        self.ended_by: signal.Signals | None = None

    async def serve(self, ready: Callable[[], None]) -> signal.Signals | None:
        """Serve until a signal; says which. ready: is called once all take requests."""
        self._take_signals()
        await self._running.open()
        self._running.fleet.changed = self._tell_upstreams
        try:
            for worker in [await self._start() for _ in range(self._count)]:
                await self._until_ready(worker)
            self._begun = True
            ready()
            await self._stop.wait()
            await self._drain()
        finally:
            await self._end()
        return self.ended_by

    # -- workers -----------------------------------------------------------------------------

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        numbers = (self._listening.fileno(), theirs.fileno())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fairlane.gateway.worker", *map(str, numbers),
            pass_fds=numbers, start_new_session=True,  # a Ctrl-C is for this process
        )  # fmt: skip
        theirs.close()
        ready = asyncio.Event()

        def told(message: Message) -> None:
            ready.set()

        worker = _Worker(process, Hatch(self._running.desk, told), ready)
        start = Start(self._running.config, self._running.fleet.addresses, self._running.name)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: worker.hatch.channel, sock=ours)
        worker.hatch.channel.send(start)
        self._workers.add(worker)
        task = asyncio.create_task(self._mind(worker))
        self._minding.add(task)
        task.add_done_callback(self._minding.discard)
        return worker

    async def _until_ready(self, worker: _Worker) -> None:
        ready, ended = (
            asyncio.ensure_future(worker.ready.wait()),
            asyncio.ensure_future(worker.process.wait()),
        )
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, ended):
            task.cancel()
        if not worker.ready.is_set():
            raise FairlaneError("a worker did not start; what it said is above")

    async def _mind(self, worker: _Worker) -> None:
        """Where a worker ends that should not, start another."""
        status = await worker.process.wait()
        self._workers.discard(worker)
        if self._begun and not self._stop.is_set():
            log.error("worker %d ended (%d); another is started", worker.process.pid, status)
            await asyncio.sleep(_AGAIN_S)
            await self._start()

    def _tell_upstreams(self, addresses: Mapping[str, Address]) -> None:
        for worker in self._workers:
            worker.hatch.channel.send("upstreams", addresses)

    # -- the end -----------------------------------------------------------------------------

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # then it is for somebody else
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():  # a second one
            for worker in self._workers:
                worker.process.kill()
            return
        self.ended_by = number
        self._running.say_draining()
        self._stop.set()

    async def _drain(self) -> None:
        for worker in self._workers:
            worker.hatch.channel.send("drain")
        while self._running.live and self._workers:
            await asyncio.sleep(_LOOK_S)

    async def _end(self) -> None:
        self._stop.set()
        workers = list(self._workers)
        for worker in workers:
            worker.hatch.channel.send("stop")
        try:
            async with asyncio.timeout(_END_S):
                await asyncio.gather(*(worker.process.wait() for worker in workers))
        except TimeoutError:
            for worker in workers:
                worker.process.kill()
        for task in self._minding:
            task.cancel()
        await self._running.close()

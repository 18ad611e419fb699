"""A way between two processes on this machine that can be cut, as a network can."""

import asyncio
import threading
from contextlib import suppress
from types import TracebackType

from tests.processes import PATIENCE_S


class Tunnel:
    """Passes what comes to `port` on to another port of this machine, until it is cut.

    While it is cut nothing is lost and nothing is said: bytes stay where they are, and go on when
    it is whole again, late.
    """

    def __init__(self, to: int) -> None:
        self.port = 0
        self._to = to
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._whole.set()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> "Tunnel":
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def cut(self) -> None:
        """From now on nothing passes, ..."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        """... until now."""
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _run(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        ending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        with suppress(OSError):
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to)
            both = self._pass(reader, other_writer), self._pass(other_reader, writer)
            try:
                await asyncio.gather(*both)
            finally:
                other_writer.close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(part)
                await writer.drain()
            await self._whole.wait()
            writer.close()

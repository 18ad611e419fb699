"""ASGI applications served by uvicorn, in the main thread or in one beside it."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fairlane.addresses import listen, url_of
from fairlane.core.errors import FairlaneError

try:
    import uvicorn
except ImportError as error:
    raise FairlaneError(
        "serving needs uvicorn, which is not installed: pip install uvicorn httptools uvloop"
    ) from error


class HttpServer(uvicorn.Server):
    """uvicorn, which says when it is ready, and by which signal it was ended.

    ready: is called once requests are taken. SIGTERM and SIGINT end it, the second one at once;
    where SIGINT was ignored from the start, as in the background of a script, it still is.
    """

    def __init__(self, app: Any, ready: Callable[[], None], **options: Any) -> None:
        config = uvicorn.Config(
            app, access_log=False, log_level="warning", server_header=False, proxy_headers=False,
            **options,
        )  # fmt: skip
        super().__init__(config)
        self.ended_by: signal.Signals | None = None
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    def end(self, number: int, frame: FrameType | None = None) -> None:
        """A signal to end."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ended_by = signal.Signals(number)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while it serves, and give them back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        if before[signal.SIGINT] is signal.SIG_IGN:  # Ctrl-C is meant for another process
            del before[signal.SIGINT]
        for number in before:
            signal.signal(number, self.end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def in_thread(
    make: Callable[[Callable[[], None]], HttpServer], host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Serve in a thread while the block runs; gives the address. Port 0: any that is free.

    make: the server, given what it is to call when it is ready.
    """
    listening = listen(host, port)
    started = threading.Event()
    server = make(started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not started.wait(0.1):
            if not thread.is_alive():
                raise FairlaneError("the server did not start; its log says why")
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()

"""The simulated engine in a process of its own, or a thread: served by uvicorn on a socket.

The address is taken before anything else happens, so that one that is in use is told at once.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fairlane.core.errors import FairlaneError
from fairlane.simulated.app import SimulatedEngine

try:
    import uvicorn
except ImportError as error:
    raise FairlaneError(
        "serving needs uvicorn, which is not installed: pip install fairlane[gateway]"
    ) from error

_BACKLOG = 2048
_GRACE_S = 3  # for clients to read how it ends


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 is any that is free. Raises FairlaneError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise FairlaneError(f"cannot listen on {host}:{port}: {why.lower()}") from None


def url_of(listening: socket.socket) -> str:
    """The address of a socket, for clients on this machine where it listens to all."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    engine: SimulatedEngine, listening: socket.socket, ready: Callable[[str], None]
) -> signal.Signals | None:
    """Serve until SIGTERM or SIGINT, which cut what is under way; says which it was.

    ready: is called with the address once requests are taken.
    """
    server = _Server(engine, lambda: ready(url_of(listening)))
    server.run(sockets=[listening])
    return server.ended_by


@contextmanager
def in_thread(engine: SimulatedEngine, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread while the block runs; gives the address. Port 0: any that is free."""
    listening = listen(host, port)
    started = threading.Event()
    server = _Server(engine, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not started.wait(0.1):
            if not thread.is_alive():
                raise FairlaneError("the simulated engine did not start")
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class _Server(uvicorn.Server):
    """uvicorn, which says when it is ready, and ends what is under way when it is told to end."""

    def __init__(self, engine: SimulatedEngine, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            engine,
            access_log=False,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self.ended_by: signal.Signals | None = None
        self._engine = engine
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end it; where SIGINT was ignored from the start, it still is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        if before[signal.SIGINT] is signal.SIG_IGN:  # Ctrl-C is meant for another process
            del before[signal.SIGINT]
        for number in before:
            signal.signal(number, self._end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ended_by = signal.Signals(number)

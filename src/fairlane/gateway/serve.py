"""Serves a gateway: everything is checked, then it listens; told to stop, it serves who is here.

The first SIGTERM or Ctrl-C drains, a second one ends it at once. With several workers this process
decides, and they pass bytes.
"""

import asyncio
import logging
import signal
import socket
from contextlib import suppress
from pathlib import Path

from fairlane.addresses import listen, url_of
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import DrainingServer, Running, collect_seldom
from fairlane.gateway.workers import Workers

try:
    from uvloop import new_event_loop
except ImportError:  # where there is none
    new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]

log = logging.getLogger("fairlane.gateway")


def serve(
    config: GatewayConfig, host: str, port: int, file: Path | None = None, workers: int = 1
) -> signal.Signals | None:
    """Serve until told to stop; says by which signal. file: where `config` was read.

    workers: processes that pass bytes; one does it in the process that decides.
    Raises FairlaneError for what cannot be, before it listens.
    """
    running = Running(config, file, f"{socket.gethostname()}:{port}" if port else None)
    found = asyncio.run(running.check())
    listening = listen(host, port)

    def ready() -> None:
        collect_seldom()
        for model, upstreams in found.items():
            log.warning("model %s: %s", model, ", ".join(upstreams))
        log.warning("ready at %s", url_of(listening))

    _take_many_connections()
    if workers > 1:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(Workers(running, listening, workers).serve(ready))
    server = DrainingServer(running, ready)
    server.run(sockets=[listening])
    return server.ended_by


def _take_many_connections() -> None:
    """Open as many files as the system allows: each client is one, and each request another."""
    with suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

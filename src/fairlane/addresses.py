"""Addresses of servers: those that are asked, and those that are listened at."""

import socket
from urllib.parse import urlsplit

from fairlane.core.errors import FairlaneError

_BACKLOG = 2048


def server_url(url: str, what: str, secret: str) -> str:
    """A server's address, without `/v1`. what: the setting it is of; secret: where keys belong.

    Raises FairlaneError for what is no such address as http://127.0.0.1:8000, or holds a password.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise FairlaneError(f"{what} takes an address such as http://HOST:8000, not {url!r}")
    if parts.username or parts.password:
        raise FairlaneError(f"{what} holds a password; {secret}")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


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

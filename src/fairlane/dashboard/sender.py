"""Whether a change comes from the page of this server, and what it asks for.

A key in a header is what no other site can send. That a browser says where a request comes from is
looked at as well: where it does, it must be this server.
"""

import json
from typing import Any

from fairlane.door.admission import Refused
from fairlane.door.answers import Receive, Scope

_MOST = 16_384  # bytes of a change


def check_origin(scope: Scope, own: str | None) -> None:
    """Raise Refused for what another site's page sends.

    own: what browsers call this server; None: as the request's Host says, over any scheme.
    """
    headers = list(scope["headers"])
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    if any(site != b"same-origin" for site in sites):
        raise _elsewhere()
    if not origins:
        return
    if own is not None:
        good = origins == [own]
    else:
        good = any(origins == [f"{scheme}://{host}"] for scheme in _SCHEMES for host in hosts[:1])
    if not good:
        raise _elsewhere()


_SCHEMES = ("http", "https")


async def read_json(scope: Scope, receive: Receive) -> Any:
    """The body. Raises Refused for what is no JSON, or too long."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if [kind.partition(b";")[0].strip().lower() for kind in kinds] != [b"application/json"]:
        raise Refused(415, "not_json", "Send it as Content-Type: application/json.")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(499, "client_closed", "The client hung up.")
        body += message.get("body", b"")
        if len(body) > _MOST:
            raise Refused(413, "too_large", f"A change may have {_MOST:,} bytes.")
        if not message.get("more_body"):
            break
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "not_json", "The body is not JSON.") from None


def _elsewhere() -> Refused:
    return Refused(403, "other_origin", "Changes are made on this server's own page alone.")

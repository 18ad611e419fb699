"""What an attacker would try with a gateway between it and an engine, byte by byte."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.door.test_attacks import END, LINE
from tests.door.town import Town
from tests.gateway.site import Site, gateway, port_of
from tests.loadgen.server import CompletionServer
from tests.talking import spoken, statuses


@pytest.fixture
def life() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    return f"Authorization: Bearer {Town(tmp_path).add('alice')}\r\n".encode()


def start(life: ExitStack, folder: Path) -> tuple[CompletionServer, Site]:
    upstream = life.enter_context(CompletionServer())
    site = life.enter_context(gateway(upstream.url, folder=folder, tenants="tenants.toml"))
    return upstream, site


# -- requests that two readers would read differently ------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 4\r\nTransfer-Encoding : chunked",
        b"Content-Length: 4\r\nTransfer-Encoding: xchunked",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked, identity",
        b"Content-Length: 4\r\nTransfer-Encoding:\x0bchunked",
        b"Content-Length: 4\r\nContent-Length: 64",
        b"Content-Length: 4, 64",
        b"Content-Length: +4",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ],
)
def test_no_request_hides_in_anothers_body(
    life: ExitStack, tmp_path: Path, key: bytes, framing: bytes
) -> None:
    upstream, site = start(life, tmp_path)
    body = b'{"model":"tiny","prompt":"a","max_tokens":1,"stream":true,"user":"u"}'
    hidden = LINE + key + b"Content-Length: %d\r\n\r\n" % len(body) + body
    sent = LINE + key + framing + b"\r\n\r\n0\r\n\r\n" + hidden + END
    assert statuses(spoken(port_of(site.url), sent)) == [400]
    assert not upstream.seen


@pytest.mark.parametrize(
    "lines",
    [
        b"KEY x: y",  # a folded line
        b"X-Other: a\r\n\tKEY",
        b"X-Other: a\nKEY",
        b"X-Other: a\rKEY",
        b"X-Other: a\x00KEY",
        b" KEY",
        b"Content-Length: 0\x00\r\nKEY",
    ],
)
def test_a_key_is_read_from_a_header_that_all_read_alike(
    life: ExitStack, tmp_path: Path, key: bytes, lines: bytes
) -> None:
    upstream, site = start(life, tmp_path)
    sent = LINE + lines.replace(b"KEY", key) + b"\r\n" + END
    first, *_ = statuses(spoken(port_of(site.url), sent))
    assert first in (400, 401)
    assert not upstream.seen

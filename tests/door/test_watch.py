"""What happened between two looks at a server."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.watch import Watch, compare


def test_shares_and_rates_are_of_the_time_in_between() -> None:
    before = {"a": {"service": 100.0, "output_tokens": 50, "admissions": 1, "wait_s": 1.0}}
    now = {
        "a": {"service": 130.0, "output_tokens": 60, "admissions": 3, "wait_s": 2.0, "queued": 4},
        "b": {"service": 10.0, "input_tokens": 4, "cached_tokens": 2},
    }
    a, b = compare(now, before, 2.0)
    assert (a.client, a.share, a.output_rate, a.wait_s, a.queued) == ("a", 0.75, 5.0, 0.5, 4)
    assert (b.client, b.share, b.input_rate, b.wait_s) == ("b", 0.25, 3.0, None)


def test_a_server_that_started_over() -> None:
    (row,) = compare({"a": {"output_tokens": 8}}, {"a": {"output_tokens": 1000}}, 1.0)
    assert row.output_rate == 8.0
    assert row.share is None


@contextmanager
def telling(told: dict[str, Any]) -> Iterator[str]:
    """A server that says this at /fairlane/tenants, as it is when it is asked."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def in_pool(first: float, second: float) -> dict[str, Any]:
    """What a server of two says: alice's service at each, and bob's at the first."""
    servers = {"s:1": {"alice": {"service": first}, "bob": {"service": 10.0}},
               "s:2": {"alice": {"service": second}}}  # fmt: skip
    clients = {"alice": {"service": first + second, "entitlement": 0.8}, "bob": {"service": 10.0}}
    cluster = {"pool": "p", "bound": 77.0, "servers": servers, "clients": clients}
    own = {"alice": {"service": first, "rejected": {"queue_full": 2}}}
    return {"policy": "vtc", "observed_difference": 5.0, "bound": None, "clients": own,
            "cluster": cluster}  # fmt: skip


def test_a_pool_is_seen_as_a_whole_or_server_by_server() -> None:
    clock = [0.0]
    told = in_pool(100.0, 200.0)
    with telling(told) as url:
        whole = Watch(url, clock=lambda: clock[-1])
        second = Watch(url, clock=lambda: clock[-1], server="s:2")
        view = whole.look()
        assert [(row.client, row.service) for row in view.rows] == [("alice", 300.0), ("bob", 10.0)]
        assert (view.rows[0].entitlement, view.rows[0].rejected) == (0.8, None)
        assert (view.observed, view.bound, view.where) == (None, 77.0, "pool p: s:1, s:2")
        assert [row.service for row in second.look().rows] == [200.0]
        for now, first in ((4.0, 110.0), (8.0, 110.0), (12.0, 140.0)):
            clock.append(now)
            told.update(in_pool(first, 200.0))
            view = whole.look()
        assert view.rows[0].share == 1.0  # in the last twelve seconds, not in the last four alone
        assert second.look().where == "pool p: s:2"
        with pytest.raises(FairlaneError, match=r"knows no server s:3: s:1, s:2"):
            Watch(url, server="s:3").look()


def test_who_shares_with_nobody_is_seen_as_ever() -> None:
    told = in_pool(100.0, 200.0)
    del told["cluster"]["servers"]["s:2"]
    with telling(told) as url:
        view = Watch(url).look()
        assert [(row.client, row.service, row.rejected) for row in view.rows] == [
            ("alice", 100.0, 2)
        ]
        assert (view.observed, view.where) == (5.0, "")

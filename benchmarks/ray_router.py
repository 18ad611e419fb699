"""Who gets how much of a Ray Serve deployment: by Serve's own router, and by a fair one.

    PYTHONPATH=. .venv-ray/bin/python -m benchmarks.ray_router

Clients a and b keep 32 and 16 requests in flight at two replicas that take four at a time each and
20 ms a token. Reported: a's tokens for each of b's; which part of the eight places was taken.
"""

import os
import time
from collections.abc import Iterable
from typing import Any

from benchmarks import parser

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a token is written to the home directory
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1")

from ray import serve

from fairlane.engines.ray import fair_router
from tests.engines.ray.inside.cluster import TOKEN_S, Flood, Model, running

WHO = "argument:tenant"
PLACES = 8
ROWS: list[tuple[str, dict[str, Any] | None, int]] = [
    ("Serve's own", None, 1),
    ("Serve's own", None, 2),
    ("vtc", {}, 1),
    ("vtc", {}, 2),
    ("vtc, a weighs 4", {"weights": {"a": 4.0}}, 1),
    ("vtc, a weighs 4", {"weights": {"a": 4.0}}, 2),
]


def measure(app: str, processes: int, tokens: int) -> tuple[float, float]:
    """What a gets for each that b gets, and the part of the places that was taken."""
    flood = Flood(app, processes)
    flood.next(400)  # all places are taken by now
    begin = time.perf_counter()
    found = flood.next(tokens)
    taken = found.total() * TOKEN_S / (time.perf_counter() - begin) / PLACES
    assert flood.end() == []
    return found["a"] / max(1, found["b"]), taken


def rows(tokens: int, chosen: list[tuple[str, dict[str, Any] | None, int]]) -> Iterable[str]:
    """A row for each of those chosen; a cluster runs."""
    deployment: Any = Model
    for number, (name, options, processes) in enumerate(chosen):
        model = deployment.bind(reports=options is not None)
        if options is not None:
            config = fair_router("vtc", who=WHO, **options)
            model = deployment.options(request_router_config=config).bind()
        app = f"bench-{number}"
        serve.run(model, name=app, route_prefix=f"/{app}")
        share, taken = measure(app, processes, tokens)
        serve.delete(app)
        yield f"| {name} | {processes} | {share:.2f} | {taken:.2f} |"


def main() -> None:
    """Print the table."""
    quick = parser(__doc__).parse_args().quick
    with running(8190):
        print("| router | processes that send | a : b | places taken |\n|---|---|---|---|")
        for row in rows(300 if quick else 5000, ROWS):
            print(row, flush=True)


if __name__ == "__main__":
    main()

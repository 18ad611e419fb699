"""What it costs the gateway to tell of each request: an access log, traces of 1 % and of all.

One gateway of each kind stands before the same engine, which makes bytes and no tokens; all are
measured in each round, one after the other, in another order each time. CPU is user and system time
of the gateway's process, those of its threads that write and send included, per request of a
chat that is answered whole; ratios are medians over the rounds, beside the gateway that tells
nothing. The collector takes what it is sent, and reads none of it. With `--baseline FOLDER` the
packages of another version are measured as well (its `src`), which tells nothing either.

`python -m benchmarks.tracing`; `--rounds`, `--seconds`, `--baseline`.
"""

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks import chosen, fake_engine, parser
from benchmarks.gateway_load import closed_loop
from benchmarks.gateway_peers import Gateway, fairlane

CONNECTIONS = 32
NOTHING = "tells nothing"
BASELINE = "the other version"


@contextmanager
def collector() -> Iterator[str]:
    """A collector of traces; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def kinds(traces: str) -> Mapping[str, str]:
    """Tables of each gateway's configuration, by what it tells."""
    traced = f'[tracing]\nendpoint = "{traces}"\nsample = '
    return {
        NOTHING: "",
        "access log": '[log]\naccess = "access.log"\n',
        "traces of 1 %": f"{traced}0.01\n",
        "traces of all": f"{traced}1.0\n",
    }


def measured(rounds: int, seconds: float, baseline: Path | None) -> dict[str, list[float]]:
    """CPU of a request in each round, in microseconds."""
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        engine = life.enter_context(fake_engine.server(20.0))
        gateways: dict[str, Gateway] = {}
        for i, (name, more) in enumerate(kinds(life.enter_context(collector())).items()):
            site = fairlane(engine, folder / str(i), window=CONNECTIONS, more=more)
            gateways[name] = life.enter_context(site)
        if baseline is not None:
            site = fairlane(engine, folder / "other", window=CONNECTIONS, source=baseline)
            gateways[BASELINE] = life.enter_context(site)
        found: dict[str, list[float]] = {name: [] for name in gateways}
        for gateway in gateways.values():
            uvloop.run(closed_loop(gateway, CONNECTIONS, seconds))
        for number in range(rounds):
            names = list(gateways)
            turned = names[number % len(names) :] + names[: number % len(names)]
            for name in turned:
                told = uvloop.run(closed_loop(gateways[name], CONNECTIONS, seconds))
                assert not told["failed"]
                found[name].append(told["request_us"])
        return found


def main() -> None:
    """Measure what was asked for."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options.add_argument("--baseline", type=Path, help="the src folder of another version")
    asked = chosen(options, rounds=1, seconds=0.5)
    found = measured(asked.rounds, asked.seconds, asked.baseline)
    print("| gateway | CPU a request (µs) | of the one that tells nothing |")
    print("|---|---:|---:|")
    for name, rows in found.items():
        ratio = median(one / other for one, other in zip(rows, found[NOTHING], strict=True))
        print(f"| {name} | {median(rows):,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

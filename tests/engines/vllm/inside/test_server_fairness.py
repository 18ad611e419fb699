"""Who is served on a real server, over real sockets: shares, weights, and a flood."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pytest
from serving import CONTENDED, Server, Streamed, as_http, guarded, running, write_model

from fairlane.door.tenants import Tenant, hash_key, new_key
from tests.gateway.crowd import OUTPUT, Crowd, asking

NAMES = ("alice", "bob", "carol", "dave", "flood", "light")
KEYS = {name: new_key() for name in NAMES}
WEIGHTS = {"dave": 3.0}
SLOTS = 8  # requests that run at a time
FLOOD = Path(__file__).parent / "flood.py"
LONG, SHORT = 16, 4  # tokens of a flood's requests, and of a light client's


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = write_model(tmp_path_factory.mktemp("model"), **CONTENDED)
    return made


@pytest.fixture(scope="module")
def fair(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tenants = [Tenant(name, WEIGHTS.get(name, 1.0), keys=(hash_key(KEYS[name]),)) for name in NAMES]
    with guarded(model, tmp_path_factory.mktemp("fair"), tenants) as server:
        yield server


@pytest.fixture(scope="module")
def stock(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same without the plugin: what is asserted of fair servers must not hold."""
    with running(model, tmp_path_factory.mktemp("stock"), ()) as server:
        yield server


def shares(server: Server, workers: dict[str, int], requests: int) -> Counter[str]:
    """Tokens of each client while all have requests waiting, after a start."""
    with Crowd(server, {name: (KEYS[name], count) for name, count in workers.items()}) as crowd:
        crowd.until(4 * SLOTS * OUTPUT)
        return crowd.until(requests * OUTPUT)


def test_twice_the_load_gives_no_larger_share(fair: Server) -> None:
    served = shares(fair, {"alice": 4 * SLOTS, "bob": 2 * SLOTS}, requests=300)
    assert served["alice"] / served["bob"] == pytest.approx(1.0, rel=0.1)


def test_weights_divide_a_servers_time(fair: Server) -> None:
    served = shares(fair, {"carol": 2 * SLOTS, "dave": 4 * SLOTS}, requests=480)
    assert served["dave"] / served["carol"] == pytest.approx(3.0, rel=0.1)


def test_vllm_alone_serves_whoever_sends_more(stock: Server) -> None:
    served = shares(stock, {"alice": 4 * SLOTS, "bob": 2 * SLOTS}, requests=160)
    assert served["alice"] / served["bob"] == pytest.approx(2.0, rel=0.25)


class Flood:
    """Ten times as many requests as the server runs at a time, always; see flood.py.

    spans: of each of its answers, the seconds from its first token to its last, once it is over.
    """

    def __init__(self, server: Server) -> None:
        self.spans: list[float] = []
        host, port = server.address
        self._process = subprocess.Popen(
            [sys.executable, FLOOD, host, str(port), str(10 * SLOTS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> "Flood":
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        body = asking(LONG) | {"stream": True}
        request = as_http(KEYS["flood"], json.dumps(body), "Connection: close")
        self._process.stdin.write(request)
        self._process.stdin.close()
        assert self._process.stdout.readline() == b"flooding\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with self._process as ended:
            assert ended.stdout is not None
            self.spans = json.loads(ended.stdout.read())


def send(server: Server, name: str, tokens: int) -> Streamed:
    answer: Streamed = server.stream(asking(tokens), KEYS[name])
    return answer


def p99(values: list[float]) -> float:
    return sorted(values)[ceil(0.99 * len(values)) - 1]


def delay_by_flood(server: Server, requests: int) -> tuple[float, float]:
    """What a flood adds to a light client's p99 time to a first token; and an admission wave.

    A wave is the longest time that one of the flood's requests spent in the batch: after it, every
    slot has been given up once. The step that makes the first token is one of them.
    """
    alone = p99([send(server, "light", SHORT).ttft for _ in range(requests)])
    with Flood(server) as flood:
        beside = p99([send(server, "light", SHORT).ttft for _ in range(requests)])
    return beside - alone, max(flood.spans) * LONG / (LONG - 1)


def test_a_flood_delays_a_light_client_by_one_wave_at_most(fair: Server) -> None:
    delay, wave = delay_by_flood(fair, requests=100)
    assert delay <= wave


def test_under_vllm_alone_a_light_client_waits_for_the_whole_flood(stock: Server) -> None:
    delay, wave = delay_by_flood(stock, requests=5)
    assert delay > 2 * wave

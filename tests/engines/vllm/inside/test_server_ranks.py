"""One real server with two engines (data parallelism): they share by themselves, without a hub.

Alice, of weight 4, floods both engines; bob, of weight 1, floods one. Both are operators, who alone
may say which engine serves them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from serving import CONTENDED, Server, guarded, write_model

from fairlane.door.tenants import Role, Tenant, hash_key, new_key
from tests.gateway.crowd import Crowd, all_until, asking
from tests.processes import wait_until

WEIGHTS = {"alice": 4.0, "bob": 1.0, "carol": 1.0}
KEYS = {name: new_key() for name in WEIGHTS}
SLOTS = 8
RANK = "X-data-parallel-rank"
ENDED = re.compile(r'^vllm:request_success_total\{.*engine="(\d)".*\} ([\d.e+]+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ranks")
    model = write_model(folder / "model", **CONTENDED)
    tenants = [
        Tenant(name, weight, keys=(hash_key(KEYS[name]),),
               role=Role.CLIENT if name == "carol" else Role.OPERATOR)
        for name, weight in WEIGHTS.items()
    ]  # fmt: skip
    options = ("--data-parallel-size", "2", "--num-gpu-blocks-override", "48")
    with guarded(model, folder, tenants, options) as started:
        yield started


class Engine:
    """One engine of the server, by its header."""

    def __init__(self, server: Server, rank: int) -> None:
        self._server = server
        self._headers = {RANK: str(rank)}

    def request(self, *arguments: Any, **options: Any) -> Any:
        """As Server.request."""
        return self._server.request(*arguments, headers=self._headers, **options)


def ended(server: Server) -> Counter[str]:
    """How many requests each engine has served."""
    _, _, text = server.request("GET", "/metrics", key=KEYS["alice"])
    found: Counter[str] = Counter()
    for engine, count in ENDED.findall(text):
        found[engine] += int(float(count))
    return found


def served_by(server: Server, name: str, rank: int, requests: int = 8) -> Counter[str]:
    """How many of a client's requests with that header each engine served."""
    before = ended(server)
    engine = Engine(server, rank)
    for _ in range(requests):
        assert engine.request("POST", "/v1/completions", asking(2), key=KEYS[name])[0] == 200
    all_told = before.total() + requests
    wait_until(lambda: ended(server).total(), lambda seen: seen >= all_told, "they are counted")
    return ended(server) - before


def test_operators_choose_an_engine_and_clients_do_not(server: Server) -> None:
    assert served_by(server, "bob", 0) == {"0": 8}
    assert served_by(server, "bob", 1) == {"1": 8}
    assert all(served_by(server, "carol", 1)[engine] > 0 for engine in "01")


def output(server: Server) -> Counter[str]:
    """Tokens that each client got."""
    clients = server.clients(KEYS["alice"])
    return Counter({name: client.get("output_tokens", 0) for name, client in clients.items()})


def longer(tokens: int) -> dict[str, Any]:
    """Long requests: those who ask must not be what is short of time."""
    return asking(3 * tokens)


def test_weights_divide_what_all_engines_give(server: Server) -> None:
    waiting = 4 * SLOTS
    first = {name: (KEYS[name], waiting) for name in ("alice", "bob")}
    with ExitStack() as life:
        crowds = [
            life.enter_context(Crowd(Engine(server, rank), names, body=longer))
            for rank, names in ((0, first), (1, {"alice": (KEYS["alice"], waiting)}))
        ]

        all_until(crowds, 5_000)
        seen = []
        for _ in range(6):  # what a busy machine held up is made good
            before = output(server)
            all_until(crowds, 20_000)
            seen.append(output(server) - before)
            if seen[-1]["alice"] / seen[-1]["bob"] == pytest.approx(4.0, rel=0.1):
                break
        else:
            pytest.fail(f"in six looks {seen}")
    told = [server.request("GET", "/fairlane/tenants", key=KEYS["bob"])[2] for _ in range(8)]
    assert all('"schedulers":2' in text.replace(" ", "") for text in told)  # any API server's
    assert server.log.read_text().count("2 engines share what they charge") == 1

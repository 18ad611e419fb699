"""Real servers with two engines (data parallelism), which share by themselves, without a hub.

One of the two servers has it switched off; they start together, since that takes long.

Alice, of weight 4, floods both engines; bob, of weight 1, floods one. Both are operators, who alone
may say which engine serves them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dividing
import pytest
from dividing import FAIR, UNFAIR, UNFAIR_MEASURED, WAITING, WARM_UP, due, longer
from serving import (
    CONTENDED,
    PLUGIN,
    Server,
    configured,
    output,
    start,
    stop,
    told,
    wait_for,
    write_model,
)

from fairlane.door.tenants import Role, Tenant, hash_key, new_key
from tests.gateway.crowd import Crowd, all_until, asking
from tests.processes import wait_until

WEIGHTS = {**dividing.WEIGHTS, "carol": 1.0}
KEYS = {name: new_key() for name in WEIGHTS}
RANK = "X-data-parallel-rank"
ENDED = re.compile(r'^vllm:request_success_total\{.*engine="(\d)".*\} ([\d.e+]+)$', re.MULTILINE)


def start_in(folder: Path, model: Path, configuration: str, *more: str) -> Server:
    """A server of two engines, which does not answer yet."""
    folder.mkdir()
    tenants = [
        Tenant(name, weight, keys=(hash_key(KEYS[name]),),
               role=Role.CLIENT if name == "carol" else Role.OPERATOR)
        for name, weight in WEIGHTS.items()
    ]  # fmt: skip
    options = (*PLUGIN, "--data-parallel-size", "2", "--num-gpu-blocks-override", "48", *more)
    log = folder / "server.log"
    process, url = start(model, options, log, configured(folder, tenants, configuration))
    return Server(process, url, log)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """One whose engines share, and one whose engines do not."""
    folder = tmp_path_factory.mktemp("ranks")
    model = write_model(folder / "model", **CONTENDED)
    with ExitStack() as life:
        sharing = start_in(folder / "sharing", model, "")
        life.callback(stop, sharing.process)
        apart = start_in(
            folder / "apart", model, "[cluster]\nranks = false\n", "--api-server-count", "1"
        )
        life.callback(stop, apart.process)
        wait_for(sharing)
        wait_for(apart)
        yield sharing, apart


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


def test_operators_choose_an_engine_and_clients_do_not(servers: tuple[Server, Server]) -> None:
    server, _ = servers
    assert served_by(server, "bob", 0) == {"0": 8}
    assert served_by(server, "bob", 1) == {"1": 8}
    assert all(served_by(server, "carol", 1)[engine] > 0 for engine in "01")


def measured(server: Server, *tokens: int) -> float:
    """The part of his due that bob gets of both engines. tokens: see dividing.due."""
    of_each = {name: (KEYS[name], WAITING) for name in dividing.WEIGHTS}
    with ExitStack() as life:
        crowds = [
            life.enter_context(Crowd(Engine(server, rank), names, body=longer))
            for rank, names in ((0, of_each), (1, {"alice": of_each["alice"]}))
        ]
        all_until(crowds, WARM_UP)
        return float(due(crowds, lambda: output(told(server, KEYS["alice"])), *tokens))


def test_weights_divide_what_all_engines_give(servers: tuple[Server, Server]) -> None:
    server, _ = servers
    assert measured(server) == FAIR
    answers = [server.request("GET", "/fairlane/tenants", key=KEYS["bob"])[2] for _ in range(8)]
    assert all('"schedulers":2' in text.replace(" ", "") for text in answers)  # any API server's
    assert server.log.read_text().count("2 engines share what they charge") == 1


def test_where_it_is_switched_off_each_engine_is_fair_by_itself(
    servers: tuple[Server, Server],
) -> None:
    """What is asserted of engines that share does not hold here: it is 9 to 1, not 4 to 1."""
    _, server = servers
    assert measured(server, UNFAIR_MEASURED) < UNFAIR
    assert "cluster" not in told(server, KEYS["bob"])
    assert server.log.read_text().count("2 engines share nothing: [cluster] ranks = false") == 1

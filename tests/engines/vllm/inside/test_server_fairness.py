"""Who is served on a real server, over real sockets, and that accounts survive what clients do."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import PLUGIN, Server, running, write_model

from fairlane.engines.tenant_file import change_tenants
from fairlane.engines.tenants import Role, Tenant, Tenants, hash_key, new_key

NAMES = ("alice", "bob", "carol", "dave", "root")
KEYS = {name: new_key() for name in NAMES}
WEIGHTS = {"dave": 3.0}
OUTPUT, SLOTS = 32, 8  # tokens of a request; requests that run at a time
COUNT = 1000  # prompts of one call
# Large enough for its steps to cost more than what happens around them.
MODEL = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
         "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = write_model(tmp_path_factory.mktemp("model"), **MODEL)
    return made


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    tenants = {
        name: Tenant(
            name,
            keys=(hash_key(KEYS[name]),),
            weight=WEIGHTS.get(name, 1.0),
            role=Role.OPERATOR if name == "root" else Role.CLIENT,
        )
        for name in NAMES
    }
    change_tenants(folder / "tenants.toml", lambda _: Tenants(tenants))
    (folder / "fairlane.toml").write_text('tenants = "tenants.toml"\n')
    with running(model, folder, PLUGIN, {"FAIRLANE_CONFIG": str(folder / "fairlane.toml")}) as made:
        yield made


def ask(server: Server, name: str, tokens: int = OUTPUT, **more: Any) -> int:
    """One completion; its status."""
    body = {"model": "tiny", "prompt": "w1 w2 w3", "max_tokens": tokens, "ignore_eos": True, **more}
    status: int = server.request("POST", "/v1/completions", body, key=KEYS[name])[0]
    return status


class Crowd:
    """Clients that send their next request as soon as one is answered, so many of each."""

    def __init__(self, server: Server, workers: dict[str, int]) -> None:
        self.answered: Counter[str] = Counter()
        self._server = server
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(name,))
            for name, count in workers.items()
            for _ in range(count)
        ]

    def _work(self, name: str) -> None:
        while not self._over.is_set():
            assert ask(self._server, name) == 200
            self.answered[name] += 1

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def until(self, answers: int) -> Counter[str]:
        """Wait for so many answers more; whose they were."""
        before = self.answered.copy()
        while (self.answered - before).total() < answers:
            time.sleep(0.05)
        return self.answered - before


def shares(server: Server, workers: dict[str, int], answers: int = 160) -> Counter[str]:
    """Answers to each client while all have requests waiting, after a start."""
    with Crowd(server, workers) as crowd:
        crowd.until(4 * SLOTS)
        return crowd.until(answers)


def clients(server: Server) -> dict[str, Any]:
    answer = server.request("GET", "/fairlane/tenants", key=KEYS["root"])[2]
    found: dict[str, Any] = json.loads(answer)["clients"]
    return found


# Equal requests end together, so clients take turns by whole batches: one batch more or less of 50
# is 8 % of a ratio of 1 and, of 60, 9 % of a ratio of 3.


def test_twice_the_load_gives_no_larger_share(server: Server) -> None:
    served = shares(server, {"alice": 4 * SLOTS, "bob": 2 * SLOTS}, answers=50 * SLOTS)
    assert served["alice"] / served["bob"] == pytest.approx(1.0, rel=0.1)


def test_weights_divide_a_servers_time(server: Server) -> None:
    served = shares(server, {"carol": 2 * SLOTS, "dave": 4 * SLOTS}, answers=60 * SLOTS)
    assert served["dave"] / served["carol"] == pytest.approx(3.0, rel=0.2)


def test_a_client_that_is_killed_leaves_exact_accounts(server: Server) -> None:
    """A thousand requests wait when the process that sent them is killed."""
    assert ask(server, "bob") == 200
    before = clients(server)["bob"]
    prompts = [[5 + i % 400] for i in range(COUNT)]
    body = {"model": "tiny", "prompt": prompts, "max_tokens": 200, "stream": True}
    program = (
        "import sys, urllib.request as u\n"
        "r = u.Request(sys.argv[1], sys.stdin.buffer.read(), {'Content-Type': 'application/json',"
        " 'Authorization': 'Bearer ' + sys.argv[2]})\n"
        "a = u.urlopen(r)\n"
        "while a.read(1): pass\n"
    )
    url = server.url + "/v1/completions"
    sender = subprocess.Popen(
        [sys.executable, "-c", program, url, KEYS["bob"]], stdin=subprocess.PIPE
    )
    assert sender.stdin is not None
    sender.stdin.write(json.dumps(body).encode())
    sender.stdin.close()
    wait_until(lambda: clients(server)["bob"]["queued"] > COUNT // 2, "they wait", server)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    wait_until(lambda: not at_work(clients(server)["bob"]), "nothing is left of them", server)
    after = clients(server)["bob"]
    assert after["arrivals"] - before["arrivals"] == COUNT
    assert after["finished"] + after["aborted"] == after["arrivals"]
    tokens = after["input_tokens"] + 0.1 * after["cached_tokens"] + 2 * after["output_tokens"]
    assert after["service"] == pytest.approx(tokens, abs=0.1)
    assert ask(server, "alice") == 200


def at_work(client: dict[str, Any]) -> int:
    requests: int = client["queued"] + client["running"]
    return requests


def wait_until(condition: Callable[[], bool], what: str, server: Server) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"not seen: {what}; {clients(server)}"
        time.sleep(0.2)


def test_vllm_alone_serves_whoever_sends_more(model: Path, tmp_path: Path) -> None:
    """The same check fails without the plugin, so it can fail."""
    with running(model, tmp_path, ()) as server:
        served = shares(server, {"alice": 4 * SLOTS, "bob": 2 * SLOTS})
    assert served["alice"] / served["bob"] == pytest.approx(2.0, rel=0.25)

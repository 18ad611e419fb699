"""A gateway for a while among people as they are: what it charged is in the end what engines did.

Two engines, one behind a wire that cuts connections; clients that read to the end, that hang up at
any moment, that ask for what cannot be; tenants that come, change and go. FAIRLANE_SOAK_S says for
how many seconds: by default twenty, a minute where CI=true.
"""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairlane.door.tenants import Role, new_key
from fairlane.records import RequestRecord
from tests.engines.identity.site import Town
from tests.gateway.raw import BadWire
from tests.gateway.site import Direct, command, data_of, until
from tests.processes import PATIENCE_S, memory
from tests.simulated.engines import running

SECONDS = float(os.environ.get("FAIRLANE_SOAK_S") or (30 if os.environ.get("CI") == "true" else 10))
STEADY = ("ada", "ben", "cleo")
HASTY = ("dora", "emil")
CONFIG = """
tenants = "tenants.toml"
[upstreams.wired]
url = "{}"
[upstreams.other]
url = "{}"
"""


class Soak:
    """What clients do, and what they got.

    prompts, answers: tokens, by client; of the hasty those that were asked for, and that came.
    good: requests that were served, by client. bad: statuses of others.
    """

    def __init__(self, site: Direct, town: Town) -> None:
        self.site = site
        self.town = town
        self.over = time.monotonic() + SECONDS
        self.prompts: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.good: Counter[str] = Counter()
        self.bad: Counter[int] = Counter()
        self._lock = threading.Lock()

    def _note(self, name: str, *, prompt: int = 0, answer: int = 0, good: int = 0) -> None:
        with self._lock:
            self.prompts[name] += prompt
            self.answers[name] += answer
            self.good[name] += good

    def steadily(self, name: str, number: int) -> None:
        """Requests of every shape, read to their ends."""
        dice = random.Random(f"{name} {number}")
        while time.monotonic() < self.over:
            body, prompt, tokens = asking(dice, name)
            status, _, text = self.site.request(
                "POST", "/v1/completions", body, self.town.keys[name]
            )
            if status != 200:
                self.bad[status] += 1
                continue
            assert not body["stream"] or data_of(text)[-1] == "[DONE]"
            self._note(name, prompt=prompt, answer=tokens, good=1)

    def hastily(self, name: str, number: int) -> None:
        """Requests that are given up: before an answer, in its middle, or just at its end."""
        dice = random.Random(f"{name} {number}")
        headers = {"Authorization": f"Bearer {self.town.keys[name]}"}
        while time.monotonic() < self.over:
            body, prompt, _ = asking(dice, name, n=1, stream=True)
            self._note(name, prompt=prompt)
            connection = self.site.connect()
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            if dice.random() < 0.7:
                answer = connection.getresponse()
                lines = [answer.readline() for _ in range(dice.randrange(40))]
                self._note(name, answer=sum(b'"choices":[{' in line for line in lines))
                answer.close()
            connection.close()

    def wrongly(self) -> None:
        """Requests that are refused: here, or by an engine."""
        dice = random.Random(7)
        key = self.town.keys["ada"]
        while time.monotonic() < self.over:
            body: Any = {"model": "tiny", "prompt": [1] * 5000, "max_tokens": 10}
            kind = dice.randrange(4)
            if kind == 1:
                body = b'{"model": "tiny", '
            elif kind == 2:
                body["model"] = "huge"
            sent = new_key() if kind == 3 else key
            status, _, text = self.site.request("POST", "/v1/completions", body, sent)
            assert status in ((400, 502), (400,), (404,), (401,))[kind], text

    def change(self) -> None:
        """Tenants come and go; weights change."""
        dice = random.Random(8)
        while time.monotonic() < self.over:
            guest = f"guest{dice.randrange(3)}"
            key = self.town.add(guest, weight=1.0 + dice.random())
            body, _, _ = asking(dice, guest)
            assert self.site.request("POST", "/v1/completions", body, key)[0] in (200, 502)
            self.town.add(guest, with_key=False)
            assert self.site.request("POST", "/v1/completions", body, key)[0] == 401


def asking(
    dice: random.Random, user: str, n: int | None = None, stream: bool | None = None
) -> tuple[dict[str, Any], int, int]:
    """A body, and how many tokens its prompt and its answers have."""
    prompt, tokens = [1] * dice.randint(1, 60), dice.randint(1, 60)
    n = dice.randint(1, 2) if n is None else n
    stream = dice.random() < 0.7 if stream is None else stream
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "n": n, "user": user}
    body |= {"stream": stream, "ignore_eos": True}
    if stream and dice.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    return body, len(prompt), n * tokens


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def all_memory(pid: int) -> int:
    """Bytes that they hold."""
    return sum(map(memory, family(pid)))


def descriptors(pid: int) -> int:
    """How many files and sockets they have open."""
    return sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family(pid))


def told(soak: Soak, path: str, root: str) -> Any:
    return json.loads(soak.site.request("GET", path, key=root)[2])


def work(soak: Soak, pid: int) -> tuple[int, int]:
    """Let all do what they do; the gateway's memory after a third of it, and at the end."""
    doing: list[tuple[Any, ...]] = [(soak.steadily, name, i) for name in STEADY for i in range(4)]
    doing += [(soak.hastily, name, i) for name in HASTY for i in range(4)]
    doing += [(soak.wrongly,), (soak.change,)]
    with ThreadPoolExecutor(len(doing)) as pool:
        begun = [pool.submit(*one) for one in doing]
        until(lambda: time.monotonic() > soak.over - 2 / 3 * SECONDS)
        early = all_memory(pid)
        for one in begun:
            one.result(SECONDS + PATIENCE_S)
    return early, all_memory(pid)


def check_charges(soak: Soak, clients: Any, records: list[RequestRecord]) -> None:
    """Who reads to the end pays for exactly that; who hangs up, for what came until then."""
    prompts, made, finished = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        prompts[record.client] += record.prompt_len
        made[record.client] += record.output_len
        finished[record.client] += record.output_len * (record.outcome == "finished")
    for name in STEADY:
        row = clients[name]
        assert (row["input_tokens"], row["output_tokens"]) == (
            soak.prompts[name], soak.answers[name]
        )  # fmt: skip
        assert row["output_tokens"] == finished[name]  # by the engines' own records
        assert row["finished"] == soak.good[name] > 0
    for name in HASTY:
        row = clients[name]
        # an engine makes tokens that are on their way when it hears of it, and a request that was
        # on its way to the engine has its prompt's price
        assert soak.answers[name] <= row["output_tokens"] <= made[name]
        assert prompts[name] <= row["input_tokens"] <= soak.prompts[name]
        assert row["aborted"] > 0
    for row in clients.values():
        assert row["finished"] + row["aborted"] == row["arrivals"]
        assert row["queued"] == row["running"] == 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost_and_all_is_charged(tmp_path: Path, workers: int) -> None:
    town = Town(tmp_path)
    for name in (*STEADY, *HASTY):
        town.add(name)
    root = town.add("root", role=Role.OPERATOR)
    config = tmp_path / "fairlane.toml"
    shape: dict[str, Any] = {"model": "tiny", "speed": 20.0, "max_num_seqs": 8}
    with ExitStack() as life:
        engines = [life.enter_context(running(**shape)) for _ in range(2)]
        wire = life.enter_context(BadWire(engines[0].url, 0.1))
        config.write_text(CONFIG.format(wire.url, engines[1].url))
        process, url = life.enter_context(
            command("--config", str(config), "--workers", str(workers))
        )
        said: list[str] = []
        assert process.stderr is not None
        log = threading.Thread(target=said.extend, args=(process.stderr,))
        log.start()
        soak = Soak(Direct(url), town)
        memory(process.pid)  # skips where it cannot be told
        before = descriptors(process.pid)
        early, late = work(soak, process.pid)

        def idle() -> bool:
            lanes = told(soak, "/fairlane/upstreams", root)["upstreams"]
            return not any(lane["in_flight"] or lane["waiting_here"] for lane in lanes)

        until(idle)
        check_charges(
            soak,
            told(soak, "/fairlane/tenants", root)["clients"],
            [record for engine in engines for record in engine.ended],
        )
        assert set(soak.bad) <= {502}  # three tries, each of which was cut
        assert wire.cut > 0
        assert late - early < workers * (8 << 20)
        # connections to engines are kept for a while, as many as requests ever ran at once
        assert descriptors(process.pid) - before <= 8 * len(engines) * shape["max_num_seqs"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        log.join(PATIENCE_S)
    usual = ("cannot be reached", "is back", "draining: 0 requests")
    assert all(any(words in line for words in usual) for line in said), said

"""The demonstration that one watches: two tenants at a running gateway, whose scheduler changes.

A simulated engine and a gateway run in threads of this process, and a third one sends the load over
real sockets: `flood` has many requests under way, `light` has a few, and each sends the next one as
soon as one is answered. So the queue is as long whatever the machine does, and what the scheduler
makes of it is seen everywhere: in order of arrival `light` waits behind all of `flood`'s requests;
by VTC it is next whenever it has had less.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Self

from fairlane.core.errors import FairlaneError
from fairlane.door import tenant_admin
from fairlane.door.watch import View, Watch
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.http_client import Client
from fairlane.gateway.run import DrainingServer, Running
from fairlane.http_server import in_thread
from fairlane.simulated import SimulatedEngine, serve

PROFILE = "a10g-llama-2-7b"
SPEED = 2.0  # times faster than real time
WINDOW = 8  # requests that the engine is given at once
UNDER_WAY = {"flood": 60, "light": 3}  # requests of each tenant
SCHEDULERS = ("fcfs", "vtc")
_ENOUGH = 3  # first tokens of each tenant, until an act may end
_PROMPT, _OUTPUT = (32, 96), (16, 48)  # tokens
_PATIENCE_S = 600.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Got:
    """What a tenant got in one act. first_token_s, worst_s: of requests sent in it; None for none.

    share: of the service. requests: those with a first token.
    """

    requests: int
    first_token_s: float | None
    worst_s: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Act:
    """One scheduler's part: how long it took, and what each tenant got."""

    scheduler: str
    seconds: float
    tenants: dict[str, Got]


class Show:
    """See the module. Used as a context manager: everything runs until its end.

    port: of the gateway, 0 takes a free one. url: its address.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._life = ExitStack()
        self._over = threading.Event()
        self._lit = threading.Event()  # whether `light` sends
        self._heard: list[tuple[str, float, float]] = []  # tenant, sent at, first token after
        self._problem: BaseException | None = None
        self._scheduler = SCHEDULERS[0]
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._life.close()

    def switch(self) -> None:
        """The next scheduler takes over, with all who wait."""
        self._scheduler = SCHEDULERS[1]
        done = asyncio.run_coroutine_threadsafe(self._change(), self._loop)
        done.result(_PATIENCE_S)
        self._begin()

    def act(self) -> Act:
        """What the tenants got since the scheduler took over."""
        seconds = time.monotonic() - self._begun
        grown = {name: now - self._served.get(name, 0.0) for name, now in self._services().items()}
        total = sum(grown.values())
        heard = list(self._heard)
        tenants = {}
        for name in UNDER_WAY:
            waits = [w for who, sent, w in heard if who == name and sent >= self._begun]
            typical, worst = (median(waits), max(waits)) if waits else (None, None)
            share = grown.get(name, 0.0) / total if total else None
            tenants[name] = Got(len(waits), typical, worst, share)
        return Act(self._scheduler, seconds, tenants)

    def look(self) -> View:
        """Who gets what since the last look."""
        return self._watch.look()

    def enough(self) -> bool:
        """Whether there is something to tell of this act. Raises what the load met."""
        if self._problem is not None:
            raise FairlaneError(f"the load ended: {self._problem}") from self._problem
        sent = [who for who, sent, _ in list(self._heard) if sent >= self._begun]
        return all(sent.count(name) >= _ENOUGH for name in UNDER_WAY)

    # -- inside ------------------------------------------------------------------------------

    def _start(self) -> None:
        folder = Path(self._life.enter_context(TemporaryDirectory()))
        keys = {
            name: tenant_admin.add_tenant(folder / "tenants.toml", name, tenant_admin.Settings())
            for name in UNDER_WAY
        }
        engine = SimulatedEngine(PROFILE, SPEED, model=PROFILE)
        upstream = {"url": self._life.enter_context(serve.in_thread(engine)), "window": WINDOW}
        document = {
            "tenants": "tenants.toml", "scheduler": {"name": self._scheduler},
            "identity": {"anonymous": "visitor"}, "metrics": {"public": True},
            "upstreams": {"engine": upstream},
        }  # fmt: skip
        self._gateway = Running(GatewayConfig.parse(document, folder))

        def make(ready: Callable[[], None]) -> DrainingServer:
            def noting() -> None:
                self._loop = asyncio.get_running_loop()
                ready()

            return DrainingServer(self._gateway, noting)

        self.url = self._life.enter_context(in_thread(make, port=self._port))
        load = threading.Thread(target=self._send, args=(keys,), daemon=True)
        load.start()
        self._life.callback(load.join)
        self._life.callback(self._over.set)  # first of all
        while self._gateway.live < UNDER_WAY["flood"]:
            if self._problem is not None:
                raise FairlaneError(f"the load ended: {self._problem}") from self._problem
            time.sleep(_LOOK_S)
        self._lit.set()
        self._begin()

    def _begin(self) -> None:
        self._watch = Watch(self.url)
        self._served = self._services()
        self._begun = time.monotonic()

    def _services(self) -> dict[str, float]:
        """What each tenant was served since the start."""
        return {row.client: row.service for row in Watch(self.url).look().rows}

    async def _change(self) -> None:
        self._gateway.change_scheduler(self._scheduler)

    def _send(self, keys: dict[str, str]) -> None:
        """The load, in a thread of its own."""
        try:
            asyncio.run(self._send_all(keys))
        except BaseException as error:
            self._problem = error

    async def _send_all(self, keys: dict[str, str]) -> None:
        client = Client(self.url, headers=[], connect_s=_PATIENCE_S, silence_s=_PATIENCE_S)
        async with asyncio.TaskGroup() as group:
            senders = [
                group.create_task(self._send_on(client, name, keys[name], number))
                for name, count in UNDER_WAY.items()
                for number in range(count)
            ]
            while not self._over.is_set() and not any(sender.done() for sender in senders):
                await asyncio.sleep(_LOOK_S)
            for sender in senders:
                sender.cancel()
        await client.close()

    async def _send_on(self, client: Client, name: str, key: str, number: int) -> None:
        """One request after the other."""
        dice = random.Random(f"{name} {number}")
        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {key}".encode()),
        ]
        while name == "light" and not self._lit.is_set():
            await asyncio.sleep(_LOOK_S)
        while True:
            asked = {
                "model": PROFILE, "stream": True, "max_tokens": dice.randint(*_OUTPUT),
                "ignore_eos": True, "prompt": " ".join(["word"] * dice.randint(*_PROMPT)),
            }  # fmt: skip
            sent, first = time.monotonic(), True
            async with await client.request(
                "POST", "/v1/completions", headers, json.dumps(asked).encode()
            ) as answer:
                if answer.status != 200:
                    raise FairlaneError(f"the gateway answers {answer.status}")
                async for part in answer.parts:
                    if first and b"data:" in part:  # else it hears that it waits
                        self._heard.append((name, sent, time.monotonic() - sent))
                        first = False

"""WebSockets, as realtime routes are: one caller for all that is asked on a connection."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairlane.door.answers import Message, Receive, Scope, Send
from fairlane.door.config import Configuration
from fairlane.engines.vllm.middleware import Identity
from tests.engines.identity.site import Engine, Town


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    town.add("alice")
    town.add("bob")
    return town


class Realtime:
    """An application that asks its engine once for each message, and says for whom it did."""

    def __init__(self, engine: Engine) -> None:
        self.state = SimpleNamespace(engine_client=engine)
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await asyncio.create_task(self._ask(message["text"]))
            await send({"type": "websocket.send", "text": str(self._engine.clients[-1])})

    async def _ask(self, name: str) -> None:
        params = SimpleNamespace(extra_args={"fairlane_client": "bob"})
        request = SimpleNamespace(
            request_id=name, sampling_params=params, pooling_params=None, prompt_token_ids=[0],
            lora_request=None,
        )  # fmt: skip
        await self._engine.engine_core.add_request_async(request)
        await self._engine.finished(name)


def talk(
    town: Town, headers: dict[str, str], says: list[str], path: str = "/v1/realtime"
) -> tuple[list[Message], Identity]:
    """All that the server sends on a connection, and the middleware afterwards."""
    engine = Engine()
    app = Realtime(engine)
    identity = Identity(app, Configuration(access=town.access()))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    def receiving(*messages: dict[str, Any]) -> Receive:
        left = list(messages)

        async def receive() -> Message:
            return left.pop(0)

        return receive

    async def run() -> None:
        await identity(
            {"type": "lifespan", "app": app}, receiving({"type": "lifespan.startup"}), send
        )
        sent.clear()
        scope: dict[str, Any] = {"type": "websocket", "path": path, "query_string": b""}
        scope["headers"] = [(k.encode(), v.encode()) for k, v in headers.items()]
        asked = [{"type": "websocket.receive", "text": text} for text in says]
        around = ({"type": "websocket.connect"}, {"type": "websocket.disconnect"})
        await identity(scope, receiving(around[0], *asked, around[1]), send)

    asyncio.run(run())
    return sent, identity


def test_all_requests_of_a_connection_are_of_its_keys_holder(town: Town) -> None:
    headers = {"authorization": f"Bearer {town.keys['alice']}", "x-fairlane-client": "bob"}
    sent, identity = talk(town, headers, ["one", "two", "three"])
    assert [message.get("text") for message in sent] == [None, "alice", "alice", "alice"]
    assert identity._door.admission.waiting == {}
    assert identity._door.turns.inside("alice") == 0


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_a_connection_without_a_right_key_is_not_opened(
    town: Town, headers: dict[str, str]
) -> None:
    [message] = talk(town, headers, ["one"])[0]
    assert (message["type"], message["code"]) == ("websocket.close", 1008)


def test_a_websocket_that_is_not_listed_is_for_operators(town: Town) -> None:
    headers = {"authorization": f"Bearer {town.keys['alice']}"}
    [message] = talk(town, headers, ["one"], path="/v1/new-realtime")[0]
    assert message["type"] == "websocket.close"


def test_a_connection_counts_as_one_request_of_a_limit(town: Town) -> None:
    key = town.add("small", requests_per_minute=1)
    sent, identity = talk(town, {"authorization": f"Bearer {key}"}, ["one", "two"])
    assert [message.get("text") for message in sent] == [None, "small", "small"]
    left = identity._door.admission.rates.headers("small", identity._door.clock())
    assert left["x-ratelimit-remaining-requests"] == "0"

"""A hub whose server is killed, stands still, is not ours or has lost something."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from fairlane.cluster.hub import HubError, Pull
from fairlane.cluster.member import Member
from fairlane.cluster.redis import RedisHub
from fairlane.core.errors import FairlaneError
from tests.certificates import self_signed
from tests.cluster.servers import PASSWORD, Server


@asynccontextmanager
async def hub_at(url: str, password: str | None = PASSWORD, **more: Any) -> AsyncIterator[RedisHub]:
    hub = RedisHub(url, pool="p", password=password, **more)
    try:
        yield hub
    finally:
        await hub.close()


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(server.url, password=PASSWORD)
    try:
        yield client
    finally:
        await client.aclose()


async def swap(hub: RedisHub, member: Member, **charges: float) -> dict[str, float]:
    return member.heard(await hub.exchange(member.begin(charges)))


async def joined(hub: RedisHub) -> tuple[Member, Member]:
    members = Member("m"), Member("n")
    for member in members:
        await swap(hub, member)
    return members


def test_what_was_not_answered_is_heard_after_a_restart(server: Server) -> None:
    async def run() -> None:
        async with hub_at(server.url) as hub:
            first, second = await joined(hub)
            await swap(hub, first, a=4.0)
            assert await swap(hub, second) == {"a": 4.0}
            server.kill()
            for _ in range(3):
                with pytest.raises(HubError, match=f"^the hub at 127.0.0.1:{server.port}: "):
                    await swap(hub, first, a=1.0)
            server.start()
            assert await swap(hub, first) == {}
            assert await swap(hub, second, b=2.0) == {}
            await swap(hub, first)
            assert await swap(hub, second) == {"a": 3.0}
            assert await swap(hub, first) == {"b": 2.0}

    asyncio.run(run())


def test_a_server_that_stands_still_is_given_up_and_taken_up_again(server: Server) -> None:
    async def run() -> None:
        async with hub_at(server.url, timeout_s=0.2) as hub:
            first, second = await joined(hub)
            server.halt()
            with pytest.raises(HubError, match=r"(?i)timeout"):
                await swap(hub, first, a=1.0)
            server.resume()
            heard: dict[str, float] = {}
            while not heard:
                with suppress(HubError):  # while the machine is busy
                    await swap(hub, first)
                    heard = await swap(hub, second)
            assert heard == {"a": 1.0}

    asyncio.run(run())


def test_who_gives_up_an_exchange_reads_no_answer_of_another(server: Server) -> None:
    async def run() -> None:
        async with hub_at(server.url) as hub:
            first, second = await joined(hub)
            for grains in range(1, 20):
                push = first.begin({"a": 1.0})
                given_up = asyncio.create_task(hub.exchange(push))
                for _ in range(grains % 5):
                    await asyncio.sleep(0)
                given_up.cancel()
                with suppress(asyncio.CancelledError):
                    await given_up
                answer = await hub.exchange(push)
                assert isinstance(answer, Pull)
                first.heard(answer)
                assert await swap(hub, second) == {"a": 1.0}
                assert await hub.posts() == {}

    asyncio.run(run())


@pytest.mark.parametrize("command", ["SCRIPT FLUSH", "CLIENT KILL TYPE normal SKIPME yes"])
def test_a_forgotten_script_and_a_closed_connection_are_not_noticed(
    server: Server, command: str
) -> None:
    async def run() -> None:
        async with hub_at(server.url) as hub, client_of(server) as operator:
            first, second = await joined(hub)
            await operator.execute_command(*command.split())
            await swap(hub, first, a=1.0)
            await operator.execute_command(*command.split())
            assert await swap(hub, second) == {"a": 1.0}

    asyncio.run(run())


@pytest.mark.parametrize("key", ["state", "origins", "seen", "sums", "born", "changed"])
def test_a_server_that_evicts_one_key_begins_a_new_era(server: Server, key: str) -> None:
    async def run() -> None:
        async with hub_at(server.url) as hub, client_of(server) as operator:
            first, second = await joined(hub)
            await swap(hub, first, a=1.0)
            await swap(hub, second)
            assert await operator.delete(f"fairlane:{{default:p}}:{key}") == 1
            for _ in range(2):
                await swap(hub, first)
                await swap(hub, second)
            await swap(hub, first, a=2.0)
            assert await swap(hub, second) == {"a": 2.0}

    asyncio.run(run())


def test_pools_and_namespaces_keep_apart(server: Server) -> None:
    async def run() -> None:
        names = [("p", "s"), ("q", "s"), ("p", "t"), ("p:q", "s"), ("{}:ü", "s")]
        hubs = [RedisHub(server.url, pool=p, namespace=n, password=PASSWORD) for p, n in names]
        for hub in hubs:
            member = Member("m")
            await swap(hub, member)
            await swap(hub, member, a=1.0)
            await hub.post("m", "here", 60.0)
        for hub in hubs:
            pull = await hub.exchange(Member("n").begin({}))
            assert pull.members == 2
            assert {client: total.grains for client, total in pull.sums.items()} == {"a": 2**20}
            await hub.close()
        async with client_of(server) as operator:
            keys = [key.decode() for key in await operator.keys("*")]
        assert len(keys) == 8 * len(names)
        tags = {key[key.index("{") : key.index("}")] for key in keys}
        assert len(tags) == len(names)  # all keys of a pool in one slot
        assert all(key.startswith("fairlane:{") for key in keys)

    asyncio.run(run())


@pytest.mark.parametrize("password", ["not this one", None])
def test_a_wrong_password_is_said_and_not_shown(server: Server, password: str | None) -> None:
    async def run() -> None:
        async with hub_at(server.url, password) as hub:
            with pytest.raises(HubError) as caught:
                await swap(hub, Member("m"))
        said = str(caught.value)
        assert "\n" not in said
        assert "not this one" not in said
        assert any(word in said.lower() for word in ("password", "auth"))

    asyncio.run(run())


def test_a_password_may_be_in_the_url(server: Server) -> None:
    async def run() -> None:
        url = server.url.replace("//", "//default:wohl%20bekomm%27s@")
        async with hub_at(url, None) as hub:
            await joined(hub)
            server.kill()
            with pytest.raises(HubError) as caught:
                await swap(hub, Member("o"))
            assert "bekomm" not in str(caught.value)

    asyncio.run(run())


def test_what_is_no_hub_is_said(server: Server) -> None:
    async def run() -> None:
        async with hub_at(server.url) as hub, client_of(server) as operator:
            await joined(hub)
            await operator.set("fairlane:{default:p}:sums", "mine")
            with pytest.raises(HubError, match="WRONGTYPE"):
                await swap(hub, Member("m"))
        async with await asyncio.start_server(talks_http, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with hub_at(f"redis://127.0.0.1:{port}") as hub:
                with pytest.raises(HubError, match=f"the hub at 127.0.0.1:{port}"):
                    await swap(hub, Member("m"))

    asyncio.run(run())


async def talks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:6379", "redis://h:port"])
def test_an_address_of_nothing_is_refused(url: str) -> None:
    with pytest.raises(FairlaneError, match="not an address of a hub"):
        RedisHub(url, pool="p")


def test_tls_is_spoken_and_certificates_are_looked_at(server: Server, tmp_path: Path) -> None:
    """Through a relay, as the server that a package brings speaks none."""
    certificate, key = self_signed(tmp_path, "IP:127.0.0.1")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pour(reader, plain_writer), pour(plain_reader, writer))

    async def run() -> None:
        async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=ours) as listening:
            url = f"rediss://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            async with hub_at(url, ca=str(certificate)) as hub:
                first, second = await joined(hub)
                await swap(hub, first, a=1.0)
                assert await swap(hub, second) == {"a": 1.0}
            async with hub_at(url) as hub:
                with pytest.raises(HubError, match=r"(?i)certificate"):
                    await swap(hub, Member("o"))

    asyncio.run(run())


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(2**16):
            writer.write(some)
            await writer.drain()
        writer.close()

"""An engine is asked for its load where it tells it, and afterwards there first."""

import asyncio

import pytest
from aiohttp import web

from fairlane.gateway.signals import Load
from fairlane.gateway.upstream import Address, Upstream

METRICS = "{0}_running{1} 5\n{0}_waiting{1} 7\n"
TRTLLM = METRICS.format("trtllm_num_requests", '{pid="1"}')
VLLM = METRICS.format("vllm:num_requests", '{engine="0"}')
STALE = "sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\n"
SGLANG = '{"loads": [{"num_running_reqs": 5, "num_waiting_reqs": 7}]}'


PATHS = ["/v1/loads", "/prometheus/metrics", "/metrics"]


@pytest.mark.parametrize(
    ("routes", "asked"),
    [
        ({"/metrics": VLLM}, [*PATHS, "/metrics"]),
        ({"/v1/loads": SGLANG, "/metrics": STALE}, ["/v1/loads"] * 2),
        (
            {"/metrics": "[]", "/prometheus/metrics": TRTLLM},
            ["/v1/loads", *["/prometheus/metrics"] * 2],
        ),
    ],
)
def test_every_engine_is_asked_where_it_tells_its_load(
    routes: dict[str, str], asked: list[str]
) -> None:
    found, paths = asyncio.run(ask_twice(routes))
    assert found == [Load(5, 7)] * 2
    assert paths == asked


def test_an_engine_that_does_not_tell_is_asked_everywhere() -> None:
    found, paths = asyncio.run(ask_twice({}))
    assert found == [None, None]
    assert paths == PATHS * 2


async def ask_twice(routes: dict[str, str]) -> tuple[list[Load | None], list[str]]:
    """What an upstream with these answers tells of its load, and the paths that were asked."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        text = routes.get(request.path)
        return web.Response(status=404) if text is None else web.Response(text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    upstream = Upstream(Address(f"http://{host}:{port}"))
    try:
        return [await upstream.load(), await upstream.load()], paths
    finally:
        await upstream.close()
        await runner.cleanup()

"""A hub on a real server: the same as the model, whatever happens to the server."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings

from fairlane.cluster.hub import MOST_GRAINS, Hub, Pull, Push, Since, new_name
from fairlane.cluster.member import Member
from fairlane.cluster.memory import HubState
from fairlane.cluster.redis import RedisHub
from tests.cluster.carrying import STEPS, Pool, Step
from tests.cluster.servers import PASSWORD, Server

T = TypeVar("T")


@contextmanager
def hub_on(server: Server, **more: Any) -> Iterator[Callable[[Callable[[RedisHub], Any]], Any]]:
    """A fresh hub, and a way to await what it does."""
    with asyncio.Runner() as runner:
        hub = RedisHub(server.url, pool=new_name(), password=PASSWORD, **more)

        async def done(ask: Callable[[RedisHub], Coroutine[Any, Any, T]]) -> T:
            return await ask(hub)

        try:
            yield lambda ask: runner.run(done(ask))
        finally:
            runner.run(hub.close())


class Twice:
    """Asks the model and the real one; their answers are the same, but for the names of eras."""

    def __init__(self, ask: Callable[[Callable[[RedisHub], Any]], Any], most_clients: int) -> None:
        self._ask = ask
        self._names: dict[str, str] = {"no era": "no era"}  # the model's, by the real one's
        self.model = HubState(most_clients)

    def __call__(self, push: Push) -> Pull:
        real: Pull = self._ask(lambda hub: hub.exchange(push))
        since = push.since and Since(self._names[push.since.era], push.since.version)
        model = self.model.exchange(Push(push.origin, push.seq, push.charges, since), 0.0)
        assert self._names.setdefault(real.era, model.era) == model.era
        assert len(set(self._names.values())) == len(self._names)
        same = (model.seq, model.version, model.applied, model.members)
        assert (real.seq, real.version, real.applied, real.members) == same
        assert dict(real.sums) == dict(model.sums)
        return real


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_it_answers_as_the_model_does(any_server: Server, steps: list[Step]) -> None:
    for most_clients in (100, 1):
        with hub_on(any_server, most_clients=most_clients) as ask:
            pool = Pool([Member(name) for name in "mno"], Twice(ask, most_clients))
            pool.run(steps)
            if most_clients > 1:
                pool.check()


def odd_pushes() -> Iterator[Push]:
    """Pushes that no member sends; `era` stands for the era of the last answer."""
    yield Push("m", 1, {"a": 5}, None)
    yield Push(
        "m", 2, {"a": 5, "b\x00 \n{}": -7, "": 1, "\ud800": 2, "é" * 999: 3}, Since("era", 0)
    )
    yield Push("m", 3, {}, Since("era", 0))
    yield Push("m", 4, {"a": 2**62}, Since("era", 1))
    yield Push("m", 5, {"a": 2**62, "b": 1}, Since("era", 1))  # more than a sum holds
    yield Push("m", 6, {"a": 1}, Since("era", 0))
    yield Push("m", 9, {"a": 1}, Since("era", 0))  # three are missing
    yield Push("m", 10, {"a": 1}, Since("era", 0))
    yield Push("m", 10, {"a": 1}, Since("era", 0))
    yield Push("m", 8, {"a": 1}, Since("era", 0))
    yield Push("n", 4, {"a": 1}, Since("era", 0))  # an origin that it does not know
    yield Push("m", 11, {"a": 1}, Since("no era", 0))
    yield Push("m", 12, {"a": -MOST_GRAINS + 1}, Since("era", 0))
    yield Push("m", 13, {"a": -1}, Since("era", 0))


def test_it_answers_odd_pushes_as_the_model_does(any_server: Server) -> None:
    with hub_on(any_server) as ask:
        both = Twice(ask, 100)
        era = "no era"
        for push in odd_pushes():
            since = push.since
            if since is not None and since.era == "era":
                since = Since(era, since.version)
            era = both(Push(push.origin, push.seq, push.charges, since)).era


def test_what_members_tell_is_there_until_it_expires(any_server: Server) -> None:
    async def run(hub: Hub) -> None:
        assert await hub.posts() == {}
        await hub.post("m", "one", 600.0)
        await hub.post("n", "\ud800 two\n", 600.0)
        await hub.post("m", "three", 600.0)
        assert await hub.posts() == {"m": "three", "n": "\ud800 two\n"}
        await hub.post("m", "four", 0.001)
        while (await hub.posts()).keys() != {"n"}:
            await asyncio.sleep(0.01)

    with hub_on(any_server) as ask:
        ask(run)

"""A hub in an actor: the same as the model, whatever happens to the actor."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray
from hypothesis import Phase, given, settings

from fairlane.cluster.config import Cluster
from fairlane.cluster.hub import Hub, HubError, Since, new_name
from fairlane.cluster.limits import Arrival, Ask
from fairlane.cluster.member import Member
from fairlane.cluster.ray import NAMESPACE, RayHub
from tests.cluster.carrying import Pool, Step, steps
from tests.cluster.test_redis import Twice, odd_pushes
from tests.processes import wait_until

T = TypeVar("T")
Asking = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(scope="module", autouse=True)
def cluster(request: pytest.FixtureRequest) -> None:
    """There is none before, and then there is."""
    if not ray.is_initialized():
        with pytest.raises(HubError, match="this process is not part of a Ray cluster"):
            asyncio.run(RayHub(pool="none yet").posts())
    request.getfixturevalue("port")


@contextmanager
def fresh(**more: Any) -> Iterator[tuple[RayHub, Asking]]:
    """A hub of a new pool, and a way to await what it does."""
    hub = RayHub(pool=new_name(), **more)
    with asyncio.Runner() as runner:

        async def done(ask: Callable[[Hub], Coroutine[Any, Any, T]]) -> T:
            return await ask(hub)

        yield hub, lambda ask: runner.run(done(ask))
    ray.kill(actor(hub))


def actor(hub: RayHub) -> Any:
    return ray.get_actor(hub.name, namespace=NAMESPACE)


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])
@given(happens=steps())
def test_it_answers_as_the_model_does(happens: list[Step]) -> None:
    with fresh(most_clients=100) as (_, ask):
        pool = Pool([Member(name) for name in "mno"], Twice(ask, 100))
        pool.run(happens)
        pool.check()


def test_it_answers_odd_pushes_as_the_model_does() -> None:
    with fresh() as (_, ask):
        both = Twice(ask, 100)
        era = "no era"
        for push in odd_pushes():
            since = push.since
            if since is not None and since.era == "era":
                push = replace(push, since=Since(era, since.version))
            era = both(push).era


def test_limits_hold_over_all_who_ask() -> None:
    arrival = Arrival((), "bob", 2)
    with fresh() as (_, ask):
        ask(lambda hub: hub.limit(Ask("m", 1, waiting={"bob": 2})))
        answer = ask(lambda hub: hub.limit(Ask("n", 1, arrivals=[arrival])))
        assert answer.servers == 2
        assert answer.verdicts[0].rejection.reason == "queue_full"
        ask(lambda hub: hub.limit(Ask("m", 2, waiting={"bob": 1})))
        answer = ask(lambda hub: hub.limit(Ask("n", 2, arrivals=[arrival])))
        assert answer.verdicts[0].rejection is None


def test_members_find_each_other_by_pool_and_namespace() -> None:
    async def run() -> None:
        written = {"hub": "ray", "pool": new_name()}
        one, two = (Cluster.parse(written, Path()).connect() for _ in range(2))
        other = Cluster.parse({**written, "namespace": "other"}, Path()).connect()
        assert one is not None
        assert two is not None
        assert other is not None
        await one.post("m", "hello", 600.0)
        assert await two.posts() == {"m": "hello"}
        assert await other.posts() == {}

    asyncio.run(run())


@pytest.mark.parametrize("for_good", [False, True])
def test_one_that_dies_is_missed_and_then_begins_a_new_era(for_good: bool) -> None:
    with fresh() as (hub, ask):
        mine, theirs = Member("m"), Member("n")

        def exchange(member: Member, charges: dict[str, float]) -> dict[str, float]:
            pull = ask(lambda hub: hub.exchange(member.begin(charges)))
            eras.append(pull.era)
            return member.heard(pull)

        eras: list[str] = []
        exchange(mine, {})
        exchange(theirs, {})
        exchange(mine, {"alice": 7.0})
        assert exchange(theirs, {}) == {"alice": 7.0}
        ray.kill(actor(hub), no_restart=for_good)
        heard: dict[str, float] = {}

        def again() -> int:
            try:
                exchange(mine, {})
                heard.update(exchange(theirs, {}))
            except HubError:
                return 0
            return len(set(eras))

        wait_until(again, lambda different: different == 2, "it is there again")
        exchange(mine, {"alice": 5.0})
        heard.update(exchange(theirs, {}))
        assert heard == {"alice": 5.0}

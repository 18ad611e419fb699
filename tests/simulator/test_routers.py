"""Routers: where requests go, the same way each time, and whom they let meet."""

from collections import Counter

import pytest

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.simulator.routers import ROUTERS, Reach, Router, check_prefixes, make_router
from fairlane.workloads.trace import TracedRequest

N = 8
EVEN = [0] * N
EVERYWHERE = ("round-robin", "random", "least-tokens")


def requests(client: str, count: int = 1000, prefix: str = "") -> list[TracedRequest]:
    return [TracedRequest(i, client, 0.0, 10, 10, prefix=prefix) for i in range(count)]


def visits(route: Router, sent: list[TracedRequest], among: range = range(N)) -> Counter[int]:
    """How many requests go to each replica; what is under way ends never."""
    tokens, found = list(EVEN), Counter[int]()
    for request in sent:
        replica = route(request, among, tokens)
        tokens[replica] += 20
        found[replica] += 1
    return found


@pytest.mark.parametrize("name", ROUTERS)
def test_a_seed_is_a_way(name: str) -> None:
    sent = requests("a") + requests("b")
    first, second = (visits(make_router(name, 3), sent) for _ in range(2))
    assert first == second
    assert set(first) <= set(range(N))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_some_bring_everyone_everywhere_about_as_often(name: str) -> None:
    counts = visits(make_router(name, 0), requests("a"))
    assert len(counts) == N
    assert max(counts.values()) <= 1.3 * min(counts.values())


def test_least_tokens_looks_at_what_is_under_way() -> None:
    route = make_router("least-tokens", 0)
    (request,) = requests("a", 1)
    assert route(request, range(4), [30, 20, 10, 40]) == 2
    assert route(request, range(2), [30, 20, 10, 40]) == 1


def test_skewed_gives_every_client_a_favourite_of_its_own() -> None:
    route = make_router("skewed", 0)
    counts = {client: visits(route, requests(client, 4000)) for client in "abcdefgh"}
    favourites = {count.most_common(1)[0][0] for count in counts.values()}
    assert len(favourites) > 1
    for count in counts.values():
        assert len(count) == N
        most, second = (times for _, times in count.most_common(2))
        assert 1.6 * second < most < 2.5 * second


def test_sticky_keeps_clients_and_spreads_them() -> None:
    route = make_router("sticky", 0)
    homes = [visits(route, requests(f"client {i}", 5)) for i in range(200)]
    assert all(len(home) == 1 for home in homes)
    assert len({replica for home in homes for replica in home}) == N


def test_prefix_keeps_prompts_together_whoever_sends_them() -> None:
    route = make_router("prefix", 0)
    shared = visits(route, requests("a", prefix="p") + requests("b", prefix="p"))
    assert len(shared) == 1
    others = visits(route, [TracedRequest(i, "a", 0.0, 10, 10) for i in range(200)])
    assert len(others) == N


def test_prefix_needs_prefixes() -> None:
    check_prefixes(requests("a", 1, prefix="p"))
    with pytest.raises(FairlaneError, match="router prefix: no request says"):
        check_prefixes(requests("a"))


@pytest.mark.parametrize(("part", "size"), [(0.25, 2), (0.5, 4), (0.01, 1), (0.99, 7)])
def test_a_client_reaches_its_part_and_others_all(part: float, size: int) -> None:
    reach = Reach(N, {"a": part}, seed=0)
    assert len(reach.of("a")) == size
    assert set(reach.of("a")) <= set(range(N))
    assert reach.of("b") == range(N)
    for name in EVERYWHERE:
        counts = visits(make_router(name, 0), requests("a"), reach.of("a"))
        assert set(counts) == set(reach.of("a"))


def test_an_unknown_router_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown router 'stiky': did you mean sticky"):
        make_router("stiky", 0)

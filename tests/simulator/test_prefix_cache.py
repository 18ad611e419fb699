"""The prefix cache: whole blocks, shared by name, least recently used first out."""

import pytest

from fairlane.core.types import Request
from fairlane.policies.registry import create_policy
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.profile import get_profile
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import ServerConfig
from fairlane.workloads.trace import TracedRequest


def traced(i: int, prefix: str, prefix_len: int, prompt_len: int = 100) -> TracedRequest:
    return TracedRequest(i, "a", 5.0 * i, prompt_len, 2, prefix, prefix_len)


def cached(cache: PrefixCache, i: int) -> int:
    return cache.cached_tokens(Request(i, "a", 100))


def test_whole_blocks_of_a_kept_prefix_are_found() -> None:
    requests = [traced(0, "p", 70), traced(1, "p", 40), traced(2, "q", 70), traced(3, "", 0)]
    cache = PrefixCache(requests, tokens=160)
    assert cached(cache, 1) == 0
    cache.keep(0)
    assert [cached(cache, i) for i in range(4)] == [64, 32, 0, 0]


def test_the_blocks_used_longest_ago_are_evicted() -> None:
    requests = [traced(0, "p", 64), traced(1, "q", 64), traced(2, "r", 64)]
    cache = PrefixCache(requests, tokens=128)
    for i in (0, 1, 0, 2):  # p is used again, so q is the oldest
        cache.keep(i)
    assert [cached(cache, i) for i in range(3)] == [64, 0, 64]


def test_a_prefix_that_does_not_fit_keeps_its_beginning() -> None:
    requests = [traced(0, "p", 96)]
    cache = PrefixCache(requests, tokens=48)
    cache.keep(0)
    assert cached(cache, 0) == 48


def test_one_token_is_always_prefilled() -> None:
    requests = [traced(0, "p", 96, prompt_len=96)]
    cache = PrefixCache(requests, tokens=960)
    cache.keep(0)
    assert cached(cache, 0) == 95


def test_a_cached_prefix_shortens_the_prefill() -> None:
    profile = get_profile("a10g-llama-2-7b")
    requests = [traced(0, "p", 960, prompt_len=1000), traced(1, "p", 960, prompt_len=1000)]
    cache = PrefixCache(requests, tokens=2000)
    run = simulate(requests, create_policy("vtc"), ServerConfig(profile=profile), cache=cache)
    first, second = (record.ttft_s for record in run.records)
    assert first is not None
    assert second is not None
    saved = profile.prefill(1002) - profile.prefill(1002 - 960)
    assert first - second == pytest.approx(saved, abs=0.01)  # idle polls are 10 ms apart

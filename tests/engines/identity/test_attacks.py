"""What an attacker would try at the door, beyond forged fields."""

import statistics
import time
from hashlib import sha256

import pytest

from fairlane.door.tenants import Tenant, Tenants, hash_key, new_key
from fairlane.engines.vllm.routes import Audience, audience, route_path


def test_a_key_that_is_almost_right_takes_no_longer_to_refuse() -> None:
    key = new_key()
    tenants = Tenants(
        {f"t{i}": Tenant(f"t{i}", keys=(hash_key(new_key()),)) for i in range(1000)}
        | {"a": Tenant("a", keys=(hash_key(key),))}
    )
    almost, far = (key[:-1] + "!").encode(), b"?" * len(key)

    def timed(wrong: bytes) -> float:
        start = time.thread_time()
        for _ in range(200):
            assert tenants.find(wrong) is None
        return time.thread_time() - start

    rounds = [(timed(almost), timed(far)) for _ in range(60)]
    ratio = statistics.median(a for a, _ in rounds) / statistics.median(b for _, b in rounds)
    assert 0.8 < ratio < 1.25


def test_a_huge_key_is_not_even_hashed() -> None:
    tenants = Tenants({"a": Tenant("a", keys=(hash_key(new_key()),))})
    huge = b"x" * 50_000_000
    start = time.thread_time()
    sha256(huge)
    hashed = time.thread_time()
    for _ in range(100):
        assert tenants.find(huge) is None
    assert time.thread_time() - hashed < (hashed - start) / 5


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/v1/completions", "", "/v1/completions"),
        ("/llm/v1/completions", "/llm", "/v1/completions"),
        ("/llm/sleep", "/llm", "/sleep"),
        ("/llmx/sleep", "/llm", "/llmx/sleep"),
        ("/sleep", "/llm", "/sleep"),
        ("/llm", "/llm", ""),
    ],
)
def test_the_path_is_the_one_that_the_router_will_see(path: str, root: str, seen: str) -> None:
    assert route_path({"path": path, "root_path": root}) == seen


def test_what_begins_like_a_route_of_clients_is_none() -> None:
    for path in ("/v1/completionsx", "/v1/completions/x", "/v1/load_lora_adapter", "", "/"):
        assert audience(path) is Audience.OPERATORS
    assert audience("/v1/responses/resp_1/cancel") is Audience.CLIENTS
    assert audience("/metrics/anything") is Audience.METRICS

"""Latency profiles: what their numbers mean, and what a wrong file is told."""

from pathlib import Path

import pytest

from fairlane.core.errors import UnknownNameError
from fairlane.simulator.profile import (
    Profile,
    ProfileError,
    get_profile,
    profile_names,
    read_profile,
)

PROFILE = """
summary = "a test"
memory_tokens = 100
[decode]
constant_ms = 10.0
per_request_us = 100.0
per_context_token_us = 2.0
per_longest_token_us = 1.0
floor_ms = 11.0
jumps_ms = [[2, 5.0]]
[prefill]
tile_tokens = 32
staircase_ms = [1.0, 2.0, 4.0, 6.0, 8.0]
"""


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = tmp_path / "test.toml"
    path.write_text(PROFILE)
    return read_profile(path)


def test_decode_adds_batch_context_and_longest(profile: Profile) -> None:
    assert profile.decode(2, 1000, 600) == pytest.approx(0.010 + 0.0002 + 0.002 + 0.0006)
    assert profile.decode(3, 1000, 600) == pytest.approx(0.010 + 0.0003 + 0.005 + 0.002 + 0.0006)


def test_decode_is_never_faster_than_the_floor(profile: Profile) -> None:
    assert profile.decode(1, 10, 10) == 0.011


@pytest.mark.parametrize(("tokens", "ms"), [(1, 2), (32, 2), (33, 4), (128, 8), (160, 10)])
def test_prefill_is_a_staircase_that_goes_on(profile: Profile, tokens: int, ms: float) -> None:
    assert profile.prefill(tokens) == pytest.approx(ms / 1e3)


@pytest.mark.parametrize("name", profile_names())
def test_built_in_profiles_are_sane_and_say_where_they_come_from(name: str) -> None:
    profile = get_profile(name)
    decodes = [profile.decode(n, 300 * n, 500) for n in range(1, 200)]
    prefills = [profile.prefill(tokens) for tokens in range(1, 12_000, 7)]
    assert 0.004 < min(decodes) < max(decodes) < 0.2
    assert prefills == sorted(prefills)
    assert profile.provenance["source"]
    assert profile.provenance["fitted_on"]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean a10g-llama-2-7b.*known: a100"):
        get_profile("a10g-llama2-7b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("summary = ", "not a latency profile"),
        ("summary = 'x'", "decode"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "wrong.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProfileError, match=complaint) as raised:
        read_profile(path)
    assert str(path) in str(raised.value)

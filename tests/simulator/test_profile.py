"""Latency profiles: what their numbers mean, and what a wrong file is told."""

import re
from importlib.resources import files
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
        ("summary = 'x'", "no memory_tokens"),
        ("loop = ['vllm']", r"loop must be slora or vllm, not \['vllm'\]"),
        ("\xff", "not a latency profile"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "wrong.toml"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ProfileError, match=complaint) as raised:
        read_profile(path)
    assert str(path) in str(raised.value)


VLLM = (files("fairlane.simulator") / "profiles" / "h200-llama-2-7b.toml").read_text()


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        (PROFILE, "memory_tokens = 'x'", "memory_tokens must be a valid integer, not 'x'"),
        (PROFILE, "memory_tokens = nan", "memory_tokens must be a valid integer, not nan"),
        (PROFILE, "memory_tokens = true", "memory_tokens must be a valid integer, not True"),
        (PROFILE, "summary = 5", "summary must be a valid string, not 5"),
        (PROFILE, "constant_ms = nan", "decode.constant_ms must be a finite number, not nan"),
        (PROFILE, "constant_ms = -10", "decode.constant_ms must be greater than or equal to 0"),
        (PROFILE, "per_context_token_us = inf", "decode.per_context_token_us must be a finite"),
        (PROFILE, "jumps_ms = [[2]]", "decode.jumps_ms.0 List"),
        (PROFILE, "floor_ms = 1.0\nfloor_us = 1.0", "unknown key decode.floor_us"),
        (PROFILE, "tile_tokens = 0", "prefill.tile_tokens must be greater than or equal to 1"),
        (PROFILE, "staircase_ms = [1.0]", "prefill.staircase_ms List should have at least 3"),
        (PROFILE, "tile_tokens = 32\npoints_ms = [[0, 1], [9, 2]]", "prefill needs staircase_ms"),
        (VLLM, "max_num_seqs = 0", "scheduler.max_num_seqs must be greater than or equal to 1"),
        (VLLM, "block_size = 0", "scheduler.block_size must be greater than or equal to 1"),
        (VLLM, "async_scheduling = 'no'", "scheduler.async_scheduling must be a valid boolean"),
        (VLLM, "arrive_ms = [6.0, 2.0]", "client.arrive_ms must be the least first"),
        (VLLM, "decode_ms = [[8, 5.0], [1, 4.0]]", "gpu.decode_ms must have its points in order"),
        (VLLM, "step = 2.0", "noise.step must be less than or equal to 1, not 2.0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(
    tmp_path: Path, text: str, line: str, complaint: str
) -> None:
    key = line.partition(" = ")[0]
    path = tmp_path / "wrong.toml"
    path.write_text(re.sub(rf"(?m)^{key} = .*$", line, text, count=1))
    with pytest.raises(
        ProfileError, match=re.escape(f"{path}: not a latency profile: {complaint}")
    ):
        read_profile(path)
